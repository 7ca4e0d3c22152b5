"""Files of runs that users may read: only files inside the run's folder, whatever their names or links say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from toilfn import confined
from toilfn.errors import InputError
from toilfn.server.records import Run
from toilfn.stores import MissingObjectError

__all__ = ["open_inside", "open_stream"]


def open_stream(run: Run, name: str) -> BinaryIO | None:
    """Open the output of a run's command, ``stdout`` or ``stderr``; return None if there is no output yet."""
    path = run.folder / name
    if path.exists():
        return path.open("rb", buffering=0)
    try:
        return run.objects.open(name)
    except MissingObjectError:
        return None


def open_inside(folder: Path, name: str) -> BinaryIO | None:
    """Open a file below a folder; None if there is none, or if the name or a link leads out of the folder."""
    try:
        path = confined.inside(folder, name)
        file = path.open("rb", buffering=0)
    except (InputError, OSError, ValueError):
        return None
    # A workflow that still runs may have put a link there in the meantime.
    reached, root = os.path.realpath(f"/proc/self/fd/{file.fileno()}"), os.path.realpath(folder)
    if os.path.exists("/proc/self/fd") and not reached.startswith(f"{root}/"):
        file.close()
        return None
    return file
