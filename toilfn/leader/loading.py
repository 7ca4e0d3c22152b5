"""Pass unfinished tasks of a store to a scheduler, with those that run again because the user requests it.

The requests are `compute(force=[...])` and `toilfn rerun`; `forced_in_graph` and `forced_by_name` find their tasks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO

from toilfn.config.settings import Settings
from toilfn.errors import GraphError, InputError
from toilfn.graph import options
from toilfn.graph.requirements import LATE, unpack
from toilfn.graph.serialize import resolve
from toilfn.graph.values import Entry
from toilfn.ids import Budget, TaskId
from toilfn.leader.intermediates import FILE, file_names
from toilfn.model import records
from toilfn.model.index import Index
from toilfn.model.records import BlobRef, TaskRecord, display_name, encode
from toilfn.resources import Resources
from toilfn.scheduler.events import Event, Finished, NewTask, Submitted

if TYPE_CHECKING:
    from toilfn.graph.promise import Promise
    from toilfn.graph.record import Recorder

__all__ = [
    "NO_FORCE", "REASON", "Force", "Forced", "Loader", "StaleOutcomes", "TaskRecords", "forced_by_name",
    "forced_in_graph", "known_names",
]  # fmt: skip

_FUNCTION_START = len(records.start_of(records.TaskRecord)) + 16 + 2
_FUNCTION = slice(_FUNCTION_START, _FUNCTION_START + 16)
"""Where a function's digest is in the encoded record of a task."""
_NAME_OPTION = b"\xa4name"
"""Bytes in the encoded record of each task whose call has the option `name`, and in few others."""


class StaleOutcomes:
    """Takes outcomes back in an index.

    Services have ended with their earlier users. Clients of services may have led to what knows a service that is
    gone. Files may have been deleted when all that needed them had run.

    Parameters
    ----------
    index : Index
    payload : callable
        Reads a large value.
    """

    def __init__(self, index: Index, payload: Callable[[bytes | BlobRef], bytes]) -> None:
        self._index = index
        self._payload = payload
        self._checked: set[TaskId] = set()
        self._forgotten: dict[TaskId, str] = {}
        self._gone, self._dropped = _keys(index.deleted), _keys(index.dropped)

    def prepare(self, task: records.TaskRecord, created: Container[TaskId] = ()) -> None:
        """Repeat the tasks that a task needs, as far as necessary for it to run.

        The tasks of `created` have new records, whatever they named before.
        """
        if self._has_services():
            for id_ in (*task.needs, *task.after):
                if id_ in self._index.outcomes and self._is_service(id_):
                    self._index.forget(id_)
        if self._gone:
            self._renew(self._holders(task.needs, self._gone, self._checked), created)

    def recall(self, task: records.TaskRecord) -> None:
        """Run a task again whose outcome has led to tasks that are incomplete and cannot run as they are.

        The task may know a service that has stopped, or name files that no longer exist.
        """
        if self._has_services() and any(map(self._is_service, (*task.needs, *task.after))):
            self._forget(task.id, "a service that it used has stopped")
        elif self._gone:
            children = (id_ for id_ in self._index.leads_to(task.id) if id_ not in self._index.outcomes)
            if any(self._names_gone(self._index.task(id_)) for id_ in children):
                self._renew([task.id])

    def lacks_files(self, roots: Iterable[TaskId]) -> bool:
        """Return whether values that a run returns hold files that were dropped."""
        return any(True for _ in self._lacking(roots))

    def renew_results(self, roots: Iterable[TaskId], created: Container[TaskId] = ()) -> None:
        """Run tasks again that made files which were dropped and which a run, or a task, returns."""
        self._renew(self._lacking(roots), created)

    def force(self, ids: Iterable[TaskId], reason: str) -> None:
        """Have finished tasks run again."""
        for id_ in ids:
            self._forget(id_, reason)

    def take_forgotten(self) -> dict[TaskId, str]:
        """Return the tasks whose outcomes no longer hold, with the reasons, once."""
        forgotten, self._forgotten = self._forgotten, {}
        return forgotten

    def _lacking(self, roots: Iterable[TaskId]) -> Iterator[TaskId]:
        return self._holders(roots, self._dropped, set()) if self._dropped else iter(())

    def _renew(self, holders: Iterable[TaskId], created: Container[TaskId] = ()) -> None:
        """Run tasks again whose values contain files that no longer exist: those that created the files or passed them.

        A task that was created with the name of such a file is created anew.
        """
        stack = list(holders)
        while stack:
            id_ = stack.pop()
            if id_ not in self._index.outcomes:
                continue
            task = self._index.task(id_)
            self._forget(id_, "a file that it created no longer exists, and a task that will run needs it")
            stack += self._holders(task.needs, self._gone, self._checked)
            if task.parent is not None and id_ not in created and self._names_gone(task):
                stack.append(task.parent)

    def _holders(self, needs: Iterable[TaskId], gone: set[bytes], checked: set[TaskId]) -> Iterator[TaskId]:
        """Find the tasks whose values are needed and contain a file that no longer exists."""
        stack = list(needs)
        while stack:
            id_ = stack.pop()
            if id_ in checked or id_ not in self._index.outcomes:
                continue
            checked.add(id_)
            value, refs = self._index.value(id_)
            if not gone.isdisjoint(self._names(value)):
                yield id_
            else:
                stack += refs

    def _names(self, payload: bytes | BlobRef) -> list[bytes]:
        return FILE.findall(self._payload(payload))

    def _names_gone(self, task: records.TaskRecord) -> bool:
        return not self._gone.isdisjoint(self._names(task.args))

    def _forget(self, id_: TaskId, reason: str) -> None:
        self._index.forget(id_)
        self._forgotten[id_] = reason

    def _is_service(self, id_: TaskId) -> bool:
        return options.SERVICE in self._index.functions[self._index.task(id_).function].options

    def _has_services(self) -> bool:
        return any(options.SERVICE in function.options for function in self._index.functions.values())


