"""The records that make up a workflow in the store, and their encoding.

A record is a msgpack array whose first item is its kind. `stores/FORMAT.md` describes them for readers in other
languages. The store itself knows nothing of them: it keeps bytes.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from types import UnionType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, get_args, get_origin, get_type_hints

import msgpack

from toilfn.ids import TaskId
from toilfn.stores import checked
from toilfn.stores.blobs import BlobRef

if TYPE_CHECKING:
    from toilfn.stores.segments import Position

__all__ = [
    "BlobRef", "Deleted", "End", "Epoch", "Failure", "Forget", "Function", "Outage", "Outcome", "Queue", "Record",
    "Run", "Started", "Stats", "TaskRecord", "assert_never", "decode", "display_name", "encode", "payload_or_ref",
    "start_of",
]  # fmt: skip


class Stats(NamedTuple):
    """The resources that one attempt used."""

    start: float = 0.0
    """Seconds since the epoch."""
    wall: float = 0.0
    """Seconds."""
    cpu: float = 0.0
    """Seconds, user and system, of the task and its children."""
    memory: int = 0
    """Peak resident bytes beyond `own`, where known."""
    host: str = ""
    worker: int = 0
    """The process id."""
    read: int = 0
    """Bytes that the task and its children read, from wherever; 0 where the system does not tell."""
    written: int = 0
    """Bytes that they wrote."""
    requests: int = 0
    """The worker's requests to the store's server since its last attempt ended, or since it started."""
    disk: int = 0
    """Most bytes that were found in the temporary directory, which is looked at periodically."""
    own: int = 0
    """Resident bytes of the worker when the attempt began, which are not the task's, where known."""


class Epoch(NamedTuple):
    """A leader took the store over. It is the first record of each leader's first segment."""

    number: int
    host: str
    pid: int
    time: float


class Run(NamedTuple):
    """The promises of one run: `toilfn resume` finishes the newest."""

    number: int
    workflow: str
    """The script's path, or another name that tells workflows apart."""
    results: bytes
    """The pickled structure of promises that `compute` was given; see `toilfn.graph.serialize`."""
    roots: tuple[TaskId, ...]
    """The tasks that the structure refers to."""
    settings: dict[str, Any]
    code: BlobRef | None
    """The archive of the user's own modules."""
    time: float
    forced: tuple[TaskId, ...] = ()
    """Tasks that must be complete as well, which the user has asked to run again."""


class Function(NamedTuple):
    """A task's function, stored once."""

    digest: bytes
    """Sixteen bytes, of what it does: see `toilfn.graph.identity`."""
    name: str
    options: dict[str, Any]
    """The decorator's options, as `toilfn.graph.options` encodes them."""
    payload: BlobRef
    """The pickled function, named by its content."""
    parts: dict[str, str]
    """The parts of the digest, in hexadecimal, for `toilfn explain`."""


class TaskRecord(NamedTuple):
    """One call of a function."""

    id: TaskId
    function: bytes
    args: bytes | BlobRef
    """The pickled ``(args, kwargs)``, or where it is."""
    needs: tuple[TaskId, ...]
    """Tasks whose values the arguments refer to."""
    after: tuple[TaskId, ...]
    """Tasks that must be complete first without giving data."""
    options: dict[str, Any]
    """The function's options that this call overrides."""
    parent: TaskId | None
    parts: dict[str, str]
    """The parts of the id, in hexadecimal, for `toilfn explain`: one entry for each argument."""
    lineage: bytes = b""
    """Sixteen bytes that stand for this call in its children's ids; the function's body is not part of them."""
    blobs: tuple[BlobRef, ...] = ()
    """Large argument values that live outside ``args``."""


class Started(NamedTuple):
    """A batch was given to the cluster."""

    ids: tuple[TaskId, ...]
    job: str
    """The cluster's own name for the job."""
    time: float


