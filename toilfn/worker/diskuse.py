"""How much disk an attempt takes in its temporary directory."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from toilfn.worker.context import Context

__all__ = ["DiskUse"]

_LOOK = 1.0
"""The least number of seconds between two looks."""

_SHARE = 50
"""Looking takes at most one part in so many of the time."""

_BLOCK = 512
"""Bytes in the unit of `os.stat_result.st_blocks`."""


class DiskUse:
    """Looks now and then at the temporary directory of one attempt.

    Parameters
    ----------
    context : Context

    Attributes
    ----------
    peak : int
        The most bytes that were found, with links to the node's copies of files.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._next_look = 0.0
        self.peak = 0

    def look(self) -> None:
        """Look if that is due; another thread may do this."""
        began = time.monotonic()
        if began < self._next_look:
            return
        self.measure()
        took = time.monotonic() - began
        self._next_look = began + max(_LOOK, took * _SHARE)

    def measure(self) -> bool:
        """Look now; returns whether there is anything to be looked at."""
        has_any = self._context.has_temp_dir
        if has_any:
            self.peak = max(self.peak, _size(self._context.temp_dir))
        return has_any


def _size(directory: os.PathLike[str]) -> int:
    """Add up what is allocated below a directory; what vanishes meanwhile is left out."""
    total = 0
    stack: list[str | os.PathLike[str]] = [directory]
    while stack:
        with suppress(OSError), os.scandir(stack.pop()) as entries:
            for entry in entries:
                total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
    return total
