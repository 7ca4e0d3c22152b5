"""The data of a run's pages: a fold of the log, which each request brings up to date."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from toilfn.errors import InputError, StoreNotFoundError
from toilfn.inspect.drawing import Drawing, Node
from toilfn.inspect.fold.columns import Detail, Kind, Row
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.fold.saved import SavedFold
from toilfn.inspect.view import State
from toilfn.model.records import Failure, Outcome, decode
from toilfn.stores import Store
from toilfn.stores.lease import Holder, holder, living
from toilfn.text import last_lines

__all__ = ["AttemptRow", "Failed", "Query", "RunView", "Summary", "UnknownTaskError"]

_FRESH = 0.7
"""Seconds after reading the log during which it is not read again."""
PAGE = 100
"""Number of rows on one page of the table of tasks."""
_FAILURES = 8
_TAIL = 12
"""Number of lines at the end of a failed task's log that the run's page shows."""
SORTS = ("number", "name", "state", "attempts", "start", "duration", "cpu", "memory", "wait")


class Summary(NamedTuple):
    """The most important figures of a run. Durations are in seconds, times in seconds since the epoch."""

    state: str
    """``running``, ``stopped``, ``empty``, or how the run ended."""
    workflow: str
    number: int
    store: str
    started: float
    ended: float
    counts: Counter[State]
    remaining: float | None
    """The estimated time until the end of the run, or None before a task has finished."""
    leader: Holder | None
    is_led: bool
    outage: str
    retried: int
    cursor: int

    @property
    def total(self) -> int:
        """The number of tasks that have been created so far."""
        return self.counts.total()

    @property
    def elapsed(self) -> float:
        """The time since the start, or until the end."""
        return max(0.0, (self.ended or time.time()) - self.started) if self.started else 0.0

    @property
    def name(self) -> str:
        """The workflow's file name."""
        return self.workflow.rpartition("/")[2] or "a workflow"


class AttemptRow(NamedTuple):
    """An attempt that ended."""

    task: str
    """The id, in hexadecimal."""
    name: str
    number: int
    result: str
    """``done``, or the cause of its failure."""
    start: float
    wall: float
    cpu: float
    wait: float
    memory: int
    host: str
    process: int


class Failed(NamedTuple):
    """A failed task, with the end of its log."""

    row: Row
    tail: str
    traceback: str


class UnknownTaskError(InputError):
    """The task or attempt does not exist."""


class Query(NamedTuple):
    """The filter, the order and the page number of the table of tasks."""

    state: str = ""
    kind: str = ""
    text: str = ""
    sort: str = "number"
    descending: bool = False
    page: int = 1

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> Query:
        """Parse a query from the fields of a URL.

        Raises
        ------
        InputError
            If a value is invalid.
        """
        state, sort = fields.get("state", ""), fields.get("sort", "") or "number"
        if state and state not in {each.value for each in State}:
            raise InputError(f"state: {state!r} is not a state of tasks")
        if sort.lstrip("-") not in SORTS:
            raise InputError(f"sort: {sort!r} is not a column of the table")
        page = fields.get("page", "") or "1"
        if not page.isdecimal() or not 0 < int(page) < 10**9:
            raise InputError(f"page: {page!r} is not a number above 0")
        descending = sort.startswith("-")
        return cls(state, fields.get("kind", ""), fields.get("q", ""), sort.lstrip("-"), descending, int(page))

    def fields(self) -> dict[str, str]:
        """Return the fields for a URL, without those that have their default value."""
        sort = ("-" if self.descending else "") + self.sort
        found = {"state": self.state, "kind": self.kind, "q": self.text, "sort": sort, "page": str(self.page)}
        return {name: value for name, value in found.items() if value and (name, value) not in _PLAIN}


_PLAIN = (("sort", "number"), ("page", "1"))


