"""Keep the values that the tasks still to run, and the results of the run, will need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeAlias

from toilfn.graph.serialize import only_reference
from toilfn.ids import TaskId
from toilfn.model.records import BlobRef

__all__ = ["Entry", "Values"]

Entry: TypeAlias = tuple["bytes | BlobRef", tuple[TaskId, ...]]
"""A value's payload, or the blob that holds it, and the tasks the value refers to."""


class Values:
    """Payloads in memory, for as long as something refers to them.

    Parameters
    ----------
    read : callable
        Reads a value that is not in memory from the store.
    """

    def __init__(self, read: Callable[[TaskId], Entry]) -> None:
        self._read = read
        self._values: dict[TaskId, bytes | BlobRef] = {}
        self._refs: dict[TaskId, tuple[TaskId, ...]] = {}  # of the few values that refer to others
        self._pins: dict[TaskId, int] = defaultdict(int)
        self._released: set[TaskId] = set()

    def put(self, id_: TaskId, value: bytes | BlobRef, refs: tuple[TaskId, ...]) -> None:
        """Keep a value until it and all values that refer to it are released."""
        self._values[id_] = value
        if refs:
            self._refs[id_] = refs
        for ref in refs:
            self._pins[ref] += 1

    def drop(self, ids: Iterable[TaskId]) -> None:
        """Forget void values to which only values of this group refer."""
        for id_ in ids:
            self._values.pop(id_, None)
            self._released.discard(id_)
            for ref in self._refs.pop(id_, ()):
                self._unpin(ref)

    def release(self, id_: TaskId) -> None:
        """Release a value that no waiting task needs directly."""
        stack = [id_]
        while stack:
            current = stack.pop()
            if current in self._pins:
                self._released.add(current)
                continue
            self._released.discard(current)
            self._values.pop(current, None)
            if current in self._refs:
                stack += filter(self._unpin, self._refs.pop(current))

    def _unpin(self, id_: TaskId) -> bool:
        """Remove one pin; return whether the value may be dropped now."""
        self._pins[id_] -= 1
        if self._pins[id_]:
            return False
        del self._pins[id_]
        return id_ in self._released

    def closure(self, ids: Iterable[TaskId]) -> dict[TaskId, Entry]:
        """Collect the values of tasks, and of all tasks that these refer to.

        A chain of tail calls is cut short: each of its tasks gets the entry of the last one.
        """
        found: dict[TaskId, Entry] = {}
        stack = list(ids)
        while stack:
            id_ = stack.pop()
            if id_ not in found:
                found[id_] = self._last_call(id_)
                stack.extend(found[id_][1])
        return found

    def _last_call(self, id_: TaskId) -> Entry:
        value, refs = self._entry(id_)
        while isinstance(value, bytes) and only_reference(value, refs):
            value, refs = self._entry(refs[0])
        return value, refs

    def _entry(self, id_: TaskId) -> Entry:
        value = self._values.get(id_)
        return self._read(id_) if value is None else (value, self._refs.get(id_, ()))