class Queue(NamedTuple):
    """The jobs that wait in the queue of the cluster's system: changes since the last such record."""

    waiting: dict[str, str]
    """The jobs that wait, by the cluster's own names, each with the reason in the system's words."""
    begun: tuple[str, ...]
    """Jobs that had waited, and wait no longer."""
    time: float


class Outcome(NamedTuple):
    """The result of a successful attempt. The first one in the log is the task's; all others are void."""

    id: TaskId
    attempt: int
    value: bytes | BlobRef
    """The pickled value, or where it is."""
    refs: tuple[TaskId, ...]
    """Tasks whose values the value refers to."""
    tasks: tuple[TaskRecord, ...]
    """The tasks that the task created."""
    functions: tuple[Function, ...]
    blobs: tuple[BlobRef, ...]
    """Every blob that the attempt made and that the value or its children may refer to."""
    deleted: tuple[str, ...]
    """Names of blobs that the task deleted: they go when the outcome is committed."""
    log: bytes | BlobRef
    """The output and the log of the attempt."""
    stats: Stats
    temporary: tuple[str, ...] = ()
    """Names of blobs that go when the task and all it led to is complete."""


class Failure(NamedTuple):
    """An attempt that failed."""

    id: TaskId
    attempt: int
    cause: str
    """A value of `toilfn.ids.Cause`."""
    message: str
    """One line: the error's type and text."""
    traceback: str
    log: bytes | BlobRef
    stats: Stats
    final: bool = False
    """Whether the task was given up."""


class Forget(NamedTuple):
    """Outcomes that no longer hold."""

    ids: tuple[TaskId, ...]
    before: str = ""
    """The name of the newest batch by then: results of these tasks from it and from earlier batches do not count."""
    reason: str = ""
    """Why they run again, for people."""


class Deleted(NamedTuple):
    """Files that tasks deleted, or that have disappeared: they are removed when this is durable."""

    names: tuple[str, ...]
    """Of their blobs."""
    dropped: bool = False
    """Whether they were no longer needed, so that they are made again when something does."""
    size: int = 0
    """The bytes of dropped files."""
    time: float = 0.0


class Outage(NamedTuple):
    """The cluster's system stopped answering, or answers again."""

    message: str
    """The error; empty when it is over."""
    time: float


class End(NamedTuple):
    """A run ended."""

    number: int
    status: str
    """``"done"``, ``"failed"``, ``"killed"`` or ``"interrupted"``."""
    time: float
    requests: int = 0
    """The leader's requests to the store's server."""


Record: TypeAlias = (
    Epoch | Run | Function | TaskRecord | Started | Queue | Outcome | Failure | Forget | Deleted | Outage | End
)

KINDS: dict[type, str] = {
    Epoch: "epoch", Run: "run", Function: "function", TaskRecord: "task", Started: "started", Queue: "queue",
    Outcome: "outcome", Failure: "failure", Forget: "forget", Deleted: "deleted", Outage: "outage", End: "end",
}  # fmt: skip
"""The names of the kinds of records in the store, which are part of its format and do not depend on class names."""


def encode(record: Record) -> bytes:
    """Return a record's bytes.

    Text that is not Unicode, such as Python's own form of a file name in another encoding, is written with escapes.
    """
    fields = (KINDS[type(record)], *record)
    try:
        packed: bytes = msgpack.packb(fields)
    except UnicodeEncodeError:
        packed = msgpack.packb(fields, unicode_errors="backslashreplace")
    return packed


def decode(data: bytes, position: Position | None = None) -> Record:
    """Read a record back.

    Parameters
    ----------
    data : bytes
    position : Position, optional
        Where in the log it is, for the message.

    Raises
    ------
    CorruptObjectError
        If the bytes are not a record.
    """
    try:
        kind, *fields = msgpack.unpackb(data, use_list=False, strict_map_key=False)
        shape = (kind, *map(type, fields))
        if shape not in _known_shapes:
            _check_shape(kind, fields)
            _known_shapes.add(shape)
        record: Record = _READERS[kind](fields)
        return record
    except Exception as error:  # msgpack has many
        where = f"the record at byte {position.offset} of {position.segment}" if position else "a record"
        why = f"unknown kind {error}" if isinstance(error, KeyError) else str(error)
        raise checked.damaged(where, why) from None


