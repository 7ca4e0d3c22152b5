"""How much work goes into one batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from toilfn.ids import TaskId
from toilfn.scheduler.packing import Shape

__all__ = ["Draft", "Durations", "Policy"]

_SLOWER = 4.0
"""How many times longer than expected the tasks of a batch may take before there is no time left for some."""


@dataclass(frozen=True)
class Policy:
    """The rules that can be tuned.

    Attributes
    ----------
    target_seconds : float
        How much expected work goes into one batch. With 0 a batch has one task, and the chain behind it.
    max_batch : int
        The most tasks in one batch.
    patience : int
        How often a shape that does not fit is passed over before others are held back for it.
    recall_factor, recall_after : float
        A batch is overdue when it takes this many times longer than expected, and this many seconds.
    kill_after : float
        Seconds after which a batch is killed that continues although none of its tasks is needed any longer.
    gather : float
        For how many seconds ready tasks wait for others, to go out in one submission.
    probes : int or None
        How many tasks of a kind are started before it is known how long one takes; None is all of them.
    probe_patience : float
        For how many seconds at most the others wait for that.
    spread : int or None
        Ready tasks are put together only as far as that leaves so many batches; None puts them together anyway.
    check : bool
        Whether each `dispatch` checks the whole state, to find a bug where it happens.
    """

    target_seconds: float = 0.05
    max_batch: int = 256
    patience: int = 32
    recall_factor: float = 4.0
    recall_after: float = 1.0
    kill_after: float = 10.0
    gather: float = 0.0
    probes: int | None = None
    probe_patience: float = math.inf
    spread: int | None = None
    check: bool = False


class Durations:
    """How long a task of each kind takes, in seconds: a moving average.

    It goes down faster than up, since the first tasks of a kind load code as well.
    """

    _WEIGHT_UP = 0.2
    _WEIGHT_DOWN = 0.5

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, kind: int, seconds: float) -> None:
        """Learn how long one task took."""
        known = self._seconds.get(kind, seconds)
        weight = self._WEIGHT_UP if seconds > known else self._WEIGHT_DOWN
        self._seconds[kind] = known + weight * (seconds - known)

    def expect(self, kind: int) -> float:
        """Return how long a task will take; infinity as long as nothing is known."""
        return self._seconds.get(kind, math.inf)


class Draft:
    """A batch that is being put together.

    Parameters
    ----------
    shape : Shape
        The resources that the batch gets.
    policy : Policy
    longest : float
        The longest that the batch may take if each of its tasks takes all the time it may, in seconds.
    share : float
        The most ready tasks it may take, so that other free slots get work too.
    """

    def __init__(self, shape: Shape, policy: Policy, longest: float, share: float) -> None:
        self.shape = shape
        self.ids: list[TaskId] = []
        self.seconds = 0.0
        #: Whether some of its tasks could as well run elsewhere at the same time.
        self.is_divisible = False
        self._policy = policy
        self._longest = longest
        self._share = share
        self._walltime = 0.0

    @property
    def walltime(self) -> float | None:
        """How many seconds the batch may take; None is without limit."""
        return None if self.shape.resources.walltime is None else self._walltime

    def offer(self, id: TaskId, seconds: float) -> bool:
        """Take a ready task if it belongs here: the first one always does."""
        takes = self._time_for(self.shape, seconds, is_bound=not self.ids)
        if self.ids:
            if self._share < 1 or not (self._is_short(seconds) and self._has_space(takes)):
                return False
            self.is_divisible = True
        self._share -= 1
        self._add(id, seconds, takes)
        return True

    def offer_follower(self, id: TaskId, seconds: float, shape: Shape, *, is_link: bool) -> bool:
        """Take a task whose needs are all in the batch if it belongs here.

        The link of a chain loses nothing by staying; any other might find a free slot elsewhere.
        """
        takes = self._time_for(shape, seconds, is_bound=is_link)
        if not (is_link or self._is_short(seconds)) or not (self._has_space(takes) and shape.can_join(self.shape)):
            return False
        self.is_divisible = self.is_divisible or not is_link
        self._add(id, seconds, takes)
        return True

    def _time_for(self, shape: Shape, seconds: float, *, is_bound: bool) -> float:
        """Return how much longer the batch may take with a task; only one that is bound to the batch gets all it may.

        A worker that has no time left for another task gives it back: so the batch's first limit is enough for
        each of the others, as long as those before them take about as long as is expected.
        """
        limit = shape.resources.walltime or 0.0
        return limit if is_bound else min(limit, _SLOWER * seconds)

    def _is_short(self, seconds: float) -> bool:
        return self.seconds + seconds <= self._policy.target_seconds

    def _has_space(self, takes: float) -> bool:
        return len(self.ids) < self._policy.max_batch and self._walltime + takes <= self._longest

    def _add(self, id: TaskId, seconds: float, takes: float) -> None:
        self.ids.append(id)
        self.seconds += seconds
        self._walltime += takes
