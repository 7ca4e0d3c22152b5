"""The messages between leader and worker, which clusters carry: one typed message each, one msgpack array on the wire.

A message on the wire is an array of its tag and its fields, in the order in which the class declares them. Trailing
fields that have their default are left out. So a later version may add a field with a default: a worker that does not
know it still understands every message that does not use it, and refuses the others.

`TO_WORKER` and `TO_LEADER` list the messages that each side receives. `docs/architecture.md` says when they are sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import msgpack

from toilfn.errors import ToilfnError
from toilfn.ids import TaskId
from toilfn.resources import Resources

__all__ = [
    "DONE",
    "READY",
    "RECALL",
    "STOP",
    "TO_LEADER",
    "TO_WORKER",
    "Done",
    "Log",
    "Message",
    "Open",
    "Ready",
    "Recall",
    "Records",
    "Returned",
    "Run",
    "Running",
    "Started",
    "Stop",
    "Warnings",
    "decode",
    "encode",
    "expect",
    "is_done",
    "limits",
]

Value: TypeAlias = "bytes | Sequence[Any]"
"""A pickled value, or the fields of the `BlobRef` of the blob that holds it."""


class Open(NamedTuple):
    """The first message to a warm worker: the URL of its store, and the value of `sys.path`."""

    store: str
    path: Sequence[str]


class Run(NamedTuple):
    """A batch to run."""

    tasks: Sequence[tuple[bytes, int, Mapping[str, Any]]]
    """For each task, in the order in which they run: its encoded record, the number of the attempt (from 1), and the
    resources that it may use, in the form that `limits` returns."""
    values: Mapping[TaskId, tuple[Value, tuple[TaskId, ...]]]
    """The values that the tasks need from outside the batch, each with the tasks that the value refers to."""
    functions: Sequence[bytes]
    """The encoded records of the functions of the tasks."""
    walltime: float | None = None
    """The time limit of the whole batch in seconds, on a cluster that cannot limit the time of a single task."""


class Recall(NamedTuple):
    """The request to return the tasks that have not started."""


class Stop(NamedTuple):
    """The request to stop the service that the batch runs."""


class Ready(NamedTuple):
    """The first message from a warm worker: it has started, and receives messages."""


class Records(NamedTuple):
    """The results of attempts."""

    records: Sequence[bytes] = ()
    """Encoded outcomes and failures, in order."""
    tail_calls: Sequence[TaskId] = ()
    """Tasks that these attempts created and that the worker has started as tail calls, without asking the leader."""


class Running(NamedTuple):
    """A task that has been running for some time."""

    task: TaskId
    since: float
    """Seconds since the epoch."""


class Log(NamedTuple):
    """The lines that a running task has printed since the last such message."""

    task: TaskId
    text: bytes


class Warnings(NamedTuple):
    """The lines that running tasks have logged at the level WARNING or above."""

    lines: Sequence[tuple[str, str]]
    """The name of the task and the text of the message, for each line."""


class Started(NamedTuple):
    """A service has started."""

    task: TaskId
    value: Value
    """The value that the service yielded for its clients."""


class Returned(NamedTuple):
    """Tasks that this worker will not run, because the leader asked it to return them, or because an input failed."""

    tasks: Sequence[TaskId]


class Done(NamedTuple):
    """The last message of a batch.

    It also contains the last records if messages are objects in the store, which saves one object.
    """

    records: Sequence[bytes] = ()
    tail_calls: Sequence[TaskId] = ()


Message: TypeAlias = Open | Run | Recall | Stop | Ready | Records | Running | Log | Warnings | Started | Returned | Done

TO_WORKER: Final[Mapping[str, type[Message]]] = {"open": Open, "run": Run, "recall": Recall, "stop": Stop}
TO_LEADER: Final[Mapping[str, type[Message]]] = {
    "ready": Ready,
    "records": Records,
    "running": Running,
    "log": Log,
    "warnings": Warnings,
    "started": Started,
    "returned": Returned,
    "done": Done,
}

_CLASSES: dict[str, type[Any]] = {**TO_WORKER, **TO_LEADER}
_TAGS: dict[type[Any], str] = {class_: tag for tag, class_ in _CLASSES.items()}

M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """Return the bytes of a message."""
    defaults = message._field_defaults
    fields: tuple[Any, ...] = message
    for name in reversed(message._fields if defaults else ()):
        if name not in defaults or fields[-1] not in (defaults[name], []):
            break
        fields = fields[:-1]
    # Paths in messages need not be valid UTF-8.
    packed: bytes = msgpack.packb((_TAGS[type(message)], *fields), unicode_errors="surrogateescape")
    return packed


def decode(data: bytes) -> Message:
    """Parse the bytes of a message.

    Raises
    ------
    ToilfnError
        If this version of toilfn does not know such a message.
    """
    try:
        # Lists are read as tuples, so that ids and references can be keys of dicts.
        tag, *fields = msgpack.unpackb(data, use_list=False, strict_map_key=False, unicode_errors="surrogateescape")
        message: Message = _CLASSES[tag](*fields)
    except (TypeError, ValueError, LookupError) as error:
        raise ToilfnError(
            f"a message between leader and worker cannot be read ({_shown(data)}): their versions of toilfn differ",
            hint="install the leader's version of toilfn where the workers run",
        ) from error
    return message


def expect(class_: type[M], data: bytes) -> M:
    """Parse a message that must be of a given class.

    Raises
    ------
    ToilfnError
        If it is a message of another class.
    """
    message = decode(data)
    if not isinstance(message, class_):
        raise ToilfnError(f"expected the message {_TAGS[class_]!r}, and got {_TAGS[type(message)]!r}")
    return message


def is_done(answers: Sequence[bytes]) -> bool:
    """Return whether a batch has ended: whether its last answer is `Done`."""
    return bool(answers) and isinstance(decode(answers[-1]), Done)


def _shown(data: bytes) -> str:
    return repr(data[:40]) + ("..." if len(data) > 40 else "")


READY, RECALL, STOP, DONE = encode(Ready()), encode(Recall()), encode(Stop()), encode(Done())


@lru_cache(maxsize=1024)
def limits(shape: Resources) -> dict[str, Any]:
    """Return the resources that a task may use as plain values, for `Run.tasks`."""
    return {
        "cores": shape.cores,
        "memory": shape.memory,
        "disk": shape.disk,
        "walltime": shape.walltime,
        "accelerators": [(a.count, a.kind, a.model, a.brand, a.api) for a in shape.accelerators],
    }
