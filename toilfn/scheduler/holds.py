"""Which values are still needed."""

from __future__ import annotations

from collections.abc import Iterable

from toilfn.events import Release, TaskId

__all__ = ["Holds"]


class Holds:
    """Counts, for each task, who will still load its value.

    A task without an outcome holds what it needs. A value holds the ones it refers to until it is
    released itself.
    """

    def __init__(self) -> None:
        self._counts: dict[TaskId, int] = {}
        self._refs: dict[TaskId, tuple[TaskId, ...]] = {}
        #: Ids of all complete tasks.
        self.complete: set[TaskId] = set()

    def hold(self, ids: Iterable[TaskId]) -> None:
        """Keep values; once for each time."""
        for id in ids:
            self._counts[id] = self._counts.get(id, 0) + 1

    def finish(self, id: TaskId, refs: tuple[TaskId, ...]) -> list[Release]:
        """Note that a task is complete, and which others its value refers to and holds already."""
        self.complete.add(id)
        if refs:
            self._refs[id] = refs
        return [] if id in self._counts else self._release(id)

    def let_go(self, ids: Iterable[TaskId]) -> list[Release]:
        """Undo `hold`."""
        return [release for id in ids if self._drop(id) for release in self._release(id)]

    def _drop(self, id: TaskId) -> bool:
        """Take one hold away; whether the value may go now."""
        self._counts[id] -= 1
        if self._counts[id]:
            return False
        del self._counts[id]
        return id in self.complete

    def _release(self, id: TaskId) -> list[Release]:
        released = [Release(id)]
        for release in released:  # grows as values go that only released ones referred to
            released += [Release(ref) for ref in self._refs.pop(release.id, ()) if self._drop(ref)]
        return released
