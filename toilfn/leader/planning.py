"""Plan dry runs: `compute` and `resume` up to the point where they would write to the store."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from itertools import count
from statistics import median
from typing import Any

from toilfn.clusters.local import machine
from toilfn.config.settings import Settings
from toilfn.errors import StoreNotFoundError
from toilfn.files.file import held_by
from toilfn.graph.record import Recorder
from toilfn.graph.serialize import dumps
from toilfn.ids import TaskId
from toilfn.inspect.explain import History, reasons_to_run
from toilfn.inspect.plan import Plan, PlannedTask, by_name
from toilfn.inspect.view import State, TaskInfo
from toilfn.leader.loading import NO_FORCE, REASON, Force, Forced, Loader, forced_by_name, forced_in_graph
from toilfn.model import records
from toilfn.model.index import Index
from toilfn.model.records import encode
from toilfn.model.replay import Replay, read
from toilfn.scheduler.events import Finished, NewTask, Submitted
from toilfn.stores import Store, open_store

__all__ = ["plan_compute", "plan_resume", "sketch_compute"]

_COMPARED = 20
"""How many tasks of each name are compared with earlier ones; more if there are few earlier ones."""

_COMPARISONS = 200_000
"""How many pairs of tasks are compared for each name."""

_STAND_IN = "memory://toilfn-dry-run-"
"""The prefix of the address of the store that stands in for one that does not exist."""


class _Nowhere:
    """Stands in for a store that recording writes blobs to."""

    def __init__(self) -> None:
        self._count = count()

    def put_blob(self, data: bytes) -> records.BlobRef:
        return records.BlobRef(f"nowhere-{next(self._count)}", len(data), b"")

    def put_buffer(self, data: memoryview, *, name: str | None = None) -> records.BlobRef:
        return records.BlobRef("", data.nbytes, b"")


def plan_compute(wanted: Any, settings: Settings, force: Force = NO_FORCE) -> Plan:
    """Return what `compute` would do with promises.

    Parameters
    ----------
    wanted : object
        A structure that holds promises.
    settings : Settings
    force : Force
        Finished tasks that run again.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    with _reading(settings) as store:
        made = _Maker(store, settings)
        recorder = Recorder(_Nowhere())
        _, roots = dumps(wanted, recorder.identify)
        made.force(forced_in_graph(force, recorder, made.index, roots))
        made.add(recorder)
        unseen = [f"whether {place} ({what}) has changed" for place, what in sorted(recorder.not_compared.items())]
        return made.plan(roots, {*recorder.ids(), *roots}, unseen)


def sketch_compute(wanted: Any, settings: Settings) -> tuple[list[TaskInfo], bool]:
    """Return the tasks that promises lead to, as far as they are known before the run, and whether any would run."""
    with _reading(settings) as store:
        made = _Maker(store, settings)
        recorder = Recorder(_Nowhere())
        _, roots = dumps(wanted, recorder.identify)
        made.add(recorder)
        return made.tasks({*recorder.ids(), *roots}), not all(map(made.index.is_complete, roots))


def plan_resume(settings: Settings, force: Force = NO_FORCE) -> Plan:
    """Return what `resume` would do with the store that the settings name."""
    with _reading(settings, needed=True) as store:
        made = _Maker(store, settings)
        run = made.index.runs[-1] if made.index.runs else None
        forced = forced_by_name(force, made.index, run.roots if run else (), store.open_blob)
        made.force(forced)
        roots = (*run.roots, *run.forced, *forced.ids) if run else ()
        return made.plan(roots, made.reached(roots), [])


@contextmanager
def _reading(settings: Settings, *, needed: bool = False) -> Iterator[Store]:
    """Open the store to read it; a store that does not exist counts as empty, unless it is needed."""
    options = settings.store_options or {}
    try:
        store = open_store(settings.store, create=False, **options) if settings.store else None
    except StoreNotFoundError:
        if needed:
            raise
        store = None
    store = store or open_store(f"{_STAND_IN}{secrets.token_hex(8)}")
    try:
        with held_by(store):
            yield store
    finally:
        if store.url.startswith(_STAND_IN):
            store.destroy()