def _keys(names: Iterable[str]) -> set[bytes]:
    return {match.group() for name in names if (match := FILE.match(name.encode()))}


class Loader:
    """Turns task records into the scheduler's tasks.

    Attributes
    ----------
    stale : StaleOutcomes
        Takes outcomes back; those of tasks that run again at the user's request before `add` and `load`.
    encoded : dict
        The records of tasks that have no outcome yet, as workers get them.
    """

    def __init__(self, index: Index, settings: Settings, payload: Callable[[bytes | BlobRef], bytes]) -> None:
        self._index = index
        self._payload = payload
        self._settings = settings
        self._defaults = options.defaults(settings)
        self._kinds: dict[bytes, int] = {}
        self._asked = lru_cache(maxsize=4096)(self._resolve)
        self.stale = StaleOutcomes(index, payload)
        self._new: list[NewTask] = []
        self.encoded: dict[TaskId, bytes] = {}

    def add(self, task: records.TaskRecord, data: bytes) -> None:
        """Add a task that has just been written to the log, with its encoded record."""
        self.stale.prepare(task)
        self._new.append(self.admit(task, data))

    def load(self, roots: Iterable[TaskId]) -> Iterator[Event]:
        """Build the events that bring tasks, and all that they still need, to the scheduler.

        Tasks that are complete are left out. Those that have an outcome but led to something
        that is not complete come with it, as if they had just finished. Tasks that were added are
        among them.
        """
        new, self._new = self._new, []
        stack = [need for task in new for need in task.needs if need not in self.encoded]
        stack.extend(roots)
        finished: list[Finished] = []
        seen: set[TaskId] = set()
        while stack:
            id_ = stack.pop()
            if id_ in seen or id_ in self.encoded or self._index.is_complete(id_):
                continue
            seen.add(id_)
            task = self._index.task(id_)
            if id_ in self._index.outcomes:
                self.stale.recall(task)
            if id_ not in self._index.outcomes:
                self.stale.prepare(task)
            new.append(self.admit(task))
            stack.extend((*task.needs, *task.after))
            if id_ in self._index.outcomes:
                del self.encoded[id_]
                leads_to = tuple(i for i in self._index.leads_to(id_) if not self._index.is_complete(i))
                finished.append(Finished(id_, waits=leads_to))
                stack.extend(leads_to)
        yield Submitted(tuple(new))
        del new
        yield from finished

    def admit(self, task: records.TaskRecord, data: bytes | None = None) -> NewTask:
        """Keep a task's record, encoded as `data`, and return what the scheduler needs to know about it."""
        self.encoded[task.id] = encode(task) if data is None else data
        shape, budget = self._asks(task)
        needs = (*task.needs, *task.after)
        if needs:
            needs = tuple(need for need in needs if not self._index.is_complete(need))
        kind = self._kinds.setdefault(task.function, len(self._kinds))
        is_checkpoint = options.is_checkpoint(self._index.functions[task.function].options, task.options)
        kinds = LATE in task.options, self.is_service(task), is_checkpoint
        return NewTask(task.id, needs, shape, kind, budget, task.parent, *kinds)

    def is_service(self, task: records.TaskRecord) -> bool:
        """Return whether a task is a service."""
        return options.SERVICE in self._index.functions[task.function].options

    def prepare(self, outcome: records.Outcome) -> None:
        """Repeat tasks whose files no longer exist, if an outcome returns them or tasks that it created need them."""
        created = {task.id for task in outcome.tasks}
        for task in outcome.tasks:
            if task.id not in self._index.outcomes:
                self.stale.prepare(task, created)
        if outcome.refs:
            self.stale.renew_results(outcome.refs, created)

    def late_shape(
        self, task: records.TaskRecord, closure: Callable[[Iterable[TaskId]], Mapping[TaskId, Entry]]
    ) -> Resources:
        """Return the resources of a task whose requirements come from values.

        Parameters
        ----------
        task : records.TaskRecord
        closure : callable
            Gives the values of tasks, and of all that they refer to.

        Raises
        ------
        ResourceError
            If a value is not valid for its requirement.
        """
        awaited = task.options[LATE][1]
        entries = {id_: (self._payload(value), refs) for id_, (value, refs) in closure(awaited).items()}
        own = options.merge(self._index.functions[task.function].options, task.options)
        return options.resources(unpack(own, resolve(awaited, entries)), self._defaults)

    def _asks(self, task: records.TaskRecord) -> tuple[Resources, Budget]:
        asked = self._asked if _plain(task.options) else self._resolve
        return asked(task.function, tuple(task.options.items()))

    def _resolve(self, digest: bytes, overrides: tuple[tuple[str, object], ...]) -> tuple[Resources, Budget]:
        asked = options.merge(self._index.functions[digest].options, dict(overrides))
        return options.resources(asked, self._defaults), options.budget(asked, self._settings)


