"""The values that the tasks of a batch may need, as payloads: each consumer loads its own copies.

`explained` describes why a value cannot be pickled.
"""

from __future__ import annotations

import dataclasses
import io
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from toilfn.errors import SerializationError
from toilfn.graph.serialize import dumps
from toilfn.ids import TaskId
from toilfn.model.records import BlobRef

__all__ = ["BlobCache", "Payloads", "explained"]

Entry: TypeAlias = tuple["bytes | BlobRef", tuple[TaskId, ...]]


class BlobCache:
    """Reads blobs and keeps the ones used last.

    Parameters
    ----------
    read : callable
        Returns a blob's bytes.
    capacity : int
        How many bytes to keep.
    """

    def __init__(self, read: Callable[[BlobRef], bytes], capacity: int = 64 << 20) -> None:
        self._read = read
        self._room = capacity
        self._blobs: OrderedDict[BlobRef, bytes] = OrderedDict()

    def put(self, ref: BlobRef, data: bytes) -> None:
        """Add a blob that came with a message."""
        if ref not in self._blobs:
            self._keep(ref, data)

    def get(self, payload: bytes | BlobRef) -> bytes:
        """Return a payload's bytes, wherever they are."""
        if isinstance(payload, bytes):
            return payload
        if payload in self._blobs:
            self._blobs.move_to_end(payload)
            return self._blobs[payload]
        data = self._read(payload)
        self._keep(payload, data)
        return data

    def _keep(self, ref: BlobRef, data: bytes) -> None:
        self._blobs[ref] = data
        self._room -= len(data)
        while self._room < 0:
            _, dropped = self._blobs.popitem(last=False)
            self._room += len(dropped)


class Payloads(Mapping[TaskId, tuple[bytes, tuple[TaskId, ...]]]):
    """Payloads and what they refer to, by task; blobs are read when they are needed."""

    def __init__(self, entries: dict[TaskId, Entry], blobs: BlobCache) -> None:
        self._entries = entries
        self._blobs = blobs

    def put(self, id: TaskId, payload: bytes | BlobRef, refs: tuple[TaskId, ...]) -> None:
        """Add a task's value."""
        self._entries[id] = (payload, refs)

    def __getitem__(self, id: TaskId) -> tuple[bytes, tuple[TaskId, ...]]:
        payload, refs = self._entries[id]
        return self._blobs.get(payload), refs

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    def __iter__(self) -> Iterator[TaskId]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


_DEEPEST = 30
"""How many levels of a value are named in an error."""

_ADVICE: dict[type, str] = {
    types.GeneratorType: "return a list instead",
    types.CoroutineType: "run the coroutine inside the task, an ordinary function, and return its result",
    io.IOBase: "return the content, or a File created by toilfn.write_file",
}


def explained(error: SerializationError, value: Any, task: str) -> SerializationError:
    """Describe why the value of a task cannot be stored.

    Parameters
    ----------
    error : SerializationError
        How storing it failed.
    value : object
        The value that the task returned.
    task : str
        The task's name.

    Returns
    -------
    SerializationError
        With a text such as ``"the value of task f cannot be stored: value['rows'][3] is a generator: return a list
        instead"``; the same error when the value by itself could be stored.
    """
    if _is_storable(value):
        return error
    if _is_too_deep(error):
        return SerializationError(f"the value of task {task} cannot be stored: it is nested too deeply")
    place, culprit = _find("value", value)
    kind = type(culprit)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    advice = next((text for base, text in _ADVICE.items() if isinstance(culprit, base)), str(error))
    return SerializationError(f"the value of task {task} cannot be stored: {place} is a {name}: {advice}")


def _is_too_deep(error: BaseException | None) -> bool:
    """Return whether pickle reached the recursion limit. To find the part, each one would have to be pickled anew."""
    while error is not None and not isinstance(error, RecursionError):
        error = error.__cause__
    return error is not None


def _find(place: str, value: Any) -> tuple[str, Any]:
    """Go down to the innermost part that cannot be stored, but not for ever: each level pickles the parts again."""
    seen = {id(value)}
    for _ in range(_DEEPEST):
        for part_place, part in _parts(place, value):
            if id(part) not in seen and not _is_storable(part):
                seen.add(id(part))
                place, value = part_place, part
                break
        else:
            break
    return place, value


def _is_storable(value: Any) -> bool:
    try:
        dumps(value, lambda _: b"")
    except SerializationError:
        return False
    return True


def _parts(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{place}[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{place}[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f"{place}, an item", item) for item in value)
    elif dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        yield from ((f"{place}.{name}", item) for name, item in vars(value).items())
