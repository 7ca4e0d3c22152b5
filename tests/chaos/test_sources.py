"""Files that were linked into a store, and that change, vanish or are replaced during the run: they are named."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil

OLD, NEW = b"old " * 1000, b"new " * 1000


@toil.task
def meddle(file: toil.File, source: str, how: str) -> bytes:
    """Read a linked file, and then do something to its source."""
    read = file.path().read_bytes()
    path = Path(source)
    if how == "changed":
        path.write_bytes(NEW)
    elif how == "vanished":
        path.unlink()
    elif how == "replaced":
        before = path.stat()
        path.with_name("draft").write_bytes(NEW)
        os.utime(path.with_name("draft"), ns=(before.st_atime_ns, before.st_mtime_ns))
        path.with_name("draft").replace(path)
    return read


@toil.task(retries=0)
def read(file: toil.File, way: str) -> bytes:
    if way == "stream":
        with file.open() as stream:
            return stream.read()
    return file.path().read_bytes()


SAID = {"changed": "was changed after it was linked", "vanished": "is gone", "replaced": "was replaced by another file"}


@pytest.mark.parametrize("way", ["stream", "path"])
@pytest.mark.parametrize("how", ["changed", "vanished", "replaced"])
@pytest.mark.parametrize("link", ["symlink", "hard", "copy"])
def test_a_source_that_was_altered_is_named(tmp_path: Path, link: Any, how: str, way: str) -> None:
    source = tmp_path / "in"
    source.write_bytes(OLD)
    settings: Any = {"store": tmp_path / "store", "cluster": "inline", "progress": False, "retries": 0}
    imported = toil.import_file(source, link=link)
    meddled = meddle(imported, str(source), how)
    late = read.options(after=meddled)(imported, way)
    if link == "copy" or (link == "hard" and how != "changed"):  # the store has a name of its own for the file
        assert toil.compute(meddled, late, **settings) == (OLD, OLD)
        return
    with pytest.raises(toil.FailedTasksError, match=re.escape(str(source)) + ".*" + SAID[how]):
        toil.compute(meddled, late, **settings)
    if how == "vanished":
        with pytest.raises(toil.InputError, match="file not found"):
            toil.import_file(source, link=link)
        source.write_bytes(NEW)
    again = toil.import_file(source, link=link)
    assert toil.compute(read.options(after=meddle(again, str(source), ""))(again, way), **settings) == NEW