class _Maker:
    """Compares a graph with a store as the leader would, to find out what would run."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._settings = settings
        self.index = Index.load(store.log)
        self._store = store
        self._recorders: list[Recorder] = []
        self._replay = Replay()
        self._history = History((), self._read)
        for record in read(store.log):
            self._learn(record)
        self._known = set(self._history.tasks)
        self._earlier = self._earlier_of_each_name()
        self._loader = Loader(self.index, settings, store.payload)
        self._forgotten: dict[TaskId, str] = {}
        self._created = Counter(self._name(task.parent) for task in self._history.tasks.values() if task.parent)

    def _read(self, ref: records.BlobRef) -> bytes:
        """Read the earlier or present contents of a folder, from the store or from the script's own graph."""
        listings = (recorder.listing(ref) for recorder in self._recorders)
        found = next((listing for listing in listings if listing is not None), None)
        return self._store.get_blob(ref) if found is None else found

    def _earlier_of_each_name(self) -> dict[str, list[records.TaskRecord]]:
        found: dict[str, list[records.TaskRecord]] = defaultdict(list)
        for task in self._history.tasks.values():
            found[self._history.name(task)].append(task)
        return dict(found)

    def _name(self, id: TaskId) -> str:
        task = self._history.tasks.get(id)
        return self._history.name(task) if task else "?"

    def add(self, recorder: Recorder) -> None:
        """Add the tasks of a script."""
        self._recorders.append(recorder)
        for record in recorder.emit(self.index.is_complete, self.index.outcomes.__contains__, []):
            if isinstance(record, records.TaskRecord):
                self._loader.add(record, encode(record))
            else:
                self.index.functions[record.digest] = record
            self._learn(record)

    def _learn(self, record: records.Record) -> None:
        for fact in self._replay.facts(record):
            self._history.add(fact)

    def force(self, forced: Forced) -> None:
        """Have finished tasks run again; before `add`."""
        self._loader.stale.force(forced.again, REASON)

    def reached(self, roots: Iterable[TaskId]) -> set[TaskId]:
        """Return the tasks that roots need or led to, as far as the store knows them."""
        seen: set[TaskId] = set()
        stack = list(roots)
        while stack:
            id = stack.pop()
            task = self._history.tasks.get(id)
            if id not in seen and task is not None:
                seen.add(id)
                stack.extend((*task.needs, *task.after, *self._history.led_to(id)))
        return seen

    def tasks(self, asked: Iterable[TaskId]) -> list[TaskInfo]:
        """Return the known facts about tasks and about all that they need or led to."""
        reached, history = self.reached(asked), self._history
        found = []
        for id, task in history.tasks.items():
            if id in reached:
                info = TaskInfo(id, history.name(task), task.needs, task.after, task.parent)
                if id in history.done:
                    info.state = State.DONE
                elif (failure := history.failures.get(id)) and failure.final:
                    info.state = State.FAILED
                if id in history.done:
                    info.children = tuple(led for led in history.led_to(id) if history.tasks[led].parent == id)
                found.append(info)
        return found

    def plan(self, roots: tuple[TaskId, ...], asked: set[TaskId], unseen: list[str]) -> Plan:
        """Return what the leader would run for `roots`; `asked` are all tasks that the script requests."""
        new: list[NewTask] = []
        waits: dict[TaskId, tuple[TaskId, ...]] = {}
        self._loader.stale.renew_results(roots)
        for event in () if all(map(self.index.is_complete, roots)) else self._loader.load(roots):
            if isinstance(event, Submitted):
                new += event.tasks
            elif isinstance(event, Finished):
                waits[event.id] = event.waits
        self._forgotten = self._loader.stale.take_forgotten()
        would_run = [task for task in new if task.id not in waits]
        planned = self._planned(would_run)
        running = {task.id for task in would_run}
        reused = Counter(self._name(id) for id in self.reached(asked) - running if id in self._history.done)
        work, longest = _durations(new, waits, planned)
        return Plan(
            store=self._settings.store,
            tasks=tuple(planned),
            reused=dict(reused),
            work=work,
            longest=longest,
            elapsed=self._elapsed(work, longest),
            unknown=(*self._unknown(planned), *unseen),
        )

    def _planned(self, tasks: list[NewTask]) -> list[PlannedTask]:
        compared: Counter[str] = Counter()
        planned = []
        ids = {task.id for task in tasks}
        for task in tasks:
            name = self._name(task.id)
            earlier = self._earlier.get(name, [])
            compared[name] += 1
            is_compared = compared[name] <= max(_COMPARED, _COMPARISONS // (len(earlier) or 1))
            reasons = self._reasons(task.id, earlier) if is_compared else ()
            shape = None if task.is_late else task.shape
            needs = tuple(need.hex() for need in task.needs if need in ids)
            planned.append(PlannedTask(task.id.hex(), name, reasons, shape, self._seconds(name), needs))
        return planned

    def _reasons(self, id: TaskId, earlier: list[records.TaskRecord]) -> tuple[str, ...]:
        """Return why a task would run."""
        history = self._history
        if id not in self._known:
            return reasons_to_run(history, history.tasks[id], earlier)
        if self._forgotten.get(id) == REASON:
            return (REASON,)
        if id in history.done:
            return ("a file that it created was deleted, or a service has stopped, and a task that will run needs it",)
        if failure := history.failures.get(id):
            return (f"it failed before: {failure.message}",)
        return ("no earlier run has finished it",)

    def _seconds(self, name: str) -> float | None:
        seconds = self._history.seconds
        walls = [seconds[task.id] for task in self._earlier.get(name, []) if task.id in seconds]
        return median(walls) if walls else None

    def _unknown(self, planned: list[PlannedTask]) -> Iterator[str]:
        names = by_name(planned)
        if unseen := [name for name, tasks in names.items() if tasks[0].seconds is None]:
            yield f"time and created tasks of {', '.join(unseen)}: none of them has finished in this store"
        for name, tasks in names.items():
            if any(task.resources is None for task in tasks):
                yield f"the resources of {name}: they depend on values that other tasks compute"
            if self._created[name]:
                yield f"the tasks that {name} creates: it has created {self._created[name]} in this store so far"

    def _elapsed(self, work: float | None, longest: float | None) -> float | None:
        if work is None or longest is None:
            return None
        limits = [self._settings.max_jobs]
        if self._settings.cluster in (None, "local"):
            limits.append(self._settings.workers or int(machine.cores()))
        slots = min(filter(None, limits), default=None)
        return None if slots is None else max(longest, work / slots)


def _durations(
    tasks: list[NewTask], waits: dict[TaskId, tuple[TaskId, ...]], planned: list[PlannedTask]
) -> tuple[float | None, float | None]:
    """Return the expected seconds of all tasks together and of the longest chain; None where one is not known."""
    if not planned or any(task.seconds is None for task in planned):
        return None, None
    seconds = {bytes.fromhex(task.id): task.seconds or 0.0 for task in planned}
    needs = {task.id: (*task.needs, *waits.get(task.id, ())) for task in tasks}
    ends: dict[TaskId, float] = {}
    for id in TopologicalSorter(needs).static_order():
        before = max((ends[need] for need in needs.get(id, ())), default=0.0)
        ends[id] = before + seconds.get(id, 0.0)
    return sum(seconds.values()), max(ends.values())
