"""Processes with a wrong clock, by libfaketime: their real time is wrong, their monotonic clock is right."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from tests.servers.machine import ServerMissingError, missing

__all__ = ["WrongClock"]

_SITE = """
import select
import time

def sleep(seconds):
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)

time.sleep = sleep
"""
"""libfaketime alters the end of Python's sleeps, which is a time of the monotonic clock."""

_LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"


class WrongClock:
    """A clock that can be set while processes use it.

    Parameters
    ----------
    file : Path
        Where its offset is kept.
    hours : float
        How far it is ahead.
    """

    def __init__(self, file: Path, hours: float) -> None:
        self._file = file
        self.set(hours)
        found = glob.glob(_LIBRARY)
        if not found:
            missing(ServerMissingError("libfaketime: install the Debian package faketime"))
        site = file.with_suffix(".site")
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(_SITE)
        paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = {
            **os.environ, "PYTHONPATH": paths, "LD_PRELOAD": found[0],
            "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
        }  # fmt: skip

    def set(self, hours: float) -> None:
        """Set the clock."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{hours * 3600:+.0f}\n")
        draft.replace(self._file)
