"""Decide when services start and stop, and which tasks may use them.

A task that needs services is one of their *users*. It requests them when all its other needs are complete,
and is *admitted* when there is room for all of them, for itself, and for each user admitted before, at the same
time: so running services never keep their own users from running. Then the services start; the user starts
when all of them serve. A service stops when all its users are complete or given up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from toilfn.ids import BatchId, TaskId
from toilfn.scheduler.events import StopService
from toilfn.scheduler.packing import Pool, Shape
from toilfn.scheduler.states import State, TaskState

__all__ = ["Services"]

_LOOKAHEAD = 32
"""The most users that are skipped because there is no room for them."""


class _Service:
    __slots__ = ("admitted", "users", "waiting_users")

    def __init__(self) -> None:
        #: The users that are neither complete nor given up.
        self.users: set[TaskId] = set()
        #: The users that may run, or have run and led to tasks that are not complete.
        self.admitted: set[TaskId] = set()
        #: Users that request it while its own needs are not complete.
        self.waiting_users: list[TaskId] = []


class Services:
    """The services among the tasks, and their users.

    Parameters
    ----------
    tasks : dict
        The tasks that are not complete.
    pool : Pool
        The resources of the cluster.
    """

    def __init__(self, tasks: dict[TaskId, TaskState], pool: Pool) -> None:
        self._tasks = tasks
        self._pool = pool
        self._services: dict[TaskId, _Service] = {}
        self._uses: dict[TaskId, tuple[TaskId, ...]] = {}
        #: Services that run or will run, since users were admitted.
        self._active: set[TaskId] = set()
        self._stopping: set[TaskId] = set()
        self._queue: dict[TaskId, None] = {}
        #: The shapes of admitted users, which are not services themselves.
        self._admitted: dict[TaskId, Shape] = {}
        self._shapes: Counter[Shape] = Counter()
        #: Batches that were killed because a service died.
        self.dying_batches: set[BatchId] = set()

    def __contains__(self, id: object) -> bool:
        return id in self._services

    @property
    def queue(self) -> Collection[TaskId]:
        """The users that request services, in order."""
        return self._queue.keys()

    def of(self, id: TaskId) -> tuple[TaskId, ...]:
        """Return the services that a task uses itself, without those that these services use."""
        return self._uses.get(id, ())

    def is_wanted(self, id: TaskId) -> bool:
        """Return whether a service has users that are neither complete nor given up."""
        service = self._services.get(id)
        return service is not None and bool(service.users)

    def is_over(self, id: TaskId) -> bool:
        """Return whether a task is a service that no task needs any longer."""
        return id in self._services and not self.is_wanted(id)

    # Their lives

    def add(self, id: TaskId) -> None:
        """Take note of a service, before its users."""
        self._services[id] = _Service()

    def link(self, task: TaskState) -> None:
        """Take note of a task's use of services."""
        uses = tuple(dict.fromkeys(need for need in task.needs if need in self._services)) if self._services else ()
        if uses:
            self._uses[task.id] = uses
            for service in uses:
                self._services[service].users.add(task.id)

    def may_start(self, task: TaskState) -> bool:
        """Return whether a task whose other needs are complete can start now; if not, this is called again later."""
        if task.id in self._services:
            if not self._services[task.id].admitted:
                self._rest(task)
                return False
        elif task.id not in self._uses:
            return True
        elif task.id not in self._admitted:
            self._queue[task.id] = None
            return False
        return all(self._tasks[id].state is State.SERVING for id in self.of(task.id))

    def _rest(self, task: TaskState) -> None:
        """Note that a service cannot run now; users that waited for its needs can request it again."""
        self._active.discard(task.id)
        for id in self.of(task.id):
            self._services[id].admitted.discard(task.id)
        service = self._services[task.id]
        self._queue.update(dict.fromkeys(service.waiting_users))
        service.waiting_users = []

    def ended(self, id: TaskId) -> None:
        """Note that a service no longer serves."""
        self._stopping.discard(id)

    def leave(self, task: TaskState) -> list[StopService]:
        """Note that a task is complete or given up; return the services to stop that only it still needed."""
        self._queue.pop(task.id, None)
        if task.id in self._services:
            self._abandon(task.id)
        self._withdraw(task.id)
        stops = []
        for id in self.of(task.id):
            service = self._services.get(id)
            if service is not None and task.id in service.users:
                service.users.discard(task.id)
                stops += [] if service.users else self.stop(self._tasks[id])
        return stops

    def forget(self, task: TaskState) -> list[StopService]:
        """Note that a task is complete; return the services to stop that only it still needed."""
        if not self._services and not self._uses:  # most workflows have none
            return []
        stops = self.leave(task)
        self._uses.pop(task.id, None)
        self._services.pop(task.id, None)
        self._active.discard(task.id)
        return stops

    def stop(self, task: TaskState) -> list[StopService]:
        """Stop a service in whatever state it is."""
        if task.id in self._stopping or task.state is State.FAILED or task.state.has_outcome:
            return []
        if not task.state.is_at_work:
            return [StopService(task.id, None)]
        self._stopping.add(task.id)
        return [StopService(task.id, task.batch)]

    def _withdraw(self, id: TaskId) -> None:
        """Take back a user's admission."""
        shape = self._admitted.pop(id, None)
        if shape is not None:
            self._shapes -= Counter((shape,))
        for service in self.of(id):
            if service in self._services:
                self._services[service].admitted.discard(id)

    def _abandon(self, id: TaskId) -> None:
        """Take back the admission of all users of a service, and, if some are services, of their users, too."""
        stack = [id]
        while stack:
            service = stack.pop()
            for user in list(self._services[service].admitted):
                self._withdraw(user)
                if user in self._services:
                    stack.append(user)
            if not (task := self._tasks.get(service)) or not task.state.is_at_work:
                self._active.discard(service)

    # Admission

    def admit(self) -> tuple[list[TaskState], list[TaskState]]:
        """Admit users for whose services there is room.

        Returns
        -------
        list of TaskState
            Services and users that may have become ready.
        list of TaskState
            Users that can never run beside all their services. They are no longer in the queue.
        """
        settled: list[TaskState] = []
        without_room: list[TaskState] = []
        for id in list(islice(self._queue, _LOOKAHEAD)):
            user = self._tasks.get(id)
            if user is None or user.state is not State.WAITING or user.pending or not self._is_askable(id):
                del self._queue[id]
            elif not self._pool.can_hold(self._all_shapes(self._closure(id)), user.shape):
                del self._queue[id]
                without_room.append(user)
            elif self._has_room(user):
                del self._queue[id]
                settled += self._admit(user)
        return settled, without_room

    def _is_askable(self, id: TaskId) -> bool:
        """Return whether all needs of a user's services are complete; if not, the user requests them again later."""
        for service in self._closure(id):
            task = self._tasks[service]
            if task.state is State.FAILED:
                return False
            if task.pending:
                self._services[service].waiting_users.append(id)
                return False
        return True

    def _closure(self, id: TaskId) -> Iterator[TaskId]:
        """Return the services that a task uses, and the services that these use."""
        found = dict.fromkeys(self.of(id))
        stack = list(found)
        while stack:
            more = [other for other in self.of(stack.pop()) if other not in found]
            found.update(dict.fromkeys(more))
            stack += more
        return iter(found)

    def _all_shapes(self, ids: Iterable[TaskId]) -> list[Shape]:
        return [self._tasks[id].shape for id in ids]

    def _has_room(self, user: TaskState) -> bool:
        more = set(self._closure(user.id)) - self._active
        shapes = self._all_shapes(self._active | more)
        beside = {user.shape, *self._shapes} if more else {user.shape}
        return all(self._pool.can_hold(shapes, shape) for shape in beside)

    def _admit(self, user: TaskState) -> list[TaskState]:
        self._admitted[user.id] = user.shape
        self._shapes[user.shape] += 1
        stack, settled = [user], []
        while stack:
            task = stack.pop()
            settled.append(task)
            for id in self.of(task.id):
                self._services[id].admitted.add(task.id)
                if id not in self._active:
                    self._active.add(id)
                    stack.append(self._tasks[id])
        return [task for task in reversed(settled) if task.state is State.WAITING]

    # When nothing else runs

    @property
    def is_stopping(self) -> bool:
        """Whether a service was asked to stop and still runs."""
        return bool(self._stopping)

    def serving(self) -> list[TaskId]:
        """Return the services that can be used now."""
        return [id for id in self._active if self._tasks[id].state is State.SERVING]

    def release(self, hopeful: Collection[TaskId]) -> list[StopService]:
        """Stop the services that none of the hopeful admitted users needs, to make room for others."""
        kept: set[TaskId] = set()
        for id in hopeful:
            if id in self._admitted:
                kept.update(self._closure(id))
        stops: list[StopService] = []
        serving = set(self.serving())
        for id in serving - kept:
            if serving.isdisjoint(self._services[id].users):
                self._abandon(id)
                stops += self.stop(self._tasks[id])
        return stops
