"""The demand of a run for machines, now and soon, as its store's log says.

The log says more than a queue: which tasks follow those that run now, and how long tasks of each name have taken so
far. It is read piece by piece, so that a look at a run costs what has happened since the last one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from toilfn.cloud.scaler import Demand
from toilfn.inspect.fold.columns import Detail
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.view import State
from toilfn.resources import Resources
from toilfn.stores import Store
from toilfn.stores.lease import living

__all__ = ["RunDemand", "Task", "grouped"]

Task = tuple[Resources, float]
"""The resources of a task, and the seconds that it is expected to take."""


class RunDemand:
    """The tasks of a run that need machines.

    Parameters
    ----------
    store : Store
        The store of the run.
    horizon : float
        How far to look ahead, in seconds. Tasks of whose name none has ended are expected to take as long.
    """

    def __init__(self, store: Store, horizon: float) -> None:
        self._store = store
        self._horizon = horizon
        self._fold = Fold(Detail.USAGE)
        self._times: list[float] = []
        """The mean times of tasks, by the number of their kind; not a number for those that have none."""

    def update(self) -> None:
        """Read what is new in the log."""
        self._fold.update(self._store)
        figures = [(kind.usage.done, kind.usage.figures("wall")["mean"]) for kind in self._fold.kinds]
        self._times = [mean if done else math.nan for done, mean in figures]

    @property
    def has_begun(self) -> bool:
        """Whether the store has a run."""
        return self._fold.run is not None

    @property
    def has_ended(self) -> bool:
        """Whether the newest run has ended, or no task of it is left."""
        open_states = State.WAITING, State.QUEUED, State.RUNNING
        return self._fold.status != "open" or next(self._fold.in_state(*open_states), None) is None

    def soon(self, now: float) -> list[Demand]:
        """Return the tasks that are ready or will probably be ready within the horizon, and have no job yet.

        There are none after the run, or while no leader is alive, since nothing would give them to a cluster.

        Parameters
        ----------
        now : float
            The time, in seconds since the epoch.
        """
        if self.has_ended or living(self._store) is None:
            return []
        fold, complete = self._fold, _Completion(self._fold, self._times)
        return grouped(
            self._task(number)
            for number in fold.in_state(State.WAITING)
            if not fold.request_of(number).local
            and all(complete.at(need) <= now + self._horizon for need in fold.needs(number))
        )

    def jobs(self) -> dict[str, list[Task]]:
        """Return the tasks that a cluster has, by the cluster's names for their jobs."""
        found: dict[str, list[Task]] = {}
        for number in self._fold.in_state(State.QUEUED, State.RUNNING):
            found.setdefault(self._fold.job_of(number), []).append(self._task(number))
        return found

    def _task(self, number: int) -> Task:
        fold = self._fold
        time = math.inf if fold.is_service(number) else self._times[fold.kind_of(number).number]
        return fold.request_of(number), self._horizon if math.isnan(time) else time


def grouped(tasks: Iterable[Task]) -> list[Demand]:
    """Return a group for all tasks that are alike."""
    return [Demand(resources, count, seconds) for (resources, seconds), count in Counter(tasks).items()]


class _Completion:
    """When tasks and all that they lead to will be done.

    Parameters
    ----------
    fold : Fold
        The run.
    times : list of float
        The mean times of tasks, by the number of their kind.
    """

    def __init__(self, fold: Fold, times: list[float]) -> None:
        self._fold = fold
        self._times = times
        self._given = dict(fold.since())
        self._known: dict[int, float] = {}

    def at(self, wanted: int) -> float:
        """Return the time at which a task is probably complete, in seconds since the epoch; infinite if unknown.

        Tasks that have still to start count as unknown. It works with a stack, since chains of tasks are deep.
        """
        stack = [wanted]
        while stack:
            task = stack[-1]
            if task in self._known:
                stack.pop()
            elif self._fold.state_of(task) is not State.DONE:
                self._known[stack.pop()] = self._own(task)
            elif missing := [each for each in self._fold.led_to(task) if each not in self._known]:
                stack += missing
            else:
                self._known[stack.pop()] = max((self._known[each] for each in self._fold.led_to(task)), default=0.0)
        return self._known[wanted]

    def _own(self, task: int) -> float:
        if task not in self._given:
            return math.inf
        end = self._given[task] + self._times[self._fold.kind_of(task).number]
        return math.inf if math.isnan(end) else end