def _plain(values: dict[str, object]) -> bool:
    return all(value is None or isinstance(value, (str, int, float)) for value in values.values())


class TaskRecords:
    """Looks tasks up, first among those that have no outcome.

    Parameters
    ----------
    index : Index
    loader : Loader
    """

    def __init__(self, index: Index, loader: Loader) -> None:
        self._index = index
        self._loader = loader

    def encoded(self, id_: TaskId) -> bytes:
        """Return the record of a task that has no outcome, as workers get it."""
        return self._loader.encoded[id_]

    def is_open(self, id_: TaskId) -> bool:
        """Return whether a task is known and has no outcome."""
        return id_ in self._loader.encoded

    def get(self, id_: TaskId) -> records.TaskRecord:
        """Return a task's record.

        Raises
        ------
        KeyError
            If it has an outcome since this leader has run it.
        """
        data = self._loader.encoded.get(id_)
        task = records.decode(data) if data else self._index.task(id_)
        assert isinstance(task, records.TaskRecord)
        return task

    def function(self, task: records.TaskRecord) -> records.Function:
        """Return the record of a task's function."""
        return self._index.functions[task.function]

    def name(self, id_: TaskId) -> str:
        """Return the name of a task's function, for people; of one that this leader has finished, its id."""
        if (name := self.kind(id_)) is not None:
            return name
        try:
            return self._given_name(self._index.task(id_))
        except KeyError:
            return f"task {id_.hex()[:12]}"

    def kind(self, id_: TaskId) -> str | None:
        """Return the name of a task that has no outcome, and None for any other; another thread may ask.

        Of most tasks this decodes nothing.
        """
        data = self._loader.encoded.get(id_)
        if data is None:
            return None
        function = None if _NAME_OPTION in data else self._index.functions.get(data[_FUNCTION])
        if function is not None:
            return function.name
        task = records.decode(data)
        assert isinstance(task, records.TaskRecord)
        return self._given_name(task)

    def _given_name(self, task: records.TaskRecord) -> str:
        return records.display_name(task, self.function(task).name)

    def is_service(self, id_: TaskId) -> bool:
        """Return whether a task is a service."""
        return self._loader.is_service(self.get(id_))


