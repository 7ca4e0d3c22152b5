"""The fake systems as fixtures: their commands come first on PATH while a test runs."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest

from tests.servers.machine import wait_for


def system(name: str) -> Iterator[Path]:
    """Be the body of a fixture. Yields the spool folder; each call of a command is a line of ``calls`` beside it."""
    module = importlib.import_module(f"tests.servers.fake.{name}")
    folder = Path(tempfile.mkdtemp(prefix=f"fake-{name}-"))
    spool = folder / "spool"
    spool.mkdir()
    (folder / "bin").mkdir()
    for command in module.COMMANDS:
        file = folder / "bin" / command
        call = [sys.executable, "-S", "-E", str(Path(__file__).with_name("start.py")), name, command]
        file.write_text(f'#!/bin/sh\necho {command} >> {folder}/calls\nexec {shlex.join(call)} "$@"\n')
        file.chmod(0o755)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
            patch.setenv("TOILFN_FAKE_SPOOL", str(spool))
            patch.setenv("DASK_TOILFN__HTCONDOR__BINDINGS", "False")  # they would look for a real schedd
            with dask.config.set({"toilfn.htcondor.bindings": False}):
                yield spool
    finally:
        (spool / "stop").touch()
        wait_for(lambda: _is_idle(spool), "the fake system's jobs to end", 20)
        shutil.rmtree(folder)


def _is_idle(spool: Path) -> bool:
    states = [path.read_text() for path in spool.glob("*/[0-9]*.json")]
    return not any('"state": "running"' in state or '"state": "queued"' in state for state in states)
