"""The machines, the time and the cost of a run on a cluster, estimated from a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from toilfn.cloud.description import Description
from toilfn.cloud.machines import MachineType, Pool
from toilfn.cloud.scaler import Settings
from toilfn.cloud.simulation import Plan, Step, simulate
from toilfn.errors import InputError
from toilfn.inspect.report.attempts import attempts_of
from toilfn.inspect.view import View
from toilfn.resources import Resources
from toilfn.stores import Store

__all__ = ["make_plan", "pools_of", "steps_of"]


def pools_of(description: Description, machines: Mapping[str, MachineType] | None = None) -> tuple[Pool, ...]:
    """Return the pools of a description with the sizes of their types.

    Parameters
    ----------
    description : Description
        Whose ``machines`` say what types have, unless the cloud was asked.
    machines : mapping, optional
        Type to its size, as the cloud says.

    Raises
    ------
    InputError
        If the size of a type is not known.
    """
    return tuple(
        Pool(pool.name, tuple(_sized(description, pool.name, kind, machines or {}) for kind in pool.types),
             pool.spot, pool.min, pool.max)
        for pool in description.pools
    )  # fmt: skip


def _sized(description: Description, pool: str, kind: str, machines: Mapping[str, MachineType]) -> MachineType:
    chosen = description.pool(pool)
    given = description.machines.get(kind)
    if given is None and kind not in machines:
        raise InputError(
            f"pool {pool}: the size of {kind} is not known; add it to the description's machines, such as "
            f"{kind}: {{cores: 16, memory: 32Gi, price: 0.68}}"
        )
    if given is None:
        return replace(machines[kind], disk=chosen.disk_of(kind))
    price = given.spot_price if chosen.spot and given.spot_price is not None else given.price
    price = price if price is not None else chosen.max_price
    return MachineType(kind, given.cores, given.memory, chosen.disk_of(kind), price)


def steps_of(store: Store) -> list[Step]:
    """Return the tasks of a store that succeeded, with what they asked for and took."""
    view = View(store)
    done = [a for a in attempts_of(store, view) if a.result == "done"]
    positions = {bytes.fromhex(attempt.task): index for index, attempt in enumerate(done)}
    steps = []
    for attempt in done:
        task = view.tasks[bytes.fromhex(attempt.task)]
        before = {*task.needs, *task.after, *([task.parent] if task.parent else [])}
        needs = tuple(sorted(positions[id] for id in before if id in positions))
        resources = Resources(attempt.cores_asked, attempt.memory_asked, attempt.disk_asked)
        steps.append(Step(attempt.name, resources, attempt.wall, needs))
    return steps


def make_plan(
    description: Description, steps: Sequence[Step], machines: Mapping[str, MachineType] | None = None
) -> Plan:
    """Plan a run that repeats a finished one on the machines of a description.

    Parameters
    ----------
    description : Description
        The cluster.
    steps : sequence of Step
        The tasks of the finished run.
    machines : mapping, optional
        Types and their sizes, where the cloud was asked.
    """
    scaling = description.scaling
    settings = Settings(
        pools_of(description, machines), scaling.target_time, 0.0, scaling.compensation, scaling.overhead,
        scaling.idle_time, scaling.cooldown,
    )  # fmt: skip
    return simulate(settings, steps)
