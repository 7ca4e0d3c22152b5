"""The rows of the tables that say what a batch system's words and numbers mean."""

from __future__ import annotations

import re
from typing import NamedTuple

from toilfn.clusters.base import JobState
from toilfn.events import Cause

__all__ = ["Verdict", "ended", "exceeded", "queued", "running", "unknown"]


class Verdict(NamedTuple):
    """What a state, a reason or an exit status of a system means to toilfn.

    Attributes
    ----------
    state : JobState
    cause : Cause or None
        For a job that has ended: None if it ended well.
    meaning : str
        What the manual says of it, in a few words.
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
