"""Interpret the output of ``parasol list jobs`` and Parasol's results files.

Lines that do not describe jobs are ignored, and never raise an exception.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from toilfn.clusters.base import JobState
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.verdicts import exit_cause
from toilfn.ids import Cause

__all__ = ["ListedJob", "listed", "results"]

_WAITING = "none"
"""The machine of a job that waits."""

_LISTED = re.compile(r"^(\d{1,18}) +(\S+) +\S+ +\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (\S+)", re.MULTILINE)
_RESULT = re.compile(r"^(-?\d{1,9}) (\S+) (\d{1,18}) (\S+) -?\d+ -?\d+ \d+ \d+ \d+ \S+ \S+", re.MULTILINE)


class ListedJob(NamedTuple):
    """A live job: its state, and the name of its command without ``.sh``."""

    found: Found
    name: str


def listed(text: str) -> dict[str, ListedJob]:
    """Parse the output of ``parasol list jobs``: ``4711 machine user 2009/07/23 10:54:09 command``."""
    return {
        job: ListedJob(_live(machine), PurePosixPath(command).name.removesuffix(".sh"))
        for job, machine, command in _LISTED.findall(text)
    }


def results(text: str) -> dict[str, tuple[Found, str]]:
    """Parse a results file: how each job ended, and the name of its command without ``.sh``."""
    return {
        job: (_ended(int(status), host), PurePosixPath(command).name.removesuffix(".sh"))
        for status, host, job, command in _RESULT.findall(text)
    }


def _live(machine: str) -> Found:
    return Found(JobState.QUEUED if machine == _WAITING else JobState.RUNNING, None, f"on {machine}")


def _ended(status: int, host: str) -> Found:
    """Interpret a status of wait(2)."""
    if status < 0:
        return Found(JobState.ENDED, Cause.LOST, f"no exit status, on {host}")
    code, signal = status >> 8, status & 127
    words = f"signal {signal}" if signal else f"exit status {code}"
    return Found(JobState.ENDED, exit_cause(code, signal), f"{words}, on {host}")
