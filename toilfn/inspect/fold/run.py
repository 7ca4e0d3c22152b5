"""`Fold`: the state of a store, read from its log piece by piece; columns of numbers take the place of objects."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, compress, repeat
from sys import intern
from typing import Any

import msgpack

from toilfn.collector import uncollected
from toilfn.config.settings import Settings
from toilfn.errors import StoreError
from toilfn.graph import options
from toilfn.ids import TaskId
from toilfn.inspect.fold.columns import Attempts, Detail, Kind, Row, Variant
from toilfn.inspect.fold.measures import Measures
from toilfn.inspect.view import State
from toilfn.model.records import End, Epoch, Run, Stats, decode
from toilfn.stores import Store
from toilfn.stores.log import Position
from toilfn.stores.segments import Segment

__all__ = ["Fold"]

_STATES = tuple(State)
_WAITING, _QUEUED, _RUNNING, _DONE, _FAILED, _UNKNOWN = range(6)
"""States by number; an unknown task was named by another one, and not recorded itself."""
_CLOSED = (_DONE, _UNKNOWN)
"""States of tasks of which further attempts do not count."""
_FEW = 100_000
"""Attempts that are kept where only curves are wanted: so many can be drawn one by one."""
_ROWS = 4096
"""By how many rows columns of tasks grow."""
_READ_AGAIN = 5
"""How often a log is read from its start when its leader compacts it meanwhile."""


class Fold:
    """The state of a store, as far as its log was read.

    Parameters
    ----------
    detail : Detail
        How much to keep.

    Attributes
    ----------
    cursor : int
        The number of the log's segment that was read last.
    runs : list of Run
    epochs : list of Epoch
    ends : dict of int to End
        How runs ended, by their number.
    has_queue : bool
        Whether the newest leader's cluster has said that jobs wait in its queue.
    requests : int
        How many requests leaders have sent to the store's server.
    kinds : list of Kind
    measures : Measures
        Levels over time, and workers.
    links : dict
        Which kinds lead to which, by their numbers, and how: ``needs``, ``after`` or ``creates``.
    attempts : Attempts
    retries : Counter of str
        Attempts that failed and were followed by another one, by their cause.
    outage : str
        Why the cluster's system does not answer now; empty if it does.
    """

    def __init__(self, detail: Detail = Detail.STATES) -> None:
        self.detail = detail
        self._reset()

    def _reset(self) -> None:
        self.cursor = 0
        self.runs: list[Run] = []
        self.epochs: list[Epoch] = []
        self.ends: dict[int, End] = {}
        self.has_queue = False
        self.requests = 0
        self.kinds: list[Kind] = []
        self.retries: Counter[str] = Counter()
        self.outage = ""
        self.links: dict[tuple[int, int, str], None] = {}
        self.measures = Measures()
        self.attempts = Attempts()
        self._ids: dict[TaskId, int] = {}
        self._state = bytearray()
        self._variant, self._ended_count = array("I"), array("I")
        self._first, self._count, self._edges = array("I"), array("I"), array("I")
        self._lead_first, self._lead_count, self._leads = array("I"), array("I"), array("I")
        self._parent = array("i")
        self._ended = array("d")
        self._last = array("i")
        self._worker_names: list[tuple[str, int]] = []
        self._variants: list[Variant] = []
        self._known_variants: dict[bytes | tuple[bytes, str], int] = {}
        self._known_kinds: dict[str, Kind] = {}
        self._functions: dict[bytes, tuple[str, dict[str, Any]]] = {}
        self._problems: dict[int, tuple[str, str]] = {}
        self._under_way: dict[int, tuple[float, str]] = {}
        self._reasons: dict[int, str] = {}
        self._failed_at: dict[int, float] = {}
        self._complete: dict[int, float] = {}
        self._first_start = self._has_forgotten = False
        self._defaults = options.defaults(Settings())
        self._tasks = 0
        self._mask: tuple[int, bytearray | None] = (-1, None)

    # Reading

    @uncollected()
    def update(self, store: Store) -> bool:
        """Read what is new in a store's log, and return whether anything was.

        Raises
        ------
        CorruptObjectError
            If an object of the log is missing or damaged.
        """
        for again in range(_READ_AGAIN):
            try:
                return self._read(store)
            except StoreError:  # it was compacted meanwhile
                self._reset()
                if again + 1 == _READ_AGAIN:
                    raise
            except BaseException:
                self._reset()
                raise
        return False

    def _read(self, store: Store) -> bool:
        before = self.cursor
        segments = store.log.segments(self.cursor)
        if segments is None:
            self._reset()
            segments = store.log.segments()
            assert segments is not None
        for segment in segments:
            self._add(segment)
            self.cursor = segment.header.number
        self.measures.flush()
        return self.cursor != before

    def _add(self, segment: Segment) -> None:
        """Take the records of a segment.

        The readers of the most frequent kinds take plain values, and return whether they used them. A record that was
        not used is checked like those of all other kinds.
        """
        unpacker = msgpack.Unpacker(use_list=False, strict_map_key=False, max_buffer_size=len(segment.data) + 1)
        unpacker.feed(memoryview(segment.data)[segment.start :])
        readers: dict[str, Callable[..., bool]] = {
            "outcome": self._outcome, "task": self._recorded, "failure": self._failure, "started": self._started,
            "function": self._function,
        }  # fmt: skip
        self.attempts.segments.append(segment.name)
        offsets = accumulate(segment.sizes, initial=segment.start)
        try:
            for raw, offset, size in zip(unpacker, offsets, segment.sizes, strict=False):
                reader = readers.get(raw[0])
                if reader is None or not reader(raw, offset, size):
                    record = decode(segment.data[offset : offset + size], Position(segment.name, offset, size))
                    if reader is None:
                        self._other(record)
        except Exception:  # msgpack has many kinds
            _blame(segment)
            raise

    # Records

    def _other(self, record: Any) -> None:
        kind = type(record).__name__.lower()
        reader = getattr(self, f"_{kind}", None)
        if reader is not None:
            reader(record)

    def _epoch(self, record: Epoch) -> None:
        self.epochs.append(record)
        self.has_queue = False
        self.stop_running()
        self._first_start = True

    def _run(self, record: Run) -> None:
        self.runs = [*(run for run in self.runs if run.number != record.number), record]
        self.ends.pop(record.number, None)
        known = {name: value for name, value in record.settings.items()
                 if name.startswith("default_") and name in Settings.__dataclass_fields__}  # fmt: skip
        self._defaults = options.defaults(Settings(**known))
        self._known_variants.clear()
        if self.detail >= Detail.CURVES:
            self.measures.begin(record.time, self.kinds)

    def _end(self, record: End) -> None:
        self.requests += record.requests
        self.ends[record.number] = record
        self.stop_running()

    def _queue(self, record: Any) -> None:
        self.has_queue = True
        for task, (_, job) in self._under_way.items():
            if job in record.waiting:
                self._state[task], self._reasons[task] = _QUEUED, intern(record.waiting[job])
            elif job in record.begun:
                self._state[task] = _RUNNING
                self._reasons.pop(task, None)

    def _outage(self, record: Any) -> None:
        self.outage = record.message

    def _forget(self, record: Any) -> None:
        self._has_forgotten = True
        self._complete.clear()
        for id in record.ids:
            task = self._ids.get(id)
            if task is not None and self._state[task] != _UNKNOWN:
                self._state[task] = _WAITING
                self._lead_count[task] = 0

    def _function(self, raw: Sequence[Any], *_: int) -> bool:
        self._learn(raw[1:])
        return True

    def _learn(self, fields: Sequence[Any]) -> None:
        digest, name, given, *_ = fields
        self._functions[digest] = intern(name), given

    def _recorded(self, raw: Sequence[Any], *_: int) -> bool:
        self._task(*raw[1:])
        return True

    def _task(
        self, id: TaskId, function: bytes, _args: Any, needs: Sequence[TaskId], after: Sequence[TaskId],
        given: dict[str, Any], parent: TaskId | None, *_: Any,
    ) -> int:  # fmt: skip
        """Take a task's record, and return its number."""
        number = self._ids.get(id)
        if number is not None and self._state[number] != _UNKNOWN:
            return number
        edges: Sequence[int] = [self._number(need) for need in needs] if needs else ()
        if after:
            edges = [*edges, *map(self._number, after)]
        variant = self._known_variants.get((function, repr(given)) if given else function)
        if variant is None:
            variant = self._new_variant(function, given)
        if number is None:
            number = self._ids[id] = len(self._ids)
            if number == len(self._state):
                self._make_room()
        self._state[number] = _WAITING
        self._variant[number] = variant
        self._tasks += 1
        if edges:
            self._first[number], self._count[number] = len(self._edges), len(edges)
            self._edges.extend(edges)
        if parent is not None:
            self._parent[number] = self._number(parent)
        if self.detail >= Detail.CURVES:
            self._link(number, edges, len(needs))
        return number

    def _number(self, id: TaskId) -> int:
        """Return the number of a task that may not be recorded yet."""
        number = self._ids.get(id)
        return self._new(id) if number is None else number

    def _new(self, id: TaskId) -> int:
        number = self._ids[id] = len(self._ids)
        if number == len(self._state):
            self._make_room()
        return number

    def _make_room(self) -> None:
        """Lengthen the columns of tasks longer, by many rows at a time."""
        self._state.extend(bytes([_UNKNOWN]) * _ROWS)
        for column in (self._variant, self._ended_count, self._first, self._count, self._lead_first, self._lead_count):
            column.frombytes(bytes(column.itemsize * _ROWS))
        self._ended.frombytes(bytes(8 * _ROWS))
        for column in (self._parent, self._last):
            column.extend(repeat(-1, _ROWS))

    def _link(self, number: int, edges: Sequence[int], needs: int) -> None:
        kinds, variants = self._variants, self._variant
        own = kinds[variants[number]].kind.number
        for position, edge in enumerate(edges):
            self.links[kinds[variants[edge]].kind.number, own, "needs" if position < needs else "after"] = None

    def _new_variant(self, function: bytes, given: dict[str, Any]) -> int:
        name, own = self._functions.get(function, ("?", {}))
        name = given.get("name") or name
        kind = self._known_kinds.get(name)
        if kind is None:
            kind = self._known_kinds[name] = self.measures.kind(name, len(self.kinds))
            self.kinds.append(kind)
        asked = options.resources(options.merge(own, given) if given else own, self._defaults)
        self._variants.append(Variant(kind, asked))
        self._known_variants[(function, repr(given)) if given else function] = len(self._variants) - 1
        return len(self._variants) - 1

    def _started(self, raw: Sequence[Any], *_: int) -> bool:
        _, ids, job, moment = raw
        if self._first_start:  # a new leader is at work: it tries again what failed before
            self._replace_states(_FAILED)
            self._first_start = False
        given = moment, job
        for id in ids:
            task = self._ids.get(id)
            if task is not None and self._state[task] not in _CLOSED:
                self._state[task] = _RUNNING
                self._under_way[task] = given
                if self._reasons:
                    self._reasons.pop(task, None)
        return True

    def _outcome(self, raw: Sequence[Any], offset: int, size: int) -> bool:
        _, id, _, _, refs, tasks, functions, _, _, _, stats, _ = raw
        task = self._ids.get(id)
        if task is None or self._state[task] in _CLOSED:
            return False
        for function in functions:
            self._learn(function)
        if tasks or refs:
            self._lead_to(task, tasks, refs)
        if self.detail:
            self._attempt(task, stats, True, 0, offset, size)
        else:
            self._under_way.pop(task, None)
            self._ended_count[task] += 1
        self._state[task] = _DONE
        if self._problems:
            self._problems.pop(task, None)
        return True

    def _lead_to(self, task: int, tasks: Sequence[Sequence[Any]], refs: Sequence[TaskId]) -> None:
        children = [self._task(*child) for child in tasks]
        if self.detail >= Detail.CURVES:
            own = self.kind_of(task).number
            for child in children:
                self.links[own, self.kind_of(child).number, "creates"] = None
        self._lead_first[task] = len(self._leads)
        self._leads.extend(children)
        self._leads.extend(map(self._number, refs))
        self._lead_count[task] = len(self._leads) - self._lead_first[task]

    def _failure(self, raw: Sequence[Any], offset: int, size: int) -> bool:
        _, id, _, cause, message, _, _, stats, final = raw
        task = self._ids.get(id)
        if task is None or self._state[task] in _CLOSED:
            return False
        causes = self.attempts.causes
        if cause not in causes:
            causes.append(cause)
        self._attempt(task, stats, False, causes.index(cause), offset, size)
        self._state[task] = _FAILED if final else _WAITING
        if not final:
            self.retries[cause] += 1
        self._problems[task] = intern(cause), intern(message)
        return True

    def _attempt(self, task: int, stats: Sequence[Any], is_done: bool, cause: int, offset: int, size: int) -> None:
        """Note an attempt that ended."""
        given, _ = self._under_way.pop(task, _NEVER)
        self._ended_count[task] += 1
        if self.detail < Detail.USAGE:
            return
        if len(stats) < _FIELDS:  # an older version wrote it
            stats = tuple(Stats(*stats))
        wait = self._wait(task, stats[0])
        end = stats[0] + stats[1]
        if is_done:
            self._ended[task] = end
        else:
            self._failed_at[task] = end
        variant = self._variant[task]
        self.measures.add(variant, self._variants[variant], stats, wait, given, is_done=is_done)
        if self.attempts.is_whole and self.detail >= Detail.CURVES:
            self._note(task, stats, wait, cause, offset, size)

    def _note(self, task: int, stats: Sequence[Any], wait: float, cause: int, offset: int, size: int) -> None:
        kept = self.attempts
        if self.detail < Detail.ATTEMPTS and len(kept.task) == _FEW:
            self.attempts = Attempts(is_whole=False)
            return
        self._last[task] = len(kept.task)
        kept.task.append(task)
        kept.cause.append(cause)
        kept.start.append(stats[0])
        kept.wall.append(stats[1])
        kept.cpu.append(stats[2])
        kept.wait.append(wait)
        kept.memory.append(stats[3])
        kept.worker.append(kept.workers.setdefault((stats[4], stats[5]), len(kept.workers)))
        kept.segment.append(len(kept.segments) - 1)
        kept.offset.append(offset)
        kept.size.append(size)

    # When a task could have started

    def _wait(self, task: int, start: float) -> float:
        """Return how long an attempt waited: from when all that it needs was complete, or the last one failed."""
        ready = self._failed_at.get(task, 0.0) if self._failed_at else 0.0
        if not ready:
            count = self._count[task]
            if count:
                first = self._first[task]
                ready = max(map(self._completion, self._edges[first : first + count]))
            elif self._parent[task] >= 0:
                ready = self._ended[self._parent[task]]
        runs = self.runs
        if runs:
            at = bisect_right(runs, start, key=_time) if len(runs) > 1 else runs[0].time <= start
            if at and runs[at - 1].time > ready:
                ready = runs[at - 1].time
        return max(0.0, start - ready) if ready else 0.0

    def _completion(self, wanted: int) -> float:
        """Return when a task and all it led to was done; with a stack, since chains of tasks are deep."""
        if not self._lead_count[wanted]:
            return self._ended[wanted]
        complete, stack = self._complete, [wanted]
        while stack:
            task = stack[-1]
            below = self._below(task)
            if missing := [each for each in below if self._lead_count[each] and each not in complete]:
                stack += missing
                continue
            ends = (complete[each] if self._lead_count[each] else self._ended[each] for each in below)
            complete[stack.pop()] = max(self._ended[task], *ends)
        return complete[wanted]

    def _below(self, task: int) -> array[int]:
        first = self._lead_first[task]
        return self._leads[first : first + self._lead_count[task]]

    # Answers

    @property
    def size(self) -> int:
        """How many tasks are known, also from the names that others have of them."""
        return len(self._ids)

    @property
    def run(self) -> Run | None:
        """The newest run."""
        return self.runs[-1] if self.runs else None

    @property
    def status(self) -> str:
        """The end of the newest run: a status of `records.End`; or ``"open"``; or ``"empty"`` without a run."""
        if self.run is None:
            return "empty"
        end = self.ends.get(self.run.number)
        return end.status if end else "open"

    def stop_running(self) -> None:
        """Mark all running tasks as no longer running, because no leader is alive."""
        self._replace_states(_QUEUED, _RUNNING)
        self._under_way.clear()
        self._reasons.clear()

    def _replace_states(self, *states: int) -> None:
        self._state = self._state.translate(bytes(_WAITING if s in states else s for s in range(256)))

    def current(self) -> bytearray | None:
        """Return which tasks the newest run asked for or led to, one byte each; None if all of them."""
        if len(self.runs) <= 1 and not self._has_forgotten and self._tasks == len(self._ids):
            return None
        if self._mask[0] != self.cursor:
            self._mask = self.cursor, self._reachable()
        return self._mask[1]

    def _reachable(self) -> bytearray:
        seen = bytearray(len(self._ids))
        stack = [self._ids[id] for id in (self.run.roots if self.run else ()) if id in self._ids]
        while stack:
            task = stack.pop()
            if seen[task] or self._state[task] == _UNKNOWN:
                continue
            seen[task] = 1
            first = self._first[task]
            stack.extend(self._edges[first : first + self._count[task]])
            if self._lead_count[task]:
                stack.extend(self._below(task))
        return seen

    def counts(self) -> list[Counter[State]]:
        """Count the tasks of the newest run by state, for each kind."""
        mask = self.current()
        pairs: Iterable[tuple[int, int]] = zip(self._variant[: len(self._ids)], self._state, strict=False)
        if mask is not None:
            pairs = compress(pairs, mask)
        counts: list[Counter[State]] = [Counter() for _ in self.kinds]
        for (variant, state), count in Counter(pairs).items():
            counts[self._variants[variant].kind.number][_STATES[state]] += count
        return counts

    def numbers(self) -> Sequence[int]:
        """Return the numbers of the newest run's tasks."""
        mask = self.current()
        return range(len(self._ids)) if mask is None else list(compress(range(len(self._ids)), mask))

    def in_state(self, *states: State) -> Iterator[int]:
        """Iterate over the numbers of the newest run's tasks in some states."""
        mask = self.current()
        for state in states:
            wanted, at = _STATES.index(state), -1
            while (at := self._state.find(wanted, at + 1)) >= 0:
                if mask is None or mask[at]:
                    yield at

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """Return what is known of some tasks."""
        if not numbers:
            return []
        keys = self.ids()
        return [self._row(number, keys[number]) for number in numbers]

    def _row(self, number: int, id: TaskId) -> Row:
        since, job = self._under_way.get(number, _NEVER)
        cause, error = self._problems.get(number, ("", ""))
        name = self.kind_of(number).name
        state = _STATES[self._state[number]]
        reason = self._reasons.get(number, "") if state is State.QUEUED else ""
        return Row(number, id, name, state, self._ended_count[number], since, job, reason, cause, error)

    def state_of(self, number: int) -> State:
        """Return the state of a task."""
        return _STATES[self._state[number]]

    def kind_of(self, number: int) -> Kind:
        """Return the kind of a task."""
        return self._variants[self._variant[number]].kind

    def error_of(self, number: int) -> str:
        """Return why the last attempt of a task failed; empty if it did not."""
        return self._problems.get(number, ("", ""))[1]

    def count_of(self, number: int) -> int:
        """Return how many attempts of a task have ended."""
        return self._ended_count[number]

    def worker(self, number: int) -> tuple[str, int]:
        """Return the host and the process id of a worker, by its number in `attempts`."""
        if len(self._worker_names) != len(self.attempts.workers):
            self._worker_names = list(self.attempts.workers)
        return self._worker_names[number]

    def last_attempt(self, number: int) -> int | None:
        """Return the index in `attempts` of a task's last attempt; None if the task has none, or if it is not kept."""
        last = self._last[number]
        return last if 0 <= last < len(self.attempts.task) else None

    def position(self, attempt: int) -> Position:
        """Return where in the log the record of an attempt is."""
        kept = self.attempts
        return Position(kept.segments[kept.segment[attempt]], kept.offset[attempt], kept.size[attempt])

    def since(self) -> list[tuple[int, float]]:
        """Return the tasks that are running, and when each was given to the cluster."""
        return [(task, given) for task, (given, _) in self._under_way.items() if self._state[task] == _RUNNING]

    def number(self, id: TaskId) -> int | None:
        """Return the number of a task, or None if the id is unknown."""
        number = self._ids.get(id)
        return None if number is None or self._state[number] == _UNKNOWN else number

    def ids(self) -> list[TaskId]:
        """Return the ids of all tasks, in the order of their numbers."""
        return list(self._ids)


def _blame(segment: Segment) -> None:
    """Raise the error that says which record of a segment is damaged."""
    for position, data in segment.items():
        decode(data, position)


_NEVER = (0.0, "")
_FIELDS = len(Stats._fields)


def _time(run: Run) -> float:
    return run.time
