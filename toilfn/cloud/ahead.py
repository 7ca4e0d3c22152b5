"""Start nodes of a Slurm cluster shortly before the tasks of a run need them, so that the run does not wait for them.

Slurm starts a node when a job waits for it, and the job then waits until the node has booted. The store of a run says
more than the queue: which tasks follow those that run now, and how long tasks of each name have taken so far. The
scaler decides how many nodes these tasks need; only the nodes that are missing are started. Slurm ends idle nodes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from toilfn.cloud.machines import MachineType, Pool
from toilfn.cloud.packing import Amounts
from toilfn.cloud.power import scontrol
from toilfn.cloud.scaler import Create, Demand, Load, Machine, Memory, Settings, decide
from toilfn.clusters.slurm import SPOT_FEATURES
from toilfn.inspect.attempts import requests_of
from toilfn.inspect.view import State, TaskInfo, View
from toilfn.stores import Store

__all__ = ["Node", "parse_nodes", "start_ahead", "to_start", "upcoming"]

_MIB = 2**20
_ANY_DISK = 2**60
"""Slurm does not place jobs by their disk."""
_USABLE = {"IDLE", "MIXED", "ALLOCATED", "CLOUD", "POWERED_DOWN", "POWERING_UP", "COMPLETING", "PLANNED", "POWER_UP"}
"""The words in the state of a node that is used, can be used, or can be started."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that Slurm starts and ends.

    Attributes
    ----------
    name : str
    cores, memory : int
        The node's, memory in bytes.
    used_cores, used_memory : int
        The part that jobs have now.
    is_up : bool
        Whether it exists or boots.
    is_spot : bool
        Whether the cloud may take it away.
    """

    name: str
    cores: int
    memory: int
    used_cores: int
    used_memory: int
    is_up: bool
    is_spot: bool

    @property
    def pool(self) -> str:
        """A name for all nodes of the same size and kind."""
        return f"{self.cores}-{self.memory // _MIB}{'-spot' * self.is_spot}"


def parse_nodes(text: str, partition: str | None = None) -> Iterator[Node]:
    """Yield the nodes of a cloud from the output of ``scontrol show node --oneliner`` that are usable.

    Parameters
    ----------
    text : str
        The output.
    partition : str, optional
        Only nodes of this partition.
    """
    for line in text.splitlines():
        found = re.findall(r"(?:^|\s)(\w+)=(\S*)", line)
        fields = dict(reversed(found))  # of two the first counts: the reason at the end is any text
        states = set(re.split(r"[+]", fields.get("State", "").replace("*", "+NOT_RESPONDING")))
        if "CLOUD" not in states or states - _USABLE:
            continue
        if partition is not None and partition not in fields.get("Partitions", "").split(","):
            continue
        yield Node(
            fields["NodeName"], int(fields["CPUTot"]), int(fields["RealMemory"]) * _MIB, int(fields["CPUAlloc"]),
            int(fields["AllocMem"]) * _MIB, "POWERED_DOWN" not in states,
            bool(SPOT_FEATURES & set(fields.get("AvailableFeatures", "").split(","))),
        )  # fmt: skip


def upcoming(store: Store, view: View, horizon: float, now: float) -> list[Demand]:
    """Return the tasks that will probably be ready within some seconds, and have no job yet.

    Parameters
    ----------
    store : Store
    view : View
        Of that store.
    horizon : float
        Seconds from now.
    now : float
        The time, in seconds since the epoch.
    """
    times = _mean_times(view.tasks.values())
    requested = requests_of(store, view)
    counts = Counter(
        (requested(task.id), times.get(task.name, horizon))
        for task in view.current()
        if task.state is State.WAITING and _is_soon(task, view.tasks, times, now + horizon)
    )
    return [Demand(resources, count, seconds) for (resources, seconds), count in counts.items()]


def _mean_times(tasks: Iterable[TaskInfo]) -> dict[str, float]:
    """Return the mean time of the tasks of each name that are done."""
    sums: dict[str, list[float]] = {}
    for task in tasks:
        if task.state is State.DONE:
            sums.setdefault(task.name, []).append(task.wall)
    return {name: sum(walls) / len(walls) for name, walls in sums.items()}


def _is_soon(task: TaskInfo, tasks: Mapping[bytes, TaskInfo], times: Mapping[str, float], end: float) -> bool:
    """Return whether all that a task waits for is done, or runs and has taken as long as such tasks do by then."""
    for need in (*task.needs, *task.after):
        before = tasks.get(need)
        if before is None or before.state is State.DONE:
            continue
        if before.state is not State.RUNNING or before.since + times.get(before.name, float("inf")) > end:
            return False
    return True


def to_start(nodes: Sequence[Node], demand: Sequence[Demand], horizon: float, target_time: float) -> dict[str, str]:
    """Return the nodes to start, each with the reason.

    Parameters
    ----------
    nodes : sequence of Node
        All that are usable.
    demand : sequence of Demand
        The tasks that will be ready.
    horizon : float
        Seconds after which what runs now counts as ended: the tasks that are waited for have ended by then.
    target_time : float
        Seconds within which the tasks should be done.
    """
    pools: dict[str, list[Node]] = {}
    for node in sorted(nodes, key=lambda node: node.name):
        pools.setdefault(node.pool, []).append(node)
    settings = Settings(tuple(map(_pool, pools.values())), target_time, inertia=0.0, overhead=False)
    machines = [_machine(node, horizon) for node in nodes if node.is_up]
    actions, _ = decide(settings, machines, demand, Memory(), 0.0)
    found: dict[str, str] = {}
    for action in actions:
        if isinstance(action, Create):
            down = [node.name for node in pools[action.pool] if not node.is_up]
            found |= dict.fromkeys(down[: action.count], action.reason)
    return found


def _pool(nodes: Sequence[Node]) -> Pool:
    first = nodes[0]
    kind = MachineType(first.pool, first.cores, first.memory, _ANY_DISK)
    return Pool(first.pool, (kind,), first.is_spot, max=len(nodes))


def _machine(node: Node, horizon: float) -> Machine:
    used = Load(Amounts(node.used_cores, node.used_memory), horizon)
    return Machine(node.name, node.pool, node.pool, (used,) if node.used_cores else ())


def start_ahead(
    store: Store, horizon: float, target_time: float, now: float, partition: str | None = None
) -> dict[str, str] | None:
    """Start the nodes that the tasks of a run will need soon; return them with the reasons, or None after the run.

    Raises
    ------
    ClusterError
        If Slurm does not answer, or does not let this user start nodes.
    """
    view = View(store)
    if all(task.state in (State.DONE, State.FAILED) for task in view.current()):
        return None
    demand = upcoming(store, view, horizon, now)
    nodes = list(parse_nodes(scontrol("show", "node", "--oneliner"), partition)) if demand else []
    chosen = to_start(nodes, demand, horizon, target_time)
    if chosen:
        scontrol("update", f"nodename={','.join(chosen)}", "state=power_up")
    return chosen
