"""Start nodes of a Slurm cluster shortly before the tasks of a run need them.

Slurm starts a node only when a job waits for it, and the job then waits until the node has booted. The store of a run
shows which tasks will be ready soon. The scaler decides how many nodes they need, and the missing nodes are started
here. Slurm ends idle nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toilfn.cloud.demand import RunDemand
from toilfn.cloud.machines import MachineType, Pool
from toilfn.cloud.packing import Amounts
from toilfn.cloud.power import scontrol
from toilfn.cloud.scaler import Create, Demand, Load, Machine, Memory, Settings, decide
from toilfn.clusters.slurm import SPOT_FEATURES
from toilfn.errors import InputError

__all__ = ["Node", "parse_nodes", "start_ahead", "to_start"]

_MIB = 2**20
_ANY_DISK = 2**60
"""The disk space of a node: practically unlimited, since Slurm does not place jobs by it."""
_USABLE = {"IDLE", "MIXED", "ALLOCATED", "CLOUD", "POWERED_DOWN", "POWERING_UP", "COMPLETING", "PLANNED", "POWER_UP"}
"""The words that the state of a usable node may contain: the node is up, or can be started."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that Slurm starts and ends.

    Attributes
    ----------
    name : str
    cores, memory : int
        Its cores, and its memory in bytes.
    used_cores, used_memory : int
        The cores and the memory that jobs use now.
    is_up : bool
        Whether the node is running or booting.
    is_spot : bool
        Whether it is a spot machine.
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
        """A name that all nodes of the same size and kind share."""
        return f"{self.cores}-{self.memory // _MIB}{'-spot' * self.is_spot}"


def parse_nodes(text: str, partition: str | None = None) -> Iterator[Node]:
    """Yield the usable nodes of a cloud from the output of ``scontrol show node --oneliner``.

    Parameters
    ----------
    text : str
        The output.
    partition : str, optional
        Yield only nodes of this partition.
    """
    for line in text.splitlines():
        found = re.findall(r"(?:^|\s)(\w+)=(\S*)", line)
        fields = dict(reversed(found))  # the first value of a field counts: the reason at the end can be any text
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


def to_start(nodes: Sequence[Node], demand: Sequence[Demand], horizon: float, target_time: float) -> dict[str, str]:
    """Return the nodes to start, each with the reason.

    Parameters
    ----------
    nodes : sequence of Node
        All usable nodes.
    demand : sequence of Demand
        The tasks that will be ready.
    horizon : float
        Seconds after which running jobs are assumed to have ended, since the demand consists of tasks that will be
        ready by then.
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
    run: RunDemand, horizon: float, target_time: float, now: float, partition: str | None = None
) -> dict[str, str] | None:
    """Start the nodes that the tasks of a run will need soon.

    Returns
    -------
    dict or None
        The started nodes, each with the reason; None if the run has ended.

    Raises
    ------
    InputError
        If no run has begun in the store.
    UnavailableError
        If Slurm's controller does not answer; it may answer later.
    ClusterError
        If this user may not start nodes, or Slurm's commands are not installed.
    """
    run.update()
    if not run.has_begun:
        raise InputError("no run has begun in this store", hint="start the run first")
    if run.has_ended:
        return None
    demand = run.soon(now)
    nodes = list(parse_nodes(scontrol("show", "node", "--oneliner"), partition)) if demand else []
    chosen = to_start(nodes, demand, horizon, target_time)
    if chosen:
        scontrol("update", f"nodename={','.join(chosen)}", "state=power_up")
    return chosen
