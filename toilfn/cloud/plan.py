"""The machines, the time and the cost of a run on a cluster, estimated from a finished run or a script's graph."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from toilfn.api import SOMETHING_TO_RUN
from toilfn.cloud.description import Description
from toilfn.cloud.machines import MachineType, Pool
from toilfn.cloud.scaler import Settings
from toilfn.cloud.simulation import Plan, Step, simulate
from toilfn.errors import InputError
from toilfn.inspect.attempts import attempts_of
from toilfn.inspect.view import View
from toilfn.resources import Accelerator, Resources
from toilfn.stores import Store

__all__ = ["make_plan", "pools_of", "steps_of", "steps_of_script"]


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
    given, known = description.machines.get(kind), machines.get(kind)
    if given is None and kind not in machines:
        raise InputError(
            f"pool {pool}: the size of {kind} is not known; add it to the description's machines, such as "
            f"{kind}: {{cores: 16, memory: 32Gi, price: 0.68}}"
        )
    on_demand = given.price if given is not None and given.price is not None else known.price if known else None
    spot = given.spot_price if given is not None and given.spot_price is not None else chosen.max_price
    price = spot if chosen.spot and spot is not None else on_demand
    if given is None:
        assert known is not None
        return replace(known, disk=chosen.disk_of(kind), price=price)
    return MachineType(kind, given.cores, given.memory, chosen.disk_of(kind), price)


def steps_of(store: Store) -> list[Step]:
    """Return the tasks of a store that succeeded, with what they requested and took."""
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


def steps_of_script(
    script: str, arguments: Sequence[str], task_time: float, store: str | None = None
) -> tuple[list[Step], list[str]]:
    """Return the tasks that a script would run now, by a dry run of it, and what cannot be known before it runs.

    Parameters
    ----------
    script : str
        A file that `toilfn run` runs.
    arguments : sequence of str
        The script's own arguments.
    task_time : float
        Seconds that a task takes of whose name the store has no finished one.
    store : str, optional
        The job store; by default the script's own.

    Raises
    ------
    InputError
        If the script fails before its first `compute`.
    """
    command = [sys.executable, "-m", "toilfn", "run", script, "--dry-run", "--json"]
    command += [*(["--store", store] if store else []), "--", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, SOMETHING_TO_RUN):
        raise InputError(f"{script}: its dry run failed with exit status {done.returncode}")
    plan = json.loads(done.stdout)
    positions = {task["id"]: index for index, task in enumerate(plan["tasks"])}
    steps = [
        Step(
            task["name"],
            _resources(task["resources"]),
            task_time if task["seconds"] is None else task["seconds"],
            tuple(positions[need] for need in task["needs"]),
        )
        for task in plan["tasks"]
    ]
    return steps, list(plan["unknown"])


def _resources(asked: Mapping[str, Any] | None) -> Resources:
    if asked is None:  # they depend on values of other tasks; a task needs some at least
        return Resources()
    devices = tuple(Accelerator(**device) for device in asked["accelerators"])
    return Resources(**{**asked, "accelerators": devices})


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
