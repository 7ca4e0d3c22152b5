"""What ``parasol list jobs`` and Parasol's results files say of jobs, and what that means.

Lines that are not of jobs are left out: they give no verdict, and never an exception.
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
"""Placeholder of the machine for a job that waits."""

_LISTED = re.compile(r"^(\d{1,18}) +(\S+) +\S+ +\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (\S+)", re.MULTILINE)
_RESULT = re.compile(r"^(-?\d{1,9}) (\S+) (\d{1,18}) (\S+) -?\d+ -?\d+ \d+ \d+ \d+ \S+ \S+", re.MULTILINE)


class ListedJob(NamedTuple):
    """A live job: where it runs, and its command's name without ``.sh``."""

    found: Found
    name: str


def listed(text: str) -> dict[str, ListedJob]:
    """Read ``parasol list jobs``: ``4711 machine user 2009/07/23 10:54:09 command``."""
    return {
        job: ListedJob(_live(machine), PurePosixPath(command).name.removesuffix(".sh"))
        for job, machine, command in _LISTED.findall(text)
    }


def results(text: str) -> dict[str, tuple[Found, str]]:
    """Read a results file: how each job ended, and its command's name without ``.sh``."""
    return {
        job: (_ended(int(status), host), PurePosixPath(command).name.removesuffix(".sh"))
        for status, host, job, command in _RESULT.findall(text)
    }


def _live(machine: str) -> Found:
    return Found(JobState.QUEUED if machine == _WAITING else JobState.RUNNING, None, f"on {machine}")


def _ended(status: int, host: str) -> Found:
    """Judge what wait() said."""
    if status < 0:
        return Found(JobState.ENDED, Cause.LOST, f"no exit status, on {host}")
    code, signal = status >> 8, status & 127
    words = f"signal {signal}" if signal else f"exit status {code}"
    return Found(JobState.ENDED, exit_cause(code, signal), f"{words}, on {host}")
