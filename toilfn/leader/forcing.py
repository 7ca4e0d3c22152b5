"""Which finished tasks run again because the user requests it: `compute(force=[...])` and `toilfn rerun`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

from toilfn.errors import GraphError, InputError
from toilfn.ids import TaskId
from toilfn.leader.intermediates import FILE, file_names
from toilfn.model.index import Index
from toilfn.model.records import BlobRef, TaskRecord, display_name

if TYPE_CHECKING:
    from toilfn.graph.promise import Promise
    from toilfn.graph.record import Recorder

__all__ = ["NO_FORCE", "REASON", "Force", "Forced", "forced_by_name", "forced_in_graph", "known_names"]

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
        If a name is none of the run's.
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
