"""Explain why a task runs or does not: `toilfn explain`.

A task's records hold the parts that went into its id. A task that had to run is compared with the
most similar earlier one of the same function, part by part, and where an input is another one, so
is the task that made it.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from toilfn.errors import InputError, StoreError
from toilfn.graph.identity import FOLDER, NOT_COMPARED
from toilfn.graph.identity.contents import Tree
from toilfn.ids import TaskId
from toilfn.model.records import (
    BlobRef,
    Deleted,
    End,
    Epoch,
    Failure,
    Forget,
    Function,
    Outage,
    Outcome,
    Queue,
    Run,
    Started,
    TaskRecord,
    assert_never,
)
from toilfn.model.replay import AttemptEnded, Fact, RunBegan, TaskAdded
from toilfn.stores.digests import DEFAULT

__all__ = ["Explanation", "History", "explain", "reasons_to_run"]

_MOST_INPUTS = 1000
"""The most inputs of inputs that are compared."""


@dataclass(frozen=True)
class Explanation:
    """The explanation of a task.

    Attributes
    ----------
    task : TaskId
    summary : str
        Whether it was reused, was run, or still has to run.
    reasons : tuple of str
        The differences from the earlier task, and the parts that are not compared.
    """

    task: TaskId
    summary: str
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"  {reason}" for reason in self.reasons)])


class History:
    """The tasks of a store as its records describe them.

    Parameters
    ----------
    facts : iterable of Fact
        The facts of the store's log, in order.
    read : callable, optional
        Reads a blob of the store, which has the contents of folders among the arguments.
    """

    def __init__(self, facts: Iterable[Fact], read: Callable[[BlobRef], bytes] | None = None) -> None:
        self.read = read
        self.functions: dict[bytes, Function] = {}
        self.tasks: dict[TaskId, TaskRecord] = {}
        self.done: dict[TaskId, float] = {}
        """When each task with an outcome was run, in seconds since the epoch."""
        self.seconds: dict[TaskId, float] = {}
        """How long the successful attempt of each task took."""
        self.failures: dict[TaskId, Failure] = {}
        self.newest_run: Run | None = None
        self.renewed: dict[TaskId, str] = {}
        """Why tasks were run again although they had an outcome."""
        self.dropped: set[TaskId] = set()
        """Tasks whose files were removed when they were no longer needed."""
        self._makers: dict[str, TaskId] = {}
        self._names: dict[TaskId, str] = {}
        self.runs: list[Run] = []
        self._led_to: dict[TaskId, tuple[TaskId, ...]] = {}
        self._of_name: dict[str, list[TaskId]] = defaultdict(list)
        for fact in facts:
            self.add(fact)

    def name(self, task: TaskRecord) -> str:
        """Return the name of a task: that of the call, or of its function."""
        return self._names.get(task.id, "?")

    def led_to(self, id: TaskId) -> tuple[TaskId, ...]:
        """List the tasks that a task's value refers to, and those that it created."""
        return self._led_to.get(id, ())

    def before(self, task: TaskRecord) -> list[TaskRecord]:
        """List the tasks of the same name that the store knew before this one."""
        same = self._of_name[self.name(task)]
        return [self.tasks[id] for id in same[: same.index(task.id)]]

    def is_current(self, id: TaskId) -> bool:
        """Return whether the newest run requested a task, or led to it."""
        seen: set[TaskId] = set()
        stack = list(self.newest_run.roots) if self.newest_run else []
        while stack and id not in seen:
            current = stack.pop()
            if current in self.tasks and current not in seen:
                seen.add(current)
                task = self.tasks[current]
                stack.extend((*task.needs, *task.after, *self._led_to.get(current, ())))
        return id in seen

    def add(self, fact: Fact) -> None:
        """Apply the next fact."""
        match fact:
            case Function():
                self.functions[fact.digest] = fact
            case TaskAdded(task, name):
                self.tasks[task.id] = task._replace(args=b"", blobs=())
                self._names[task.id] = name
                self._of_name[name].append(task.id)
            case AttemptEnded():
                self._ended(fact)
            case Forget():
                self._forget(fact)
            case Deleted():
                if fact.dropped:
                    self.dropped.update(self._makers[name] for name in fact.names if name in self._makers)
            case RunBegan(run):
                self.newest_run = run
                self.runs = [*(known for known in self.runs if known.number != run.number), run]
            case Epoch() | Started() | Queue() | Outage() | End():
                pass  # no reason to run
            case _:
                assert_never(fact)

    def _ended(self, fact: AttemptEnded) -> None:
        if isinstance(fact.record, Failure):
            self.failures[fact.record.id] = fact.record
        elif fact.counts:
            self._outcome(fact.record)

    def _outcome(self, record: Outcome) -> None:
        self.seconds.setdefault(record.id, record.stats.wall)
        self.done[record.id] = record.stats.start
        self._led_to[record.id] = (*record.refs, *(task.id for task in record.tasks))
        self._makers.update((blob.name, record.id) for blob in record.blobs)

    def _forget(self, record: Forget) -> None:
        for id in record.ids:
            self.done.pop(id, None)
            self.dropped.discard(id)
            if record.reason:
                self.renewed[id] = record.reason


