"""A run's output files on their way out of the store, and the result object."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cwltool.pathmapper import PathMapper
from cwltool.process import relocateOutputs
from cwltool.stdfsaccess import StdFsAccess

from toilfn.context import current
from toilfn.cwl.resources import LIGHT
from toilfn.cwl.values import Places, local_path, objects
from toilfn.filing import transfer
from toilfn.task import task

__all__ = ["deliver"]


@task(name="deliver", version="1", local=True, **LIGHT)
def deliver(outputs: dict[str, Any], outdir: str, shared: str, nonce: str) -> dict[str, Any]:
    """Copy output files to a directory or URL; gives the result object, whose locations are there.

    What is in the directory `shared` is moved. `nonce` makes each run deliver anew.
    """
    target = transfer.local_path(outdir)
    staged = target or current().temp_dir / "outputs"
    staged.mkdir(parents=True, exist_ok=True)
    local = Places().local(outputs)
    result: dict[str, Any] = dict(
        relocateOutputs(
            local, str(staged), {shared} if shared else set(), "move", StdFsAccess(""), path_mapper=PathMapper
        )
    )
    for found in objects(result):
        _finish(found, staged, None if target else outdir)
    return result


def _finish(found: dict[str, Any], staged: Path, url: str | None) -> None:
    """Make a copied file the user's own; with a URL, send it there."""
    path = local_path(found["location"])
    if path is None:
        return
    for name in ("dirname", "nameroot", "nameext"):
        found.pop(name, None)
    if not path.is_dir():
        path.chmod(path.stat().st_mode | 0o200)
    if url is None:
        found["path"] = str(path)
        return
    found.pop("path", None)
    found["location"] = transfer.below(url, os.fspath(path.relative_to(staged)))
    if path.is_file():
        transfer.send(path, found["location"], executable=os.access(path, os.X_OK), link=False)
