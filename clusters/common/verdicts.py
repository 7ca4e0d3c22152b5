"""The meaning of exit statuses, and the rows of the tables of states and reasons of batch systems."""

from __future__ import annotations

import re
from typing import NamedTuple

from toilfn.clusters.base import JobState
from toilfn.ids import Cause

__all__ = ["NOT_MINE", "Verdict", "ended", "exceeded", "exit_cause", "queued", "running", "unknown"]

NOT_MINE = 75
"""The exit status of a worker whose batch another worker has already answered (EX_TEMPFAIL of sysexits.h)."""


class Verdict(NamedTuple):
    """The meaning of a state, a reason or an exit status of a batch system.

    Attributes
    ----------
    state : JobState
    cause : Cause or None
        For a job that has ended: why it failed; None if it was successful.
    meaning : str
        The manual's explanation, in short.
    source : str
        The page of the manual, or the file of the system's source code, that documents it.
    """

    state: JobState
    cause: Cause | None
    meaning: str
    source: str


def queued(meaning: str, source: str) -> Verdict:
    """Build the row for a job that waits."""
    return Verdict(JobState.QUEUED, None, meaning, source)


def running(meaning: str, source: str) -> Verdict:
    """Build the row for a job that runs, or occupies a node without running."""
    return Verdict(JobState.RUNNING, None, meaning, source)


def unknown(meaning: str, source: str) -> Verdict:
    """Build the row for a job of which the system itself does not know whether it runs."""
    return Verdict(JobState.UNKNOWN, None, meaning, source)


def ended(cause: Cause | None, meaning: str, source: str) -> Verdict:
    """Build the row for a job that has ended."""
    return Verdict(JobState.ENDED, cause, meaning, source)


_LIMITS = (
    (Cause.MEMORY, re.compile(r"memory|\bmem\b|\bRSS\b|ResidentSetSize|ImageSize|\bOOM\b|swap", re.IGNORECASE)),
    (Cause.WALLTIME, re.compile(r"wall ?time|wall ?clock|run ?time|too long|duration|time limit", re.IGNORECASE)),
    (Cause.ERROR, re.compile(r"\bdisk|DiskUsage", re.IGNORECASE)),
)


def exceeded(text: str) -> Cause | None:
    """Return the cause for the limit that an administrator's message says was exceeded; None if it names none."""
    return next((cause for cause, words in _LIMITS if words.search(text)), None)


def exit_cause(status: int, signal: int = 0) -> Cause | None:
    """Return why a job failed, from the end of its process; None if it was successful.

    Parameters
    ----------
    status : int
        The exit status. As in shells, a status above 128 means a signal.
    signal : int
        The signal that ended the process, or 0.
    """
    signal = signal or max(0, status - 128)
    if signal in (9, 15):  # sent from outside: a task does not kill its own worker like this
        return Cause.LOST
    if status == NOT_MINE:  # the system lost the first worker and restarted the job
        return Cause.LOST
    return Cause.ERROR if status or signal else None