def explain(history: History, id: TaskId) -> Explanation:
    """Return why a task was run or reused.

    Parameters
    ----------
    history : History
    id : TaskId

    Raises
    ------
    InputError
        If the store has no such task.
    """
    task = history.tasks.get(id)
    if task is None:
        raise InputError(f"task {id.hex()} not found in the store")
    summary, reused = _summary(history, task)
    unseen = tuple(_not_compared(history.functions.get(task.function)))
    if id in history.dropped:
        told = "nothing needed its files any more, so they were dropped; it runs again when one is needed"
        unseen = (told, *unseen)
    if reused:
        return Explanation(id, summary, unseen)
    if id in history.renewed:
        return Explanation(id, summary, (f"it ran again: {history.renewed[id]}", *unseen))
    return Explanation(id, summary, (*reasons_to_run(history, task, history.before(task)), *unseen))


def reasons_to_run(history: History, task: TaskRecord, earlier: list[TaskRecord]) -> tuple[str, ...]:
    """Compare a task with the most similar of earlier ones.

    Parameters
    ----------
    history : History
        The tasks of the store.
    task : TaskRecord
    earlier : list of TaskRecord
        Tasks of the same name.

    Returns
    -------
    tuple of str
        The task that it is compared with and the differences, or a line that says that no earlier task was found.
    """
    nearest = _nearest(task, earlier)
    if nearest is None:
        return (f"no earlier task of {history.name(task)} is in the store",)
    compared = f"compared with the earlier task {nearest.id.hex()[:12]}:"
    inside = _changes_in_folders(task, nearest, history.read) if history.read is not None else ()
    return compared, *_all_reasons(history, task, nearest), *inside, *_changed_parameters(history, nearest)


def _changed_parameters(history: History, earlier: TaskRecord) -> Iterator[str]:
    """Compare the parameters of the newest run with those of the run that ran a task."""
    done = history.done.get(earlier.id, 0.0)
    before = [run for run in history.runs if run.time <= done]
    if before and history.newest_run is not None:
        old, new = (run.settings.get("params") or {} for run in (before[-1], history.newest_run))
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                yield f"parameter {name} of the run: {old.get(name)!r} -> {new.get(name)!r}"
        digests = [run.settings.get("digest") or DEFAULT for run in (before[-1], history.newest_run)]
        if digests[0] != digests[1]:
            yield f"setting digest: {' -> '.join(digests)}, so new files with the same content are other arguments"


_MOST_CHANGES = 10
"""The most files of one folder that are named."""


def _changes_in_folders(new: TaskRecord, old: TaskRecord, read: Callable[[BlobRef], bytes]) -> Iterator[str]:
    """Name the files that differ in the folders among two tasks' arguments."""
    for key, before, after in _differences(old.parts, new.parts):
        if not key.startswith(FOLDER) or before is None or after is None:
            continue
        try:
            trees = [Tree.read(read(_listing(part))).entries for part in (before, after)]
        except StoreError:  # it was removed together with the earlier task
            continue
        changes = [f"{name} in {key.removeprefix(FOLDER)}{_change(*both)}" for name, *both in _differences(*trees)]
        yield from sorted(changes)[:_MOST_CHANGES]
        if len(changes) > _MOST_CHANGES:
            yield f"and {len(changes) - _MOST_CHANGES} more in {key.removeprefix(FOLDER)}"


def _listing(part: str) -> BlobRef:
    name, size, digest = part.split(" ")
    return BlobRef(name, int(size), bytes.fromhex(digest))


def _not_compared(function: Function | None) -> Iterator[str]:
    """Name the objects that the function uses and that are not compared."""
    for key, what in sorted(function.parts.items()) if function else ():
        if key.startswith(NOT_COMPARED):
            yield f"not compared: {key.removeprefix(NOT_COMPARED)} ({what})"