REASON = "the user requested it"
"""Why the tasks run again, for people; after "it ran again:"."""

_LISTED = 10
"""How many names an error message lists."""


@dataclass(frozen=True)
class Force:
    """The request that finished tasks run again.

    Attributes
    ----------
    items : tuple
        Promises, tasks (for all calls of each), names of tasks, and starts of ids in hexadecimal.
    downstream : bool
        Whether all that depends on them runs again, too.
    """

    items: tuple[Any, ...] = ()
    downstream: bool = True

    @classmethod
    def of(cls, items: Any) -> Force:
        """Read the keyword ``force``: one item, or a collection of them."""
        is_collection = isinstance(items, list | tuple | set | frozenset)
        return cls(tuple(items) if is_collection else (items,))


NO_FORCE = Force()


@dataclass(frozen=True)
class Forced:
    """The tasks that a request means.

    Attributes
    ----------
    ids : tuple of TaskId
        Those that the user named, and others that only they lead to.
    again : tuple of TaskId
        All finished tasks that run again.
    unknown : tuple of str
        Names that no task has so far; a task that is created later may have one.
    names : tuple of str
        All names that are known.
    """

    ids: tuple[TaskId, ...] = ()
    again: tuple[TaskId, ...] = ()
    unknown: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


class _Reached:
    """The tasks that some roots need or have led to, as far as a store knows them."""

    def __init__(self, index: Index, roots: Iterable[TaskId]) -> None:
        self.index = index
        self.tasks: dict[TaskId, TaskRecord] = {}
        stack = list(roots)
        while stack:
            id_ = stack.pop()
            task = None if id_ in self.tasks else _known(index, id_)
            if task is not None:
                self.tasks[id_] = task
                stack.extend((*task.needs, *task.after, *self._led_to(id_)))

    def _led_to(self, id_: TaskId) -> tuple[TaskId, ...]:
        return self.index.leads_to(id_) if id_ in self.index.outcomes else ()

    def name(self, task: TaskRecord) -> str:
        return display_name(task, self.index.functions[task.function].name)

    def named(self, text: str) -> list[TaskId]:
        """Return the tasks of a name, or else those whose ids start with it."""
        named = [id_ for id_, task in self.tasks.items() if self.name(task) == text]
        return named or [id_ for id_ in self.tasks if text and id_.hex().startswith(text.lower())]

    def names(self) -> set[str]:
        return {self.name(task) for task in self.tasks.values()}

    def depending(self, ids: Iterable[TaskId]) -> set[TaskId]:
        """Return the tasks that depend on others, which are not among them unless they depend on each other.

        Those that a task has created depend on it, and so do those that use what it has returned of another's value.
        """
        users: dict[TaskId, list[TaskId]] = defaultdict(list)
        leaders: dict[TaskId, list[TaskId]] = defaultdict(list)
        for id_, task in self.tasks.items():
            for need in (*task.needs, *task.after):
                users[need].append(id_)
            if task.parent is not None:
                users[task.parent].append(id_)
            for other in self._led_to(id_):
                leaders[other].append(id_)
        found: set[TaskId] = set()
        changed = set(ids)  # tasks whose values may be others now, whether or not they run
        stack = list(changed)
        while stack:
            current = stack.pop()
            found.update(users[current])
            new = {*users[current], *leaders[current]} - changed
            changed |= new
            stack += new
        return found

    def holding_files_of(self, ids: Iterable[TaskId], open_blob: Callable[[BlobRef], BinaryIO]) -> set[TaskId]:
        """Return the tasks whose values hold files that others have made: the files go together with the outcomes."""
        outcomes = self.index.outcomes
        blobs = (blob for id_ in ids if id_ in outcomes for blob in self.index.outcome(id_).blobs)
        made = {match.group() for blob in blobs if (match := FILE.match(blob.name.encode()))}
        later = self.depending(ids) if made else ()
        return {
            id_
            for id_ in later
            if id_ in outcomes and not made.isdisjoint(file_names(self.index.value(id_)[0], open_blob))
        }