_known_shapes: set[tuple[object, ...]] = set()
"""Kinds of records with the types of their fields, which were found to be right: there are few, and many records."""


def _check_shape(kind: str, fields: list[Any]) -> None:
    """Raise an error if a field of a record has a wrong type.

    Raises
    ------
    TypeError
    """
    for (name, hint), value in zip(get_type_hints(_CLASSES[kind]).items(), fields, strict=False):
        allowed = get_args(hint) if get_origin(hint) is UnionType else (hint,)
        if not any(_is_stored_as(value, each) for each in allowed):
            raise TypeError(f"{name} is of type {type(value).__name__}")


def _is_stored_as(value: Any, hint: Any) -> bool:
    """Return whether msgpack gives such a value for an annotated type; tuples and our own classes are arrays."""
    plain = get_origin(hint) or hint
    if plain is float:
        return type(value) in (int, float)
    return type(value) is (tuple if issubclass(plain, tuple) else plain)


def assert_never(value: NoReturn) -> NoReturn:
    """Let the type checker see that a ``match`` has a case for each kind of record; Python has this from 3.11 on."""
    raise AssertionError(f"unexpected {value!r}")


def display_name(task: TaskRecord, function: str | None) -> str:
    """Return the name of a task for people: that of the call, that of its function, or a question mark."""
    return str(task.options.get("name") or function or "?")


def start_of(kind: type[TaskRecord | Outcome]) -> bytes:
    """Return the bytes that all records of a kind start with; the sixteen after them are the task's id."""
    start: bytes = msgpack.packb((KINDS[kind], bytes(16), *kind._fields[1:])).partition(bytes(16))[0]
    return start


def payload_or_ref(value: Any) -> bytes | BlobRef:
    """Return a value from a message: its payload, or the reference of the blob that holds it."""
    return value if isinstance(value, bytes) else BlobRef(*value)


def _ref(value: Any) -> Any:
    return BlobRef(*value) if type(value) is tuple else value


def _run(fields: list[Any]) -> Run:
    return Run(*fields)._replace(code=_ref(fields[Run._fields.index("code")]))


def _function(fields: list[Any]) -> Function:
    digest, name, options, payload, parts = fields
    return Function(digest, name, options, BlobRef(*payload), parts)


def _task(fields: Any) -> TaskRecord:
    id, function, args, needs, after, options, parent, parts, lineage, blobs = fields
    refs = tuple(BlobRef(*blob) for blob in blobs)
    return TaskRecord(id, function, _ref(args), needs, after, options, parent, parts, lineage, refs)


def _outcome(fields: list[Any]) -> Outcome:
    id, attempt, value, refs, tasks, functions, blobs, deleted, log, stats, temporary = fields
    return Outcome(
        id, attempt, _ref(value), refs,
        tuple(_task(t) for t in tasks), tuple(_function(f) for f in functions),
        tuple(BlobRef(*b) for b in blobs), deleted, _ref(log), Stats(*stats), temporary,
    )  # fmt: skip


def _failure(fields: list[Any]) -> Failure:
    failure = Failure(*fields)
    return failure._replace(log=_ref(failure.log), stats=Stats(*failure.stats))


_CLASSES: dict[str, type] = {kind: cls for cls, kind in KINDS.items()}

_READERS: dict[str, Any] = {
    **{kind: (lambda fields, cls=cls: cls(*fields)) for cls, kind in KINDS.items()},
    "run": _run, "function": _function, "task": _task, "outcome": _outcome, "failure": _failure,
}  # fmt: skip


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Do not collect garbage while many lasting objects are created; a decorator or a context.

    The collector would look through all that was made so far again and again: a third of the time that a graph of
    ten thousand tasks takes to read and to name.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
