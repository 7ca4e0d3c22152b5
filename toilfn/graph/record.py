"""Turn promises into records: the ids of all calls, pickled arguments, functions and values.

`compute` records the graph that a script built, and a worker the one that a task built. Both
go over it with a stack, never by recursion, since graphs are deeper than Python's stack.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from toilfn.errors import SerializationError
from toilfn.graph import options
from toilfn.graph.identity import (
    FOLDER,
    Codes,
    Identity,
    arguments_digest,
    arguments_identity,
    lineage,
    task_id,
    value_identity,
)
from toilfn.graph.identity.modules import take_modules_by_value
from toilfn.graph.requirements import LATE, pack
from toilfn.graph.serialize import PROTOCOL, dumps, dumps_function, is_large
from toilfn.graph.structure import ATOMS, holds_shown
from toilfn.graph.task import BoundTask, Task
from toilfn.ids import TaskId
from toilfn.model import records
from toilfn.stores.blobs import new_blob_name

if TYPE_CHECKING:
    from toilfn.graph.promise import Promise

__all__ = ["INLINE_LIMIT", "OWN_BUFFERS_VARIABLE", "BlobStore", "Recorded", "Recorder", "record", "store_payload"]

INLINE_LIMIT = 32 * 1024
"""Payloads up to this many bytes stay inside their record; larger ones become blobs."""

OWN_BUFFERS_VARIABLE = "TOILFN_OWN_BUFFERS"
"""The environment variable that has a worker give each large buffer an object of its own, which can be dropped."""


class BlobStore(Protocol):
    """The part of a store that recording needs."""

    def put_blob(self, data: bytes) -> records.BlobRef:
        """Store bytes under a name made from their content."""

    def put_buffer(self, data: memoryview, *, name: str | None = None) -> records.BlobRef:
        """Store a large buffer for readers that map it, by default under a name made from its content."""


@dataclass(slots=True)
class Recorded:
    """The records made of a value and of the promises in it.

    Attributes
    ----------
    value : bytes or BlobRef
        The pickled value, or where it is.
    refs : tuple of TaskId
        The tasks whose values it refers to.
    tasks : list of records.TaskRecord
        The tasks it leads to, each after what it needs.
    functions : list of records.Function
        The functions of these tasks.
    blobs : list of BlobRef
        Blobs that were written for them.
    """

    value: bytes | records.BlobRef
    refs: tuple[TaskId, ...]
    tasks: list[records.TaskRecord] = field(default_factory=list)
    functions: list[records.Function] = field(default_factory=list)
    blobs: list[records.BlobRef] = field(default_factory=list)


def store_payload(payload: bytes, store: BlobStore, blobs: list[records.BlobRef]) -> bytes | records.BlobRef:
    """Store a payload: inside its record if it is small, otherwise in a blob."""
    if len(payload) <= INLINE_LIMIT:
        return payload
    blobs.append(store.put_blob(payload))
    return blobs[-1]


def record(
    value: Any,
    spawned: Sequence[Promise],
    parent: records.TaskRecord,
    store: BlobStore,
    known: Callable[[bytes], bool] = lambda _: False,
    running: RunningFunction | None = None,
) -> Recorded:
    """Record the value of a task and the tasks that it spawned.

    Parameters
    ----------
    value : object
        The returned value, with promises at any depth.
    spawned : sequence of Promise
        Promises that must be complete before the task is, without being part of its value.
    parent : records.TaskRecord
        The task.
    store : BlobStore
        Where large payloads and functions go.
    known : callable, optional
        Whether the store has the record of a function's digest.
    running : RunningFunction, optional
        The task's function.

    Returns
    -------
    Recorded

    Raises
    ------
    SerializationError
        If the value, a function or an argument cannot be stored.
    """
    if isinstance(value, (Task, BoundTask)):
        raise SerializationError(
            f"it returned {value!r} itself instead of calling it", hint=f"write return {value.name}(...)"
        )
    if isinstance(value, str) and holds_shown(value):
        raise SerializationError(
            f"it returned {value!r:.200}, which contains the text of a promise, whose value does not exist yet",
            hint="pass the promise to another task, build the text there, and return that task's promise",
        )
    blobs: list[records.BlobRef] = []
    if type(value) in ATOMS and not spawned and not is_large(value):  # most tasks are like this
        return Recorded(store_payload(pickle.dumps(value, PROTOCOL), store, blobs), (), blobs=blobs)
    recorder = Recorder(store, parent, running)
    payload, refs = dumps(value, recorder.identify, keep=_keeping(store, blobs))
    for promise in spawned:
        recorder.identify(promise)
    recorded = Recorded(store_payload(payload, store, blobs), refs, blobs=blobs)
    for made in recorder.emit(lambda _: False, known, recorded.blobs):
        if isinstance(made, records.TaskRecord):
            recorded.tasks.append(made)
        else:
            recorded.functions.append(made)
    return recorded


def _keeping(store: BlobStore, blobs: list[records.BlobRef]) -> Callable[[memoryview], records.BlobRef]:
    """Return a function that stores large buffers apart from their payload and adds them to a list."""

    def keep(data: memoryview) -> records.BlobRef:
        # A buffer that may be dropped is not shared: another task could rely on it just when it goes.
        name = new_blob_name() if OWN_BUFFERS_VARIABLE in os.environ else None
        blobs.append(store.put_buffer(data, name=name))
        return blobs[-1]

    return keep


class RunningFunction(NamedTuple):
    """The function of the running task: its record, and the function itself if it is loaded."""

    record: records.Function
    function: Callable[..., Any]


_codes: dict[bytes, Codes] = {}
"""The known digests of the code that the tasks of this process lead to, by the digests of their functions."""


def _codes_of(running: RunningFunction | None) -> Codes:
    if running is None:  # in a notebook, what functions lead to may have been redefined since the last run
        _codes.clear()
        take_modules_by_value()
        return Codes()
    digest, parts = running.record.digest, running.record.parts
    if digest not in _codes:
        made = _codes[digest] = Codes(parts)
        # It may have changed its own defaults meanwhile, and whatever it remembers from call to call.
        made.set_function(running.function, parts.get("version"), Identity(digest, parts))
    return _codes[digest]


class Recorder:
    """Assigns ids to promises and turns them into records."""

    def __init__(
        self, store: BlobStore, parent: records.TaskRecord | None = None, running: RunningFunction | None = None
    ) -> None:
        self._store = store
        self._codes = _codes_of(running)
        self._codes.forget_files()
        self._identities: dict[Task[..., Any], Identity] = {}
        self._parent = parent.id if parent else None
        self._lineage = parent.lineage if parent else b""
        self._roots: dict[Promise, None] = {}
        self._ids: dict[Promise, TaskId] = {}
        self._used: set[TaskId] = set()
        self._calls: dict[TaskId, int] = {}
        self._ordinals: dict[TaskId, int] = {}
        self._functions: dict[bytes, Task[..., Any]] = {}
        self._listings: dict[Path, records.BlobRef] = {}

    def identify(self, promise: Promise) -> TaskId:
        """Return the id of a promise's task; assign ids to everything that it needs first."""
        origin = promise._origin
        if options.SERVICE in origin._task.settings:
            raise SerializationError(
                f"{promise!r} belongs to a service and is only valid while the service runs",
                hint="pass it to a task and use that task's value",
            )
        if origin not in self._ids:
            for needed in _in_order(origin, self._ids):
                self._name(needed)
        self._roots[origin] = None
        return self._ids[origin]

    def _given(self, promise: Promise) -> TaskId:
        try:
            return self._ids[promise._origin if hasattr(type(promise), "_origin") else promise]
        except (KeyError, TypeError):
            raise SerializationError(
                f"{promise!r} is nested inside an object that toilfn cannot look into",
                hint="pass it in a list, tuple, set, dict, dataclass or namedtuple",
            ) from None

    def _name(self, promise: Promise) -> None:
        task = promise._task
        function = self._identity(task).digest
        digest = self._digest_of_arguments(promise)
        self._functions.setdefault(function, task)
        id_ = task_id(function, digest, self._lineage, 0)
        if id_ in self._used:
            ordinal = self._calls[id_] = self._calls.get(id_, 0) + 1
            id_ = task_id(function, digest, self._lineage, ordinal)
            self._ordinals[id_] = ordinal
        self._used.add(id_)
        self._ids[promise] = id_

    def _identity(self, task: Task[..., Any]) -> Identity:
        found = self._identities.get(task)
        if found is None:
            found = self._identities[task] = self._codes.of_function(task.__wrapped__, task.settings.get("version"))
        return found

    @property
    def not_compared(self) -> dict[str, str]:
        """Opaque objects that the functions lead to, each with its type."""
        return self._codes.not_compared

    def _digest_of_arguments(self, promise: Promise) -> bytes:
        try:
            return arguments_digest(promise._args, promise._kwargs, self._promise_identity, self._codes)
        except SerializationError as error:
            raise SerializationError(f"task {promise._task.name}: {error}") from None

    def _promise_identity(self, promise: Any) -> bytes:
        id_ = self._given(promise)
        return id_ + value_identity(promise._path) if promise._path else id_

    def ids(self) -> list[TaskId]:
        """List the ids of all tasks, each after what it needs."""
        return list(self._ids.values())

    def id_of(self, promise: Promise) -> TaskId | None:
        """Return the id of a promise's task, or None if it has none yet."""
        return self._ids.get(promise._origin)

    def functions(self) -> list[Task[..., Any]]:
        """List one task of each function."""
        return list(self._functions.values())

    def emit(
        self, complete: Callable[[TaskId], bool], known: Callable[[bytes], bool], blobs: list[records.BlobRef]
    ) -> Iterator[records.Function | records.TaskRecord]:
        """Build the records of all tasks that must run, each after the records of its needs and of its function.

        Parameters
        ----------
        complete : callable
            Whether a task need not run. Tasks that only such tasks need are left out too.
        known : callable
            Whether no record of a task's id or of a function's digest is wanted.
        blobs : list of BlobRef
            Blobs that were written on the way are added here.
        """
        functions: set[bytes] = set()
        for promise, id_ in self._wanted(complete):
            digest = self._identity(promise._task).digest
            if digest not in functions and not known(digest):
                yield self._function(self._functions[digest], blobs)
            functions.add(digest)
            if not known(id_):
                yield self._record(promise, id_, blobs)

    def _wanted(self, complete: Callable[[TaskId], bool]) -> Iterator[tuple[Promise, TaskId]]:
        wanted: set[Promise] = set()
        stack = list(self._roots)
        while stack:
            promise = stack.pop()
            if promise not in wanted and not complete(self._ids[promise]):
                wanted.add(promise)
                stack.extend(needed._origin for needed in (*promise._deps, *promise._after))
        return ((promise, id_) for promise, id_ in self._ids.items() if promise in wanted)

    def _record(self, promise: Promise, id_: TaskId, blobs: list[records.BlobRef]) -> records.TaskRecord:
        task = promise._task
        own_blobs: list[records.BlobRef] = []
        payload, refs = self._pickled(promise, own_blobs)
        args = store_payload(payload, self._store, own_blobs)
        digest, parts = arguments_identity(promise._args, promise._kwargs, self._promise_identity, self._codes)
        parts.update(self._folders(promise, own_blobs))
        blobs.extend(own_blobs)
        late = pack(promise._requires, self._given)
        return records.TaskRecord(
            id=id_,
            function=self._identity(task).digest,
            args=args,
            needs=tuple(dict.fromkeys((*refs, *late[LATE][1]))) if late else refs,
            after=tuple(self._given(after) for after in promise._after),
            options={**self._overrides(task), **late} if late else self._overrides(task),
            parent=self._parent,
            parts=parts,
            lineage=lineage(self._lineage, task.name, self._reaching(promise, digest), self._ordinals.get(id_, 0)),
            blobs=tuple(own_blobs),
        )

    def _folders(self, promise: Promise, blobs: list[records.BlobRef]) -> dict[str, str]:
        """Store the contents of folders among the arguments, for `toilfn explain`; return the parts that name them."""
        parts = {}
        for path, tree in self._codes.folders_in((promise._args, promise._kwargs)).items():
            if path not in self._listings:
                self._listings[path] = self._store.put_blob(tree.listing())
            ref = self._listings[path]
            blobs.append(ref)
            parts[f"{FOLDER}{path}"] = f"{ref.name} {ref.size} {ref.digest.hex()}"
        return parts

    def listing(self, ref: records.BlobRef) -> bytes | None:
        """Return the contents of the folder whose listing a reference names; None if it is of no folder here."""
        place = next((place for place, listing in self._listings.items() if listing == ref), None)
        return None if place is None else self._codes.tree(place).listing()

    def _reaching(self, promise: Promise, digest: bytes) -> bytes:
        """Return the digest of the arguments that count in the children's ids (`toilfn.graph.identity.lineage`)."""
        kept = tuple(arg for arg in promise._args if getattr(type(arg), "__toilfn_lineage__", True))
        if len(kept) == len(promise._args):
            return digest
        return arguments_digest(kept, promise._kwargs, self._promise_identity, self._codes)

    def _overrides(self, task: Task[..., Any]) -> dict[str, Any]:
        """Return the options of a call that differ from those in its function's record."""
        own = self._functions[self._identity(task).digest].settings
        if task.settings is own:
            return {}
        given, asked = options.static(own), options.static(task.settings)
        return {} if asked == given else {**dict.fromkeys(given), **asked}

    def _pickled(self, promise: Promise, blobs: list[records.BlobRef]) -> tuple[bytes, tuple[TaskId, ...]]:
        arguments = (promise._args, promise._kwargs)
        plain = not promise._kwargs and ATOMS.issuperset(map(type, promise._args))
        if plain and not any(map(is_large, promise._args)):
            return pickle.dumps(arguments, PROTOCOL), ()  # most calls of large graphs are like this
        try:
            # A relative path means a file of the script. A file that a task made is a File by now.
            keep = _keeping(self._store, blobs)
            return dumps(arguments, self._given, absolute_paths=self._parent is None, keep=keep)
        except SerializationError as error:
            raise SerializationError(f"an argument of task {promise._task.name} cannot be stored: {error}") from None

    def _function(self, task: Task[..., Any], blobs: list[records.BlobRef]) -> records.Function:
        payload = self._store.put_blob(dumps_function(task if task._is_importable() else task.__wrapped__))
        blobs.append(payload)
        identity = self._identity(task)
        return records.Function(identity.digest, task.name, options.static(task.settings), payload, identity.parts)


def _in_order(promise: Promise, done: Container[Promise]) -> Iterator[Promise]:
    """Iterate over a promise's tasks that are not done yet, each after what it needs."""
    entered: set[Promise] = set()
    stack = [promise]
    while stack:
        current = stack[-1]
        if current in done:
            stack.pop()
        elif current in entered:
            stack.pop()
            yield current
        else:
            entered.add(current)
            waiting = [dep._origin for dep in (*current._deps, *current._after) if dep._origin not in done]
            stack.extend(needed for needed in reversed(waiting) if needed._deps or needed._after)
            # A task that needs nothing, as most of a wide graph, takes no turn on the stack.
            for needed in waiting:
                if not (needed._deps or needed._after or needed in done):
                    yield needed
