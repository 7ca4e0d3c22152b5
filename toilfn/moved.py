"""Translate the paths in a store's records after its project was moved or copied to another place.

A run records its working directory and the path of its store. If a resume finds the store at another path, and the
folders above it show that the working directory has moved together with it, then paths below the old place are
translated to the new one: sources of imports, targets of exports, directories for outputs and `pathlib.Path` arguments.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["MOVED_VARIABLE", "moved_from", "new_place", "relocated"]

MOVED_VARIABLE = "TOILFN_MOVED"
"""The environment variable in which workers get the old and the new place of the project, as JSON."""


def moved_from(home: Sequence[str], store: str) -> tuple[str, str] | None:
    """Return the old and the new place of a project, or None if it has not moved.

    Parameters
    ----------
    home : sequence of str
        The working directory and the path of the store when the run began.
    store : str
        The present path of the store.

    Examples
    --------
    >>> moved_from(("/home/ada/flow", "/home/ada/flow/runs/1"), "/data/flow-2/runs/1")
    ('/home/ada/flow', '/data/flow-2')
    >>> moved_from(("/home/ada/flow", "/scratch/1"), "/scratch2/1") is None
    True
    """
    directory, old_store = home
    old, new = Path(old_store).parts, Path(store).parts
    common = 0
    while common < min(len(old), len(new)) and old[-1 - common] == new[-1 - common]:
        common += 1
    before, after = Path(*old[: len(old) - common] or ("/",)), Path(*new[: len(new) - common] or ("/",))
    if before == after or before == Path("/") or not Path(directory).is_relative_to(before):
        return None
    return str(before), str(after)


@contextmanager
def new_place(places: tuple[str, str] | None) -> Iterator[None]:
    """Make `relocated` translate paths inside the block, in this process and in processes that it starts."""
    if places is None:
        yield
        return
    os.environ[MOVED_VARIABLE] = json.dumps(places)
    try:
        yield
    finally:
        os.environ.pop(MOVED_VARIABLE, None)


def relocated(path: str) -> str:
    """Translate an absolute path below the old place to the new place; return any other path unchanged."""
    places = os.environ.get(MOVED_VARIABLE)
    if not places:
        return path
    before, after = json.loads(places)
    if path == before or path.startswith(f"{before}/"):
        return f"{after}{path[len(before) :]}"
    return path
