"""Simulate a run on imaginary machines, to see the effect of the scaler's decisions."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from toilfn.cloud.machines import MachineType, Pool, has_devices, shortfall, usable
from toilfn.cloud.packing import Amounts, amounts_of
from toilfn.cloud.scaler import (
    Action,
    Create,
    Demand,
    Drain,
    Load,
    Machine,
    Memory,
    Settings,
    Terminate,
    Undrain,
    decide,
    note_created,
)
from toilfn.resources import Resources

__all__ = ["Market", "Plan", "PoolUse", "Step", "simulate"]

_HOUR = 3600.0

Decide = Callable[
    [Settings, Sequence[Machine], Iterable[Demand], Memory, float], tuple[list[Action], Memory]
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """A task.

    Attributes
    ----------
    name : str
        The name of the task's function.
    resources : Resources
        The resources that it requests.
    seconds : float
        The time that it takes.
    needs : tuple of int
        The indices of the tasks for which it waits.
    """

    name: str
    resources: Resources
    seconds: float
    needs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolUse:
    """The use of one pool by a run: the maximum number of machines, machine hours, and their cost, if it is known."""

    pool: str
    most: int
    hours: float
    cost: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The outcome of a simulated run.

    Attributes
    ----------
    tasks : int
        The number of tasks that were run.
    seconds : float
        The time from the start of the run to the end of its last task.
    pools : tuple of PoolUse
        The use of each pool.
    unplaced : tuple of str
        The tasks that no machine can run, with the limits that they exceed.
    flips : int
        The number of machines that were created although one of the same type had been removed in the last half hour.
    lost : int
        The number of tasks that were started again because their machine was taken away.
    """

    tasks: int
    seconds: float
    pools: tuple[PoolUse, ...]
    unplaced: tuple[str, ...] = ()
    flips: int = 0
    lost: int = 0

    @property
    def cost(self) -> float | None:
        """The cost of all pools; None if a price is unknown."""
        costs = [use.cost for use in self.pools]
        return None if any(cost is None for cost in costs) else sum(cost or 0.0 for cost in costs)


class Market(Protocol):
    """The cloud's supply of machines."""

    def available(self, pool: Pool, kind: MachineType, count: int, now: float) -> int:
        """Return how many of the `count` requested machines are available."""

    def lifetime(self, pool: Pool) -> float:
        """Return the seconds after which a machine is taken away; infinite if it is not."""


class _Plenty:
    """A cloud in which all machines are always available, and none is taken away."""

    def available(self, pool: Pool, kind: MachineType, count: int, now: float) -> int:
        return count

    def lifetime(self, pool: Pool) -> float:
        return math.inf


def simulate(
    settings: Settings, steps: Sequence[Step], *, interval: float = 60.0, boot: float = 120.0, rule: Decide = decide,
    market: Market | None = None,
) -> Plan:  # fmt: skip
    """Simulate a run.

    Parameters
    ----------
    settings : Settings
        The settings of the scaler.
    steps : sequence of Step
        The tasks.
    interval : float, optional
        Seconds between two decisions.
    boot : float, optional
        Seconds until a new machine can run tasks.
    rule : callable, optional
        The function that decides. Default: `decide`; another function must have the same parameters.
    market : Market, optional
        The cloud's supply of machines. Default: all machines are always available.
    """
    return _Simulation(settings, steps, interval, boot, rule, market or _Plenty()).run()


@dataclass(slots=True, eq=False)
class _Node:
    id: str
    pool: Pool
    kind: MachineType
    free: Amounts
    made: float
    ready: float
    running: dict[int, float] = field(default_factory=dict)
    """The index of each running task, and the time at which it will end."""
    draining: bool = False
    gone: bool = False


