"""Jobs that have ended and whose last answer is not to be seen yet: shared file systems show new files late."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from toilfn.clusters.base import JobId, Update
from toilfn.ids import Cause
from toilfn.protocol import is_done
from toilfn.stores import is_local
from toilfn.worker.passed import WRONG_VERSIONS

__all__ = ["Latecomers", "Strays"]

_LATE = 60.0
"""Seconds within which answers must be seen: NFS may know a directory's old state for so long (acdirmax, nfs(5))."""

_LOOK = 0.5
"""Seconds between two looks."""

_LOOK_AGAIN = 10.0
"""Seconds between two looks for answers from jobs that were lost."""


class Latecomers:
    """Puts off the ends of jobs that ended well until all their answers are there.

    Parameters
    ----------
    store : str
        The store's URL.
    limit : float
        Seconds after which a job counts as lost that ended well.
    """

    def __init__(self, store: str, limit: float = _LATE) -> None:
        self._store = store
        self._limit = limit
        self._since: dict[JobId, float] = {}
        self._waiting: dict[JobId, Update] = {}
        self._looked = 0.0

    def is_late(self, update: Update, answers: Sequence[bytes]) -> bool:
        """Return whether a job's end is to be put off; `due` gives it again then."""
        if update.cause is not None or is_done(answers):
            self._since.pop(update.job, None)
            return False
        self._since.setdefault(update.job, time.monotonic())
        self._waiting[update.job] = update
        return True

    def due(self) -> list[Update]:
        """Return the ends that are to be looked at again; those whose time is up as lost jobs."""
        now = time.monotonic()
        if not self._waiting or now - self._looked < _LOOK:
            return []
        self._looked = now
        updates, self._waiting = list(self._waiting.values()), {}
        return [self._lost(update) if now - self._since[update.job] > self._limit else update for update in updates]

    def _lost(self, update: Update) -> Update:
        detail = f"the job ended well, but its answers were not in the store after {self._limit:g} s{self._hint()}"
        return replace(update, cause=Cause.LOST, detail=detail)

    def explained(self, update: Update, answers: Sequence[bytes]) -> Update:
        """Add to the failure of a job that said nothing why that may be."""
        if answers or update.cause is not Cause.ERROR:
            return update
        return replace(update, detail=f"{update.detail}{_missing_package(update.detail) or self._hint(update.detail)}")

    def _hint(self, said: str = "") -> str:
        """Say that the node may not see the store, unless the worker has said itself what is wrong."""
        if not is_local(self._store) or "Traceback" in said or WRONG_VERSIONS in said:
            return ""
        return f". If its node cannot see the directory {self._store}: let the store be one that leader and nodes share"


def _missing_package(said: str) -> str:
    """Return what to do where a worker has not started for want of a package."""
    found = re.search(r"No module named '?([\w.]+)", said)
    if found is None:
        return ""
    from toilfn import __version__

    name = found[1].partition(".")[0]
    wanted = f"toilfn {__version__}" if name == "toilfn" else f"the package {name}"
    return f". The Python of the job lacks {wanted}: install it there, or name another interpreter (python=...)"


class Strays:
    """Batches whose jobs were lost: a worker that nobody could find may still have done its work.

    Parameters
    ----------
    read : callable
        Reads what a batch has answered, from the n-th answer on.
    """

    def __init__(self, read: Callable[[str, int], Sequence[bytes]]) -> None:
        self._read = read
        self._heard: dict[str, int] = {}
        self._next = 0.0

    def add(self, name: str, heard: int) -> None:
        """Listen to a batch from now on, of which some answers have been heard."""
        self._heard[name] = heard

    def news(self, now: float) -> Iterator[tuple[str, bytes]]:
        """Look now and then for further answers."""
        if not self._heard or now < self._next:
            return
        self._next = now + _LOOK_AGAIN
        for name, heard in list(self._heard.items()):
            answers = self._read(name, heard)
            self._heard[name] = heard + len(answers)
            yield from ((name, answer) for answer in answers)

    def drop(self) -> dict[str, int]:
        """Listen to none of them any more; return how many answers of each have been heard."""
        heard, self._heard = self._heard, {}
        return heard
