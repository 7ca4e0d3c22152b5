"""Read a log into a fold: records of the most frequent kinds in blocks, all others one by one."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, compress, repeat
from operator import add
from sys import intern
from typing import Any

import msgpack

from toilfn.config.settings import Settings
from toilfn.errors import StoreError
from toilfn.graph import options
from toilfn.ids import TaskId
from toilfn.inspect.fold.columns import Attempts, Block, Detail, Item, Kind, Variant
from toilfn.inspect.fold.measures import Measures
from toilfn.model import records
from toilfn.model.records import End, Epoch, Forget, Queue, Run, Stats, assert_never, decode, uncollected
from toilfn.stores import Store
from toilfn.stores.log import Position
from toilfn.stores.segments import Segment

__all__ = ["DONE", "FAILED", "NEVER", "QUEUED", "RUNNING", "UNKNOWN", "WAITING", "Reader"]

WAITING, QUEUED, RUNNING, DONE, FAILED, UNKNOWN = range(6)
"""States by number, in the order of `State`; an unknown task was named by another one, and not recorded itself."""
NEVER = (0.0, "")
"""When a task was given to the cluster, and the job, if that has never happened."""
_CLOSED = (DONE, UNKNOWN)
"""States of tasks of which further attempts do not count."""
_FEW = 100_000
"""The most attempts that are kept where only curves are wanted: so many can be drawn one by one."""
_ROWS = 4096
"""The number of rows by which columns of tasks grow."""
_READ_AGAIN = 5
"""How often a log is read from its start when its leader compacts it meanwhile."""
_TOGETHER = 512
"""The most records that are taken together."""
_ALONE = 3
"""So few records are read more quickly one by one."""
_FIELDS = len(Stats._fields)


class Reader:
    """The content of a `Fold`, and the readers of records that fill it.

    Parameters
    ----------
    detail : Detail
        How much to keep.
    """

    def __init__(self, detail: Detail = Detail.STATES) -> None:
        self.detail = detail
        self._readers: dict[str, Callable[..., bool]] = {
            "outcome": self._outcome, "task": self._recorded, "failure": self._failure, "started": self._started,
            "function": self._function,
        }  # fmt: skip
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

    def state(self) -> dict[str, Any]:
        """Return all that was read, for `restore`."""
        return {name: value for name, value in vars(self).items() if name != "_readers"}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where another reader of the same log was."""
        vars(self).update(state)

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
        not used is checked like those of all other kinds. Tasks and outcomes wait until there are many; what is
        read meanwhile takes neither away from the others' place.
        """
        unpacker = msgpack.Unpacker(use_list=False, strict_map_key=False, max_buffer_size=len(segment.data) + 1)
        unpacker.feed(memoryview(segment.data)[segment.start :])
        self.attempts.segments.append(segment.name)
        offsets = accumulate(segment.sizes, initial=segment.start)
        block = Block(segment)
        tasks, outcomes = block.tasks, block.outcomes
        try:
            for item in zip(unpacker, offsets, segment.sizes, strict=False):
                raw = item[0]
                kind = raw[0]
                if kind == "outcome":
                    if raw[1] in outcomes or len(outcomes) == _TOGETHER:
                        self._take(block)
                    outcomes[raw[1]] = item
                elif kind == "task":
                    tasks.append(item)
                    if len(tasks) == _TOGETHER:
                        self._take_tasks(block)
                else:
                    self._take_tasks(block)
                    if kind != "started" or self._depends(raw[1], outcomes):
                        self._take(block)
                    self._one(item, segment)
            self._take(block)
        except Exception:  # msgpack has many kinds
            for position, data in segment.items():  # say which record is damaged
                decode(data, position)
            raise

    def _depends(self, started: Sequence[TaskId], outcomes: dict[TaskId, Item]) -> bool:
        """Return whether started tasks have outcomes that wait, or may be created by the tasks of such outcomes."""
        return not (outcomes.keys().isdisjoint(started) and all(map(self._ids.__contains__, started)))

    def _one(self, item: Item, segment: Segment) -> None:
        """Take one record."""
        raw, offset, size = item
        reader = self._readers.get(raw[0])
        if reader is None or not reader(raw, offset, size):
            record = decode(segment.data[offset : offset + size], Position(segment.name, offset, size))
            if reader is None:
                self._other(record)

    def _take(self, block: Block) -> None:
        """Take all records that wait."""
        self._take_tasks(block)
        items = list(block.outcomes.values())
        if len(items) <= _ALONE or not self._outcomes(items):
            for item in items:
                self._one(item, block.segment)
        block.outcomes.clear()

    def _take_tasks(self, block: Block) -> None:
        items = block.tasks
        if len(items) <= _ALONE or not self._new_tasks(items):
            for item in items:
                self._one(item, block.segment)
        items.clear()

    # Records

    def _other(self, record: records.Record) -> None:
        match record:
            case Epoch():
                self._epoch(record)
            case Run():
                self._run(record)
            case End():
                self._end(record)
            case Queue():
                self._queue(record)
            case Forget():
                self._forget(record)
            case records.Outage():
                self.outage = record.message
            case records.Deleted():
                self.measures.remove(record.time, record.names)
            case records.Outcome() | records.Failure() | records.TaskRecord() | records.Started() | records.Function():
                raise AssertionError("it has a reader of its own")
            case _:
                assert_never(record)

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
        self._variants = [v._replace(asked=options.resources(v.options, self._defaults)) for v in self._variants]
        self._known_variants.clear()
        if self.detail >= Detail.CURVES:
            self.measures.begin(record.time, self.kinds)

    def _end(self, record: End) -> None:
        self.requests += record.requests
        self.ends[record.number] = record
        self.stop_running()

    def _queue(self, record: Queue) -> None:
        self.has_queue = True
        for task, (_, job) in self._under_way.items():
            if job in record.waiting:
                self._state[task], self._reasons[task] = QUEUED, intern(record.waiting[job])
            elif job in record.begun:
                self._state[task] = RUNNING
                self._reasons.pop(task, None)

    def _forget(self, record: Forget) -> None:
        self._has_forgotten = True
        self._complete.clear()
        for id in record.ids:
            task = self._ids.get(id)
            if task is not None and self._state[task] != UNKNOWN:
                self._state[task] = WAITING
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
        if number is not None and self._state[number] != UNKNOWN:
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
        self._state[number] = WAITING
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

    def _new_tasks(self, items: list[Item]) -> bool:
        """Take the records of many tasks; return False if they have to be taken one by one."""
        _, ids, functions, _, needs, after, given, parents, *_ = zip(*next(zip(*items, strict=True)), strict=True)
        is_plain = not any(after) and parents.count(None) == len(ids) == len(set(ids))
        if not is_plain or not self._ids.keys().isdisjoint(ids):
            return False
        keys = functions
        if any(given):
            keys = tuple((f, repr(own)) if own else f for f, own in zip(functions, given, strict=True))
        for key, (function, own) in dict(zip(keys, zip(functions, given, strict=True), strict=True)).items():
            if key not in self._known_variants:
                self._new_variant(function, own)
        first = len(self._ids)
        self._ids.update(zip(ids, range(first, first + len(ids)), strict=True))
        while len(self._state) <= len(self._ids):
            self._make_room()
        rows = slice(first, first + len(ids))
        self._state[rows] = bytes([WAITING]) * len(ids)
        self._variant[rows] = variants = array("I", map(self._known_variants.__getitem__, keys))
        self._tasks += len(ids)
        self._need(rows, needs, variants)
        return True

    def _need(self, rows: slice, needs: Sequence[Sequence[TaskId]], variants: array[int]) -> None:
        """Note the needs of new tasks."""
        wanted = list(chain.from_iterable(needs))
        edges = [number for number in map(self._ids.get, wanted) if number is not None]
        if len(edges) < len(wanted):  # of tasks that are not recorded yet
            edges = list(map(self._number, wanted))
        if not edges:
            return
        counts = array("I", map(len, needs))
        self._first[rows] = array("I", accumulate(counts, initial=len(self._edges)))[:-1]
        self._count[rows] = counts
        self._edges.extend(edges)
        if self.detail >= Detail.CURVES:
            owners = chain.from_iterable(map(repeat, variants, counts))
            for pair in dict.fromkeys(zip(map(self._variant.__getitem__, edges), owners, strict=True)):
                before, own = (self._variants[variant].kind.number for variant in pair)
                self.links[before, own, "needs"] = None

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
        """Lengthen the columns of tasks, by many rows at a time."""
        self._state.extend(bytes([UNKNOWN]) * _ROWS)
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
        own = options.merge(own, given) if given else own
        self._variants.append(Variant(kind, options.resources(own, self._defaults), own))
        self._known_variants[(function, repr(given)) if given else function] = len(self._variants) - 1
        return len(self._variants) - 1

    def _started(self, raw: Sequence[Any], *_: int) -> bool:
        _, ids, job, moment = raw
        if self._first_start:  # a new leader is at work: it tries again what failed before
            self._replace_states(FAILED)
            self._first_start = False
        given = moment, job
        for id in ids:
            task = self._ids.get(id)
            if task is not None and self._state[task] not in _CLOSED:
                self._state[task] = RUNNING
                self._under_way[task] = given
                if self._reasons:
                    self._reasons.pop(task, None)
        return True

    def _outcome(self, raw: Sequence[Any], offset: int, size: int) -> bool:
        _, id, _, _, refs, tasks, functions, blobs, _, _, stats, _ = raw
        task = self._ids.get(id)
        if task is None or self._state[task] in _CLOSED:
            return False
        for function in functions:
            self._learn(function)
        if tasks or refs:
            self._lead_to(task, tasks, refs)
        if self.detail:
            self._attempt(task, stats, True, 0, offset, size)
            if blobs:
                self.measures.store(stats[0] + stats[1], blobs)
        else:
            self._under_way.pop(task, None)
            self._ended_count[task] += 1
        self._state[task] = DONE
        if self._problems:
            self._problems.pop(task, None)
        return True

    def _outcomes(self, items: list[Item]) -> bool:
        """Take the outcomes of many tasks; return False if they have to be taken one by one."""
        raws, offsets, sizes = zip(*items, strict=True)
        _, ids, _, _, refs, tasks, functions, blobs, _, _, stats, _ = zip(*raws, strict=True)
        numbers = [number for number in map(self._ids.get, ids) if number is not None]
        if any(refs) or any(tasks) or any(functions) or len(numbers) < len(ids):
            return False
        if not set(_CLOSED).isdisjoint(map(self._state.__getitem__, numbers)):
            return False
        if self.detail:
            self._attempts_done(numbers, stats, offsets, sizes)
            for made, own in compress(zip(blobs, stats, strict=True), blobs):
                self.measures.store(own[0] + own[1], made)
        else:
            for number in numbers:
                self._under_way.pop(number, None)
        state, counts = self._state, self._ended_count
        for number in numbers:
            state[number] = DONE
            counts[number] += 1
        for number in self._problems.keys() & set(numbers):
            del self._problems[number]
        return True

    def _attempts_done(
        self, numbers: Sequence[int], stats: Sequence[Sequence[Any]], offsets: Sequence[int], sizes: Sequence[int]
    ) -> None:
        """Note attempts that succeeded."""
        if {*map(len, stats)} != {_FIELDS}:  # an older version wrote them
            stats = [tuple(Stats(*own)) for own in stats]
        given = [self._under_way.pop(number, NEVER)[0] for number in numbers]
        starts, walls, *_ = zip(*stats, strict=True)
        for number, end in zip(numbers, map(add, starts, walls), strict=True):
            self._ended[number] = end
        waits = self._waits(numbers, starts)
        variants = array("I", map(self._variant.__getitem__, numbers))
        for variant in dict.fromkeys(variants):
            parts: Iterable[Sequence[Any]] = (stats, waits, given)
            if variants.count(variant) < len(variants):
                parts = ([*compress(part, map(variant.__eq__, variants))] for part in parts)
            self.measures.add(variant, self._variants[variant], *parts, is_done=True)
        if self.attempts.is_whole and self.detail >= Detail.CURVES:
            self._note(numbers, stats, waits, 0, offsets, sizes)

    def _lead_to(self, task: int, tasks: Sequence[Sequence[Any]], refs: Sequence[TaskId]) -> None:
        children = [self._task(*child) for child in tasks]
        if self.detail >= Detail.CURVES:
            own = self._variants[self._variant[task]].kind.number
            for child in children:
                self.links[own, self._variants[self._variant[child]].kind.number, "creates"] = None
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
        self._state[task] = FAILED if final else WAITING
        if not final:
            self.retries[cause] += 1
        self._problems[task] = intern(cause), intern(message)
        return True

    def _attempt(self, task: int, stats: Sequence[Any], is_done: bool, cause: int, offset: int, size: int) -> None:
        """Note a finished attempt."""
        given, _ = self._under_way.pop(task, NEVER)
        self._ended_count[task] += 1
        if self.detail < Detail.USAGE:
            return
        if len(stats) < _FIELDS:  # an older version wrote it
            stats = tuple(Stats(*stats))
        (wait,) = self._waits([task], [stats[0]])
        end = stats[0] + stats[1]
        if is_done:
            self._ended[task] = end
        else:
            self._failed_at[task] = end
        variant = self._variant[task]
        self.measures.add(variant, self._variants[variant], [stats], [wait], [given], is_done=is_done)
        if self.attempts.is_whole and self.detail >= Detail.CURVES:
            self._note([task], [stats], [wait], cause, [offset], [size])

    def _note(
        self, tasks: Sequence[int], stats: Sequence[Sequence[Any]], waits: Sequence[float], cause: int,
        offsets: Sequence[int], sizes: Sequence[int],
    ) -> None:  # fmt: skip
        """Keep attempts of one cause in columns."""
        kept = self.attempts
        first = len(kept.task)
        if self.detail < Detail.ATTEMPTS and first + len(tasks) > _FEW:
            self.attempts = Attempts(is_whole=False)
            return
        for last, task in enumerate(tasks, first):
            self._last[task] = last
        starts, walls, cpus, memories, hosts, workers, *_ = zip(*stats, strict=True)
        kept.task.extend(tasks)
        kept.start.extend(starts)
        kept.wall.extend(walls)
        kept.cpu.extend(cpus)
        kept.wait.extend(waits)
        kept.memory.extend(memories)
        kept.offset.extend(offsets)
        kept.size.extend(sizes)
        kept.cause.extend(repeat(cause, len(tasks)))
        kept.segment.extend(repeat(len(kept.segments) - 1, len(tasks)))
        known = kept.workers
        kept.worker.extend(known.setdefault(key, len(known)) for key in zip(hosts, workers, strict=True))

    def stop_running(self) -> None:
        """Mark all running tasks as no longer running, because no leader is alive."""
        self._replace_states(QUEUED, RUNNING)
        self._under_way.clear()
        self._reasons.clear()

    def _replace_states(self, *states: int) -> None:
        self._state = self._state.translate(bytes(WAITING if s in states else s for s in range(256)))

    # When a task could have started

    def _waits(self, tasks: Sequence[int], starts: Sequence[float]) -> list[float]:
        """Return how long attempts waited since their needs were complete or the previous attempt failed."""
        failed, edges, firsts, counts = self._failed_at, self._edges, self._first, self._count
        completion = self._completion if self._leads else self._ended.__getitem__
        runs = [run.time for run in self.runs]
        newest = runs[-1] if runs else 0.0
        waits = []
        for task, start in zip(tasks, starts, strict=True):
            ready = failed.get(task, 0.0) if failed else 0.0
            if not ready:
                count = counts[task]
                if count == 1:
                    ready = completion(edges[firsts[task]])
                elif count:
                    ready = max(map(completion, edges[firsts[task] : firsts[task] + count]))
                elif self._parent[task] >= 0:
                    ready = self._ended[self._parent[task]]
            begun = newest if start >= newest else max((time for time in runs if time <= start), default=0.0)
            if begun > ready:
                ready = begun
            waits.append(start - ready if 0 < ready < start else 0.0)
        return waits

    def _completion(self, wanted: int) -> float:
        """Return when a task and all tasks that it led to were done; without recursion, since chains are deep."""
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