def forced_in_graph(force: Force, recorder: Recorder, index: Index, roots: tuple[TaskId, ...]) -> Forced:
    """Return the tasks that a script's request means.

    Raises
    ------
    GraphError
        If a promise of the request is not part of what is computed, or an item cannot be forced.
    """
    if not force.items:
        return Forced()
    reached = _Reached(index, {*recorder.ids(), *roots})
    names = {task.name for task in recorder.functions()}
    ids: list[TaskId] = []
    unknown: list[str] = []
    for item in force.items:
        if hasattr(type(item), "_origin"):
            ids.append(_of_promise(item, recorder))
            continue
        name = item if isinstance(item, str) else getattr(item, "name", None)
        if not isinstance(name, str):
            raise GraphError(f"force was given {item!r:.200}", hint="pass promises, tasks, or names of tasks")
        found = reached.named(name)
        ids += found
        if not found and name not in names:
            unknown.append(name)
    return replace(_forced(force, ids, reached), unknown=tuple(unknown), names=tuple({*names, *reached.names()}))


def _of_promise(promise: Promise, recorder: Recorder) -> TaskId:
    id_ = recorder.id_of(promise)
    if id_ is None:
        raise GraphError(
            f"force was given {promise!r:.200}, which is not part of what is computed",
            hint="pass promises that the results need, tasks, or names of tasks",
        )
    return id_


def forced_by_name(
    force: Force, index: Index, roots: tuple[TaskId, ...], open_blob: Callable[[BlobRef], BinaryIO]
) -> Forced:
    """Return the tasks of a store's newest run that a request means.

    Raises
    ------
    InputError
        If no task of the run has a name.
    """
    if not force.items:
        return Forced()
    reached = _Reached(index, roots)
    ids: list[TaskId] = []
    for item in force.items:
        found = reached.named(item)
        if not found:
            raise InputError(f"no task has the name or id {item!r}", hint=known_names(reached.names()))
        ids += found
    if not force.downstream:
        ids += sorted(reached.holding_files_of(ids, open_blob))
    return _forced(force, ids, reached)


def known_names(names: Iterable[str]) -> str:
    """Return the hint that lists the names of tasks."""
    listed = sorted(names)
    return f"the tasks are {', '.join(listed[:_LISTED])}{', ...' * (len(listed) > _LISTED)}"


def _forced(force: Force, ids: list[TaskId], reached: _Reached) -> Forced:
    named = tuple(dict.fromkeys(ids))
    after = reached.depending(named) if force.downstream else set()
    again = tuple(id_ for id_ in dict.fromkeys((*named, *after)) if id_ in reached.index.outcomes)
    return Forced(named, again)


def _known(index: Index, id_: TaskId) -> TaskRecord | None:
    try:
        return index.task(id_)
    except KeyError:
        return None