class _Simulation:
    """A simulation by events: a task ends, a machine has booted or is lost, or a decision is due."""

    def __init__(
        self, settings: Settings, steps: Sequence[Step], interval: float, boot: float, rule: Decide, market: Market
    ) -> None:
        self._settings, self._steps = settings, steps
        self._interval, self._boot, self._rule, self._market = interval, boot, rule, market
        self._needs = [amounts_of(step.resources) for step in steps]
        self._waits = [len(step.needs) for step in steps]
        self._followers: list[list[int]] = [[] for _ in steps]
        for index, step in enumerate(steps):
            for need in step.needs:
                self._followers[need].append(index)
        self._means = _mean_times(steps)
        self._unplaced = self._impossible()
        self._queues: dict[tuple[Resources, str], deque[int]] = {}
        self._nodes: dict[str, _Node] = {}
        self._names, self._order = count(), count()
        self._events: list[tuple[float, int, str, int, _Node | None]] = []
        self._memory = Memory()
        self._hours: dict[tuple[str, str], float] = {}
        self._most: dict[str, int] = {}
        self._removed: dict[str, float] = {}
        self._flips = self._lost = self._done = 0

    def _impossible(self) -> dict[Resources, str]:
        """Return the requirements that no machine can satisfy, each with the limit that it exceeds."""
        homes = [(pool, kind) for pool in self._settings.pools for kind in pool.types]
        found: dict[Resources, str] = {}
        for resources in {step.resources for step in self._steps}:
            verdicts = [shortfall(kind, resources, overhead=self._settings.overhead) for pool, kind in homes
                        if pool.admits(resources)]  # fmt: skip
            factor, reason = min(verdicts, default=(1.0, "it must not be preempted, and all pools have spot machines"))
            if factor:
                found[resources] = reason
        return found

    def run(self) -> Plan:
        """Process all events, and return the result."""
        now, last = 0.0, 0.0
        for index, waits in enumerate(self._waits):
            if not waits:
                self._enqueue(index)
        self._push(0.0, "look", 0, None)
        while self._events and (self._done < len(self._steps)):
            now, _, what, index, node = heapq.heappop(self._events)
            if what == "end" and node is not None and node.running.pop(index, None) is not None:
                self._finish(index, node, now)
                last = now
            elif what == "ready" and node is not None:
                self._fill([node], now)
            elif what == "lost" and node is not None and not node.gone:
                self._lose(node, now)
            elif what == "look" and not self._look(now):
                break
        for node in list(self._nodes.values()):
            self._remove(node, max(now, node.made))
        return self._plan(last)

    def _push(self, time: float, what: str, index: int, node: _Node | None) -> None:
        heapq.heappush(self._events, (time, next(self._order), what, index, node))

    def _enqueue(self, index: int) -> None:
        """Add a task that is ready to its queue. A task that no machine can run is skipped, and counts as done."""
        stack = [index]
        while stack:
            index = stack.pop()
            step = self._steps[index]
            if step.resources in self._unplaced:
                self._done += 1
                stack += self._released(index)
            else:
                self._queues.setdefault((step.resources, step.name), deque()).append(index)

    def _released(self, index: int) -> list[int]:
        ready = []
        for follower in self._followers[index]:
            self._waits[follower] -= 1
            if not self._waits[follower]:
                ready.append(follower)
        return ready

    def _finish(self, index: int, node: _Node, now: float) -> None:
        self._done += 1
        node.free = node.free.minus(self._needs[index], -1)
        ready = self._released(index)
        for follower in ready:
            self._enqueue(follower)
        self._fill(list(self._nodes.values()) if len(ready) > 1 else [node], now)

    def _fill(self, nodes: Sequence[_Node], now: float) -> None:
        """Start queued tasks on nodes where they fit, the largest first."""
        groups = sorted(self._queues.items(), key=lambda item: (-item[0][0].memory, -item[0][0].cores, item[0][1]))
        for (resources, name), queue in groups:
            need = amounts_of(resources)
            for node in nodes:
                if not queue:
                    break
                if node.draining or node.gone or node.ready > now or not node.pool.admits(resources):
                    continue
                fits = min(node.free.fits(need), len(queue)) if has_devices(node.kind, resources) else 0
                if fits:
                    node.free = node.free.minus(need, fits)
                for _ in range(int(fits)):
                    index = queue.popleft()
                    node.running[index] = now + self._means[name]
                    self._push(now + self._steps[index].seconds, "end", index, node)
            if not queue:
                self._queues.pop((resources, name))

    def _lose(self, node: _Node, now: float) -> None:
        self._lost += len(node.running)
        again = list(node.running)
        node.running.clear()
        self._remove(node, now)
        for index in again:
            self._enqueue(index)

    def _remove(self, node: _Node, now: float) -> None:
        node.gone = True
        del self._nodes[node.id]
        key = (node.pool.name, node.kind.name)
        self._hours[key] = self._hours.get(key, 0.0) + (now - node.made) / _HOUR
        self._removed[node.kind.name] = now

    def _look(self, now: float) -> bool:
        """Call the scaler and carry out its actions; return False if nothing can change after that."""
        demand = [Demand(key[0], len(queue), self._means[key[1]]) for key, queue in self._queues.items()]
        machines = [self._machine(node, now) for node in self._nodes.values()]
        actions, self._memory = self._rule(self._settings, machines, demand, self._memory, now)
        for action in actions:
            self._act(action, now)
        for pool in self._settings.pools:
            size = sum(node.pool is pool for node in self._nodes.values())
            self._most[pool.name] = max(self._most.get(pool.name, 0), size)
        self._fill(list(self._nodes.values()), now)
        self._push(now + self._interval, "look", 0, None)
        return bool(self._queues or self._nodes or actions or len(self._events) > 1)

    def _machine(self, node: _Node, now: float) -> Machine:
        sums: dict[float, Amounts] = {}
        step = max(self._settings.target_time, 1.0) / 32
        for index, end in node.running.items():
            left = math.ceil(max(end - now, 1.0) / step) * step
            sums[left] = sums.get(left, Amounts()).minus(self._needs[index], -1)
        loads = tuple(Load(need, left) for left, need in sums.items())
        return Machine(node.id, node.pool.name, node.kind.name, loads, node.draining)

    def _act(self, action: Action, now: float) -> None:
        if isinstance(action, Create):
            self._create(action, now)
        elif isinstance(action, (Drain, Undrain)):
            self._nodes[action.machine].draining = isinstance(action, Drain)
        elif isinstance(action, Terminate):
            self._remove(self._nodes[action.machine], now)

    def _create(self, action: Create, now: float) -> None:
        pool = next(pool for pool in self._settings.pools if pool.name == action.pool)
        kind = pool.by_name[action.type]
        got = self._market.available(pool, kind, action.count, now)
        self._memory = note_created(self._settings, self._memory, action, got, now)
        if now - self._removed.get(kind.name, -math.inf) < _HOUR / 2:
            self._flips += got
        room = usable(kind, overhead=self._settings.overhead)
        for _ in range(got):
            node = _Node(f"m{next(self._names)}", pool, kind, room, now, now + self._boot)
            self._nodes[node.id] = node
            self._push(node.ready, "ready", 0, node)
            lifetime = self._market.lifetime(pool)
            if math.isfinite(lifetime):
                self._push(now + lifetime, "lost", 0, node)

    def _plan(self, seconds: float) -> Plan:
        uses = tuple(self._use(pool) for pool in self._settings.pools)
        unplaced = dict.fromkeys(
            f"{step.name}: requests {self._unplaced[step.resources]}"
            for step in self._steps
            if step.resources in self._unplaced
        )
        ran = sum(step.resources not in self._unplaced for step in self._steps)
        return Plan(ran, seconds, uses, tuple(unplaced), self._flips, self._lost)

    def _use(self, pool: Pool) -> PoolUse:
        hours = {kind.name: self._hours.get((pool.name, kind.name), 0.0) for kind in pool.types}
        known = all(kind.price is not None or not hours[kind.name] for kind in pool.types)
        cost = sum(hours[kind.name] * (kind.price or 0.0) for kind in pool.types) if known else None
        return PoolUse(pool.name, self._most.get(pool.name, 0), sum(hours.values()), cost)


def _mean_times(steps: Iterable[Step]) -> dict[str, float]:
    """Return the mean time of the tasks of each name, in seconds."""
    sums: dict[str, tuple[float, int]] = {}
    for step in steps:
        total, number = sums.get(step.name, (0.0, 0))
        sums[step.name] = (total + step.seconds, number + 1)
    return {name: total / number for name, (total, number) in sums.items()}