def _summary(history: History, task: TaskRecord) -> tuple[str, bool]:
    """Return the state of a task, and whether it comes from an earlier run than the newest one."""
    label = f"{history.name(task)} ({task.id.hex()[:12]})"
    done = history.done.get(task.id)
    if done is not None and history.newest_run is not None and done < history.newest_run.time:
        if history.is_current(task.id):
            return f"{label} was reused: it ran at {_moment(done)}, and nothing that toilfn compares has changed", True
        return f"{label} was run at {_moment(done)}; the newest run did not need it", True
    if done is not None:
        return f"{label} was run at {_moment(done)}", False
    failure = history.failures.get(task.id)
    return (
        f"{label} {'failed: ' + failure.message if failure else 'is waiting or running; no attempt has finished'}",
        False,
    )


def _moment(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def _nearest(task: TaskRecord, candidates: list[TaskRecord]) -> TaskRecord | None:
    """Choose the earlier task with the most in common; among equals, the newest."""

    def common(other: TaskRecord) -> tuple[int, bool, bool]:
        equal = sum(task.parts.get(key) == part for key, part in other.parts.items())
        return equal, other.lineage == task.lineage, other.function == task.function

    return max(reversed(candidates), key=common, default=None)


def _all_reasons(history: History, task: TaskRecord, earlier: TaskRecord) -> list[str]:
    """Compare two tasks and, where their inputs are different tasks, these inputs; name each reason once."""
    found: dict[str, None] = {}
    seen: set[TaskId] = set()
    pairs = [(task, earlier)]
    while pairs and len(seen) < _MOST_INPUTS:
        new, old = pairs.pop()
        if new.id in seen:
            continue
        seen.add(new.id)
        inputs = list(_changed_inputs(history, new, old))
        pairs.extend(inputs)
        found.update(dict.fromkeys(_reasons(history, new, old, {i.id: history.name(i) for i, _ in inputs})))
    return list(found) or [
        "nothing that is recorded: it is a further call with the same arguments, or of another parent"
    ]


def _changed_inputs(history: History, new: TaskRecord, old: TaskRecord) -> Iterator[tuple[TaskRecord, TaskRecord]]:
    """Pair the inputs that differ with the earlier ones in their places."""
    for new_id, old_id in zip((*new.needs, *new.after), (*old.needs, *old.after), strict=False):
        pair = history.tasks.get(new_id), history.tasks.get(old_id)
        if new_id != old_id and pair[0] is not None and pair[1] is not None:
            yield pair[0], pair[1]


def _reasons(history: History, new: TaskRecord, old: TaskRecord, inputs: dict[TaskId, str]) -> Iterator[str]:
    name = history.name(new)
    functions = history.functions.get(new.function), history.functions.get(old.function)
    if functions[0] is not None and functions[1] is not None and new.function != old.function:
        yield from _function_reasons(functions[0], functions[1])
    arguments = [_by_name(task, function) for task, function in zip((new, old), functions, strict=True)]
    for key, before, after in _differences(arguments[1], arguments[0]):
        if inputs and _is_digest(before) and _is_digest(after):
            yield f"argument {key} of {name} comes from another task: {', '.join(sorted(set(inputs.values())))}"
        else:
            yield f"argument {key} of {name}{_change(before, after)}"


def _function_reasons(new: Function, old: Function) -> Iterator[str]:
    for key, before, after in _differences(old.parts, new.parts):
        if key == "parameters" or key.startswith(NOT_COMPARED):  # parameters are in the body too
            continue
        yield _part_name(key, new.name) + _change(before, after)


def _part_name(key: str, function: str) -> str:
    """Describe a part of a function's identity in words."""
    kind, _, name = key.partition(" ")
    names = {
        "python": "the version of Python (other versions have other bytecode, so everything runs again)",
        "version": f"the pinned version of {function}",
        "body": f"the body of {function}",
        "name": f"the full name of {function}",
        "function": f"the body of {name}",
        "constant": f"the constant {name}",
        "value": f"the value of {name}",
        "default": f"the default of {name} in {function}",
        "closure": f"the variable {name} around {function}",
    }
    return names.get(kind, f"the {key}")


def _change(before: str | None, after: str | None) -> str:
    if before is None:
        return " is new"
    if after is None:
        return " was removed"
    return " changed" if _is_digest(before) or _is_digest(after) else f": {before} -> {after}"


def _is_digest(part: str | None) -> bool:
    return part is not None and len(part) == 32 and all(letter in "0123456789abcdef" for letter in part)


def _differences(old: dict[str, str], new: dict[str, str]) -> Iterator[tuple[str, str | None, str | None]]:
    for key in {**new, **old}:
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def _by_name(task: TaskRecord, function: Function | None) -> dict[str, str]:
    """Return the parts of a task's arguments by the names of the parameters."""
    names = function.parts.get("parameters", "").split(", ") if function else []

    def name(key: str) -> str:
        return names[int(key)] if key.isdecimal() and int(key) < len(names) and names[0] else key

    return {name(key): part for key, part in task.parts.items() if not key.startswith(FOLDER)}
