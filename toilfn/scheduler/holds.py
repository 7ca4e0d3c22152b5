"""Which values are still needed."""

from __future__ import annotations

from collections.abc import Iterable

from toilfn.ids import TaskId
from toilfn.scheduler.events import Release
from toilfn.scheduler.states import TaskState

__all__ = ["Holds"]


class Holds:
    """Counts, for each task, how many others will still load its value.

    A task without an outcome holds what it needs. A value holds the ones it refers to, except while
    it is released itself.

    Parameters
    ----------
    tasks : dict
        The tasks that are not complete: their counts are kept in them.
    """

    def __init__(self, tasks: dict[TaskId, TaskState]) -> None:
        self._tasks = tasks
        self._counts: dict[TaskId, int] = {}
        self._refs: dict[TaskId, tuple[TaskId, ...]] = {}
        #: Ids of all complete tasks.
        self.complete: set[TaskId] = set()

    def hold(self, ids: Iterable[TaskId]) -> None:
        """Keep values; once for each time."""
        stack = list(ids)
        while stack:
            id = stack.pop()
            task = self._tasks.get(id)
            if task is not None:
                task.held += 1
                continue
            if id not in self._counts:  # it was released: what it refers to is needed again, too
                self._counts[id] = 0
                stack += self._refs.get(id, ())
            self._counts[id] += 1

    def let_go(self, ids: Iterable[TaskId]) -> list[Release]:
        """Undo `hold`."""
        return [release for id in ids if self._drop(id) for release in self._release(id)]

    def finish(self, task: TaskState) -> list[Release]:
        """Note that a task is complete, and no longer among the others. Its value refers to what it needs now."""
        self.complete.add(task.id)
        if task.needs:
            self._refs[task.id] = task.needs
        if not task.held:
            return self._release(task.id)
        self._counts[task.id] = task.held
        return []

    def forget(self, ids: Iterable[TaskId]) -> int:
        """Forget complete tasks whose values no task holds; return how many of the given ones were complete."""
        gone = [id for id in ids if id in self.complete]
        for id in gone:
            self.complete.discard(id)
            self._refs.pop(id, None)
            self._counts.pop(id, None)
        return len(gone)

    def _drop(self, id: TaskId) -> bool:
        """Take one hold away; whether the value may go now."""
        task = self._tasks.get(id)
        if task is not None:
            task.held -= 1
            return False
        self._counts[id] -= 1
        if self._counts[id]:
            return False
        del self._counts[id]
        return True

    def _release(self, id: TaskId) -> list[Release]:
        released = [Release(id)]
        for release in released:  # grows as values go that only released ones referred to
            released += [Release(ref) for ref in self._refs.get(release.id, ()) if self._drop(ref)]
        return released
