"""The meaning of ends: of a job's exit status, and the rows of tables of a batch system's words and numbers."""

from __future__ import annotations

import re
from typing import NamedTuple

from toilfn.clusters.base import JobState
from toilfn.ids import Cause

__all__ = ["NOT_MINE", "Verdict", "ended", "exceeded", "exit_cause", "queued", "running", "unknown"]

NOT_MINE = 75
"""The exit status of a worker that found its batch answered by another one (EX_TEMPFAIL of sysexits.h)."""


class Verdict(NamedTuple):
    """The meaning of a state, a reason or an exit status of a system.

    Attributes
    ----------
    state : JobState
    cause : Cause or None
        For a job that has ended: None if it ended well.
    meaning : str
        The manual's explanation, in a few words.
    source : str
        The page of the manual, or the file of the system's sources, that says so.
    """

    state: JobState
    cause: Cause | None
    meaning: str
    source: str


def queued(meaning: str, source: str) -> Verdict:
    """Build the row of a job that waits."""
    return Verdict(JobState.QUEUED, None, meaning, source)


def running(meaning: str, source: str) -> Verdict:
    """Build the row of a job that runs, or that a node holds without running it."""
    return Verdict(JobState.RUNNING, None, meaning, source)


def unknown(meaning: str, source: str) -> Verdict:
    """Build the row of a job of which the system itself does not know whether it runs."""
    return Verdict(JobState.UNKNOWN, None, meaning, source)


def ended(cause: Cause | None, meaning: str, source: str) -> Verdict:
    """Build the row of a job that has ended."""
    return Verdict(JobState.ENDED, cause, meaning, source)


_LIMITS = (
    (Cause.MEMORY, re.compile(r"memory|\bmem\b|\bRSS\b|ResidentSetSize|ImageSize|\bOOM\b|swap", re.IGNORECASE)),
    (Cause.WALLTIME, re.compile(r"wall ?time|wall ?clock|run ?time|too long|duration|time limit", re.IGNORECASE)),
)


def exceeded(text: str) -> Cause | None:
    """Read from an administrator's own words whether memory or time was exceeded; None if they name neither."""
    return next((cause for cause, words in _LIMITS if words.search(text)), None)


def exit_cause(status: int, signal: int = 0) -> Cause | None:
    """Judge how a job's process ended; None is well.

    Parameters
    ----------
    status : int
        Its exit status; as shells do, over 128 stands for a signal.
    signal : int
        The signal that ended it, or 0.
    """
    signal = signal or max(0, status - 128)
    if signal in (9, 15):  # sent from outside: nothing in the task does that to its own worker
        return Cause.LOST
    if status == NOT_MINE:  # the system had lost the first worker and restarted the job
        return Cause.LOST
    return Cause.ERROR if status or signal else None
