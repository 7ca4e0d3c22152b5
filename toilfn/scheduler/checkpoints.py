"""Which tasks a checkpoint, or a client of services, led to, so that it can be rolled back with all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from toilfn.ids import TaskId

__all__ = ["Checkpoints"]


class Checkpoints:
    """The checkpoints among the tasks that are not complete, and their families: all that they led to.

    A task belongs to the family of the innermost checkpoint above it. A checkpoint within another belongs to that
    one's family, and so its own family goes with it. Clients of services count as checkpoints, except that
    the only reason to roll them back is that a service of theirs has died.
    """

    def __init__(self) -> None:
        self._needs: dict[TaskId, tuple[TaskId, ...]] = {}
        self._clients: set[TaskId] = set()
        self._above: dict[TaskId, TaskId] = {}
        self._families: dict[TaskId, list[TaskId]] = {}
        #: Tasks of families that were given up.
        self.given_up_members: list[TaskId] = []
        #: Clients that have led to what knows a dead service, and that service.
        self.clients_to_rerun: list[tuple[TaskId, TaskId]] = []

    @property
    def is_due(self) -> bool:
        """Whether something may have to be rolled back."""
        return bool(self.given_up_members or self.clients_to_rerun)

    def __contains__(self, id: object) -> bool:
        return id in self._needs

    def add(self, id: TaskId, needs: tuple[TaskId, ...], *, is_client: bool = False) -> None:
        """Take note of a checkpoint, or of a mere client of services, and of what it needs, also to run again."""
        self._needs[id] = needs
        if is_client:
            self._clients.add(id)

    def needs(self, id: TaskId) -> tuple[TaskId, ...]:
        """Return the tasks that a checkpoint needs."""
        return self._needs[id]

    def descend(self, id: TaskId, parent: TaskId) -> None:
        """Take note of a task that another one led to."""
        above = parent if parent in self._needs else self._above.get(parent)
        if above is not None and id not in self._above:
            self._above[id] = above
            self._families.setdefault(above, []).append(id)

    def give_up(self, id: TaskId) -> None:
        """Note that a task was given up: the checkpoint above it, if there is one, has to be rolled back."""
        if any(True for _ in self.above(id)):
            self.given_up_members.append(id)

    def above(self, id: TaskId) -> Iterator[TaskId]:
        """Return the checkpoints above a task, the innermost first, without mere clients of services."""
        return (above for above in self._all_above(id) if above not in self._clients)

    def _all_above(self, id: TaskId) -> Iterator[TaskId]:
        while (above := self._above.get(id)) is not None:
            yield above
            id = above

    def outermost(self, id: TaskId) -> TaskId | None:
        """Return the outermost checkpoint that is this task or above it; None if there is none."""
        last = id if id in self._needs else None
        for above in self._all_above(id):
            last = above
        return last

    def family(self, id: TaskId) -> list[TaskId]:
        """Return all that a checkpoint led to, with the families of checkpoints within."""
        found = list(self._families.get(id, ()))
        for member in found:  # grows
            found += self._families.get(member, ())
        return found

    def forget(self, id: TaskId) -> None:
        """Forget a checkpoint's family."""
        family = self.family(id)
        self._families.pop(id, None)
        self._drop(family)

    def complete(self, id: TaskId) -> None:
        """Note that a checkpoint is complete; one below another can still be forgotten with that one's family."""
        if id not in self._above:
            self.forget(id)
            self._drop([id])

    def _drop(self, ids: Iterable[TaskId]) -> None:
        for id in ids:
            self._clients.discard(id)
            for kept in (self._needs, self._above, self._families):
                kept.pop(id, None)