class RunView:
    """The newest run of a store; the methods read new records first. Threads may share a view.

    Parameters
    ----------
    open : callable
        Opens the store, or raises `StoreNotFoundError` if it does not exist yet.
    detail : Detail
        The amount of detail that the fold keeps.
    saved : SavedFold, optional
        A file from which to load the fold, and to which to save it when the run has ended. Then another process
        need not read the whole log.

    Attributes
    ----------
    fold : Fold
        The state of the run. Hold `lock` while using it, since each request may add new records to it.
    """

    def __init__(
        self, open: Callable[[], Store], detail: Detail = Detail.ATTEMPTS, saved: SavedFold | None = None
    ) -> None:  # fmt: skip
        self._open = open
        self._saved = saved
        # Protects all attributes below, and is reentrant, since methods call each other. It is also held while the log
        # is read: then a second request waits for the new records instead of reading them, too.
        self._lock = threading.RLock()
        self._store: Store | None = None
        self._looked = float("-inf")
        self._leader: Holder | None = None
        self._is_led = False
        self._is_settled = False
        self.fold = Fold(detail)

    @property
    def lock(self) -> threading.RLock:
        """The lock that a thread must hold while it uses `fold`."""
        return self._lock

    @property
    def store(self) -> Store:
        """The store.

        Raises
        ------
        StoreNotFoundError
            If the store does not exist yet.
        """
        if self._store is None:
            self._store = self._open()
        return self._store

    @property
    def size(self) -> int:
        """The number of tasks that the fold holds in memory."""
        return self.fold.size

    def settle(self) -> None:
        """Read the log a last time, since the run has no leader now. Later calls of methods no longer read it."""
        with self._lock:
            if not self._is_settled:
                self._looked = float("-inf")
                self._is_settled = self.refresh() > 0
                if self._saved is not None and self._is_settled:
                    self._saved.save(self.fold, self.store, is_final=True)

    def refresh(self) -> int:
        """Read new records, and return the position in the log up to which it was read."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked > _FRESH and not self._is_settled:
                try:
                    store = self.store
                except StoreNotFoundError:
                    return 0
                self._leader, self._is_led = holder(store), living(store) is not None
                if self._saved is not None and not self.fold.cursor:
                    self.fold = self._saved.load(store)
                self.fold.update(store)
                if not self._is_led:
                    self.fold.stop_running()
                self._looked = time.monotonic()
            return self.fold.cursor

    def mark(self) -> str:
        """Return a text that changes with the pages: the position in the log, and whether a leader is alive."""
        with self._lock:
            return f"{self.refresh()}-{int(self._is_led)}"

    def summary(self) -> Summary:
        """Return the most important figures of the run."""
        with self._lock:
            self.refresh()
            fold, counts = self.fold, self.fold.counts()
            run, state = fold.run, fold.status
            if state == "open":
                state = "running" if self._is_led else "stopped"
            end = fold.ends.get(run.number) if run else None
            ended = end.time if end else 0.0
            if state == "stopped":
                last = fold.measures.scale.end if fold.measures.scale else 0.0
                ended = self._leader.heartbeat if self._leader else last
            return Summary(
                state, run.workflow if run else "", run.number if run else 0, self._store.url if self._store else "",
                run.time if run else 0.0, ended, sum(counts, Counter()), self._remaining(counts, state),
                self._leader, self._is_led, fold.outage, fold.retries.total(), fold.cursor,
            )  # fmt: skip

    def _remaining(self, counts: list[Counter[State]], state: str) -> float | None:
        """Estimate the time until the end, in seconds: the remaining work at the speed so far."""
        fold = self.fold
        done = sum(kind.usage.sums.wall for kind in fold.kinds)
        attempts = sum(kind.usage.sums.attempts for kind in fold.kinds)
        if state != "running" or not attempts or not done or fold.run is None:
            return None
        left = 0.0
        for kind, states in zip(fold.kinds, counts, strict=True):
            sums = kind.usage.sums
            usual = sums.wall / sums.attempts if sums.attempts else done / attempts
            left += usual * (states[State.WAITING] + states[State.QUEUED] + states[State.RUNNING] / 2)
        return left * max(0.0, time.time() - fold.run.time) / done

    def kinds(self) -> list[tuple[Kind, Counter[State]]]:
        """Return the kinds of tasks of the newest run with the number of tasks in each state.

        They are sorted by total wall time, longest first.
        """
        with self._lock:
            self.refresh()
            both = [pair for pair in zip(self.fold.kinds, self.fold.counts(), strict=True) if pair[1]]
            return sorted(both, key=lambda pair: (-pair[0].usage.sums.wall, pair[0].number))

    def drawing(self) -> Drawing:
        """Return the graph with one box for each kind of task."""
        with self._lock:
            fold = self.fold
            counts = fold.counts()
            nodes = {kind.number: Node(kind.name, counts[kind.number]) for kind in fold.kinds if counts[kind.number]}
            for before, after, how in fold.links:
                if before in nodes and after in nodes:
                    owner, other = (before, after) if how == "creates" else (after, before)
                    getattr(nodes[owner], how)[nodes[other].label] = None
            return Drawing({node.label: node for node in nodes.values()})

    def failures(self) -> list[Failed]:
        """Return the first failed tasks, with the ends of their logs."""
        with self._lock:
            self.refresh()
            rows = self.fold.rows(list(islice(self.fold.in_state(State.FAILED), _FAILURES)))
            return [self._failed(row) for row in rows]

    def _failed(self, row: Row) -> Failed:
        last = self.fold.last_attempt(row.number)
        record = None if last is None else self._record(last)
        if not isinstance(record, Failure):
            return Failed(row, "", "")
        text = b"".join(self.log(record)).decode(errors="replace")
        return Failed(row, last_lines(text, _TAIL), last_lines(record.traceback, _TAIL))

    def _record(self, attempt: int) -> Outcome | Failure:
        position = self.fold.position(attempt)
        record = decode(self.store.log.fetch(position), position)
        assert isinstance(record, (Outcome, Failure))
        return record

    def log(self, record: Outcome | Failure) -> Iterator[bytes]:
        """Return the output of an attempt."""
        yield self.store.payload(record.log)

    def tasks(self, query: Query) -> tuple[list[tuple[Row, AttemptRow | None]], int]:
        """Return the rows of a page of the table of tasks, and the number of all tasks that match."""
        with self._lock:
            self.refresh()
            numbers = self._matching(query)
            if query.sort != "number" or query.descending:
                numbers.sort(key=self._key(query.sort), reverse=query.descending)
            first = (query.page - 1) * PAGE
            rows = self.fold.rows(numbers[first : first + PAGE])
            return [(row, self._last(row)) for row in rows], len(numbers)

    def _matching(self, query: Query) -> list[int]:
        fold = self.fold
        numbers = fold.in_state(State(query.state)) if query.state else iter(fold.numbers())
        if query.kind:
            numbers = (number for number in numbers if fold.kind_of(number).name == query.kind)
        if not query.text:
            return list(numbers)
        text, ids = query.text.lower(), fold.ids()
        named = {kind.number for kind in fold.kinds if text in kind.name.lower()}
        return [n for n in numbers if fold.kind_of(n).number in named or ids[n].hex().startswith(text)
                or text in fold.error_of(n).lower()]  # fmt: skip

    def _key(self, sort: str) -> Callable[[int], Any]:
        fold, kept = self.fold, self.fold.attempts
        plain: dict[str, Callable[[int], Any]] = {
            "number": lambda number: number,
            "name": lambda number: fold.kind_of(number).name,
            "state": lambda number: fold.state_of(number).value,
            "attempts": fold.count_of,
        }
        if sort in plain:
            return plain[sort]
        columns: dict[str, Sequence[float]] = {"start": kept.start, "duration": kept.wall, "cpu": kept.cpu,
                  "memory": kept.memory, "wait": kept.wait}  # fmt: skip
        column = columns[sort]

        def key(number: int) -> float:
            last = fold.last_attempt(number)
            return -1.0 if last is None else column[last]

        return key

    def _last(self, row: Row) -> AttemptRow | None:
        last = self.fold.last_attempt(row.number)
        return None if last is None else self.attempt(last, row.attempts)

    def attempt(self, at: int, number: int = 0) -> AttemptRow:
        """Return an attempt.

        Parameters
        ----------
        at : int
            The index of the attempt among all attempts of the fold.
        number : int
            The number of the attempt among those of its task, from 1. For 0, the result has no id of the task.
        """
        fold, kept = self.fold, self.fold.attempts
        task = kept.task[at]
        host, process = fold.worker(kept.worker[at])
        return AttemptRow(
            fold.ids()[task].hex() if number else "", fold.kind_of(task).name, number,
            kept.causes[kept.cause[at]] or "done", kept.start[at], kept.wall[at], kept.cpu[at], kept.wait[at],
            kept.memory[at], host, process,
        )  # fmt: skip

    def task(self, id: str) -> tuple[Row, list[tuple[AttemptRow, Outcome | Failure]]]:
        """Return a task and its attempts with their records.

        Raises
        ------
        UnknownTaskError
            If the task does not exist.
        """
        with self._lock:
            self.refresh()
            number = self.fold.number(bytes.fromhex(id)) if _is_id(id) else None
            if number is None:
                raise UnknownTaskError(f"task {id!r} not found in this store")
            places = [at for at, task in enumerate(self.fold.attempts.task) if task == number]
            found = [(self.attempt(at, n), self._record(at)) for n, at in enumerate(places, 1)]
            return self.fold.rows([number])[0], found


def _is_id(text: str) -> bool:
    return len(text) == 32 and not set(text) - set("0123456789abcdef")
