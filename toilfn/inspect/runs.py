"""Yield the runs of a store and their attempts as a stream, which keeps neither tasks nor records."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple

from toilfn.ids import TaskId
from toilfn.model.records import Run
from toilfn.model.replay import Fact, Journal, RunBegan
from toilfn.model.traces import TraceContext, attempt_span, run_span

__all__ = ["ABANDONED", "OPEN", "RunAttempt", "Runs", "ToldRun"]

OPEN = "open"
"""The status of a run that has not ended."""
ABANDONED = "abandoned"
"""The status of a run whose leader died."""


class RunAttempt(NamedTuple):
    """A finished attempt."""

    run: int
    task: TaskId
    name: str
    number: int
    """From 1 through all runs, as in `toilfn logs --attempt`."""
    cause: str
    """Why it failed; empty if it succeeded."""
    message: str
    is_final: bool
    """Whether no further attempt follows."""
    start: float
    """Seconds since the epoch, as `end`."""
    end: float
    usage: dict[str, Any]
    """The usage fields of the event, as docs/events.md describes them."""

    @property
    def span(self) -> str:
        """The id of the attempt's span, below its run's."""
        return attempt_span(self.task, self.start)

    def uuid(self, store: str) -> uuid.UUID:
        """Return an identifier that depends only on the store's id, the run and the attempt."""
        return _uuid(store, self.run, self.task.hex(), self.number)


@dataclass(slots=True)
class ToldRun:
    """One run.

    Attributes
    ----------
    number : int
    workflow : str
    start, end : float
        Seconds since the epoch; the end of a run without one is the latest time that the log tells about it.
    status : str
        One of `toilfn.model.records.End`, `OPEN` or `ABANDONED`.
    attempts : int
    cause : str
        Why the last task that was given up failed.
    parent : str or None
        The value of TRACEPARENT with which it was started.
    """

    number: int
    workflow: str
    start: float
    end: float
    status: str = OPEN
    attempts: int = 0
    cause: str = ""
    parent: str | None = None

    def context(self, store: str) -> TraceContext:
        """Return the run's span; `store` is the store's id."""
        return run_span(store, self.number, self.parent)

    @property
    def name(self) -> str:
        """The workflow's name without the folder of its script."""
        return PurePath(self.workflow).name or "workflow"


class Runs:
    """Reads facts in order, and remembers the runs.

    Attributes
    ----------
    known : dict of int to ToldRun
        The runs by their numbers, as far as the log was read.
    """

    def __init__(self) -> None:
        self.known: dict[int, ToldRun] = {}
        self._current = 0
        self._given: dict[str, float] = {}
        self._latest = 0.0

    def attempts(self, facts: Iterable[Fact], *, is_led: bool) -> Iterator[RunAttempt]:
        """Yield the attempts in the order in which they finished.

        Parameters
        ----------
        facts : iterable of Fact
            All of a log.
        is_led : bool
            Whether a leader is alive; otherwise a run without an end was abandoned.
        """
        journal = Journal()
        for fact in facts:
            if isinstance(fact, RunBegan):
                self._begin(fact.run)
            for event in journal.events(fact):
                self._see(event.get("time", 0.0))
                if event["event"] == "started":
                    self._given[event["task"]] = event["time"]
                elif event["event"] == "end":
                    self._end(event)
                elif event["event"] in ("done", "failed"):
                    yield self._attempt(event)
        for run in self.known.values():
            if run.status == OPEN and not (is_led and run.number == self._current):
                run.status = ABANDONED

    def _begin(self, record: Run) -> None:
        run = self.known.setdefault(record.number, ToldRun(record.number, record.workflow, record.time, record.time))
        run.parent = record.settings.get("traceparent")
        run.status = OPEN  # it may be resumed
        self._current = record.number

    def _end(self, event: dict[str, Any]) -> None:
        run = self.known.get(event["number"])
        if run:
            run.status, run.end = event["status"], max(event["time"], run.start)

    def _see(self, moment: float) -> None:
        self._latest = max(self._latest, moment)
        run = self.known.get(self._current)
        if run and run.status == OPEN:
            run.end = max(run.end, moment)

    def _attempt(self, event: dict[str, Any]) -> RunAttempt:
        given = self._given.pop(event["task"], self._latest)
        start = event["start"] or given  # nothing was measured of one that never began
        end = start + event["wall"]
        self._see(end)
        cause, is_final = event.get("cause", ""), event.get("final", True)
        run = self.known.get(self._current)
        if run:
            run.attempts += 1
            run.cause = cause if cause and is_final else run.cause
        return RunAttempt(
            self._current, bytes.fromhex(event["task"]), event["name"], event["attempt"], cause,
            event.get("message", ""), is_final, start, end, event,
        )  # fmt: skip


def _uuid(*parts: object) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_URL, "toilfn:" + "/".join(map(str, parts)))
