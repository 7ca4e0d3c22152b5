"""The current and future demand of a run for machines, from the log of its store.

The log contains more than a queue: the tasks that follow those that are running now, and the times that tasks of each
name have taken so far. An update reads only the new records of the log.
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
    """Determines which tasks of a run need machines, now and soon.

    Parameters
    ----------
    store : Store
        The store of the run.
    horizon : float
        How far to look ahead, in seconds. This is also the expected time of a task if no task of its name has ended.
    """

    def __init__(self, store: Store, horizon: float) -> None:
        self._store = store
        self._horizon = horizon
        self._fold = Fold(Detail.USAGE)
        self._times: list[float] = []
        """The mean times of tasks in seconds, by the number of their kind; NaN for a kind without finished tasks."""

    def update(self) -> None:
        """Read the new records of the log."""
        self._fold.update(self._store)
        figures = [(kind.usage.done, kind.usage.figures("wall")["mean"]) for kind in self._fold.kinds]
        self._times = [mean if done else math.nan for done, mean in figures]

    @property
    def has_begun(self) -> bool:
        """Whether the store has a run."""
        return self._fold.run is not None

    @property
    def has_ended(self) -> bool:
        """Whether the newest run has ended, or all its tasks have."""
        open_states = State.WAITING, State.QUEUED, State.RUNNING
        return self._fold.status != "open" or next(self._fold.in_state(*open_states), None) is None

    def soon(self, now: float) -> list[Demand]:
        """Return the tasks without a job that are ready, or will probably be ready within the horizon.

        The result is empty after the run, and while no leader is alive, since no one would submit the tasks.

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
        """Return the tasks that were submitted to a cluster, by the cluster's ids of their jobs."""
        found: dict[str, list[Task]] = {}
        for number in self._fold.in_state(State.QUEUED, State.RUNNING):
            found.setdefault(self._fold.job_of(number), []).append(self._task(number))
        return found

    def _task(self, number: int) -> Task:
        fold = self._fold
        time = math.inf if fold.is_service(number) else self._times[fold.kind_of(number).number]
        return fold.request_of(number), self._horizon if math.isnan(time) else time


def grouped(tasks: Iterable[Task]) -> list[Demand]:
    """Group tasks with the same resources and the same expected time."""
    return [Demand(resources, count, seconds) for (resources, seconds), count in Counter(tasks).items()]


class _Completion:
    """Estimates when tasks, and all tasks that they create, will be done.

    Parameters
    ----------
    fold : Fold
        The run.
    times : list of float
        The mean times of tasks in seconds, by the number of their kind.
    """

    def __init__(self, fold: Fold, times: list[float]) -> None:
        self._fold = fold
        self._times = times
        self._given = dict(fold.since())
        self._known: dict[int, float] = {}

    def at(self, wanted: int) -> float:
        """Return the time at which a task is probably complete, in seconds since the epoch; infinite if unknown.

        The time is unknown for tasks that have not started. The search uses a stack instead of recursion, since chains
        of tasks can be deep.
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
