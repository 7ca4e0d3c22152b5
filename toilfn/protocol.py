"""The messages between leader and worker, which clusters carry: one typed message each, one msgpack array on the wire.

A message on the wire is an array of its tag and its fields, in the order in which the class declares them. Trailing
fields that have their default are left out. So a later version may add a field with a default: a worker that does not
know it still understands every message that does not use it, and refuses the others.

`TO_WORKER` and `TO_LEADER` say who sends what. `docs/architecture.md` says when.
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
    """The first message to a warm worker: its store, and where it finds modules."""

    store: str
    path: Sequence[str]


class Run(NamedTuple):
    """A batch to run."""

    tasks: Sequence[tuple[bytes, int, Mapping[str, Any]]]
    """The encoded record of each task in the order in which they run, the number of the attempt (1 for the first),
    and what the task may use, as `limits` describes it."""
    values: Mapping[TaskId, tuple[Value, tuple[TaskId, ...]]]
    """The values that the tasks need from outside the batch, and the tasks that each value refers to."""
    functions: Sequence[bytes]
    """Encoded function records."""
    walltime: float | None = None
    """The seconds that the whole batch may take, on a cluster where that is the only limit."""


class Recall(NamedTuple):
    """Give back the tasks that have not started."""


class Stop(NamedTuple):
    """Stop the service that the batch runs."""


class Ready(NamedTuple):
    """A warm worker takes messages from now on."""


class Records(NamedTuple):
    """How attempts ended."""

    records: Sequence[bytes] = ()
    """Encoded outcomes and failures, in order."""
    tail_calls: Sequence[TaskId] = ()
    """The tasks, created by these attempts, that the worker has started on its own."""


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
    """The name of the task, and the text."""


class Started(NamedTuple):
    """A service has started."""

    task: TaskId
    value: Value
    """The value that its clients get."""


class Returned(NamedTuple):
    """Tasks that this worker will not run: it was asked to give them back, or an input of theirs failed."""

    tasks: Sequence[TaskId]


class Done(NamedTuple):
    """The batch is over; with the last records where each message is an object in the store."""

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
    """Return a message as it is sent."""
    defaults = message._field_defaults
    fields: tuple[Any, ...] = message
    for name in reversed(message._fields if defaults else ()):
        if name not in defaults or fields[-1] not in (defaults[name], []):
            break
        fields = fields[:-1]
    # A path need not be Unicode.
    packed: bytes = msgpack.packb((_TAGS[type(message)], *fields), unicode_errors="surrogateescape")
    return packed


def decode(data: bytes) -> Message:
    """Read a message.

    Raises
    ------
    ToilfnError
        If it is not a message that this version of toilfn knows.
    """
    try:
        # Whatever was sent as a list is a tuple here, so that ids and references can be keys.
        tag, *fields = msgpack.unpackb(data, use_list=False, strict_map_key=False, unicode_errors="surrogateescape")
        message: Message = _CLASSES[tag](*fields)
    except (TypeError, ValueError, LookupError) as error:
        raise ToilfnError(
            f"a message between leader and worker cannot be read ({_shown(data)}): they have different versions of "
            "toilfn; install the leader's version where the workers run"
        ) from error
    return message


def expect(class_: type[M], data: bytes) -> M:
    """Read a message that can only be one of this class.

    Raises
    ------
    ToilfnError
        If it is another one.
    """
    message = decode(data)
    if not isinstance(message, class_):
        raise ToilfnError(f"expected the message {_TAGS[class_]!r}, and got {_TAGS[type(message)]!r}")
    return message


def is_done(answers: Sequence[bytes]) -> bool:
    """Return whether the last answer of a batch says that it is over."""
    return bool(answers) and isinstance(decode(answers[-1]), Done)


def _shown(data: bytes) -> str:
    return repr(data[:40]) + ("..." if len(data) > 40 else "")


READY, RECALL, STOP, DONE = encode(Ready()), encode(Recall()), encode(Stop()), encode(Done())


@lru_cache(maxsize=1024)
def limits(shape: Resources) -> dict[str, Any]:
    """Return the limits of a task as plain values, as `Run.tasks` has them."""
    return {
        "cores": shape.cores,
        "memory": shape.memory,
        "disk": shape.disk,
        "walltime": shape.walltime,
        "accelerators": [(a.count, a.kind, a.model, a.brand, a.api) for a in shape.accelerators],
    }
