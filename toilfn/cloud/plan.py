"""The machines, the time and the cost of a run on a cluster, estimated from a finished run or a script's graph."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from toilfn.api import SOMETHING_TO_RUN
from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.machines import MachineType, Pool, choose_types
from toilfn.cloud.prices import is_general
from toilfn.cloud.scaler import Settings
from toilfn.cloud.simulation import Plan, Step, simulate
from toilfn.errors import InputError
from toilfn.inspect.attempts import attempts_of
from toilfn.inspect.view import View
from toilfn.resources import Accelerator, Resources
from toilfn.stores import Store

__all__ = ["make_plan", "pools_of", "price_notes", "steps_of", "steps_of_script"]


def pools_of(
    description: Description,
    machines: Mapping[str, MachineType] | None = None,
    spot_prices: Mapping[str, float] | None = None,
) -> tuple[Pool, ...]:
    """Return the pools of a description with the sizes and prices of their types.

    A pool that names sizes gets the cheapest types that are known. Types of spot machines that now cost more than the
    pool's limit are left out, unless all of them do.

    Parameters
    ----------
    description : Description
        Whose ``machines`` say what types have, unless the cloud was asked.
    machines : mapping, optional
        Type to its size and price on demand, as the cloud says.
    spot_prices : mapping, optional
        Type to what a spot machine costs now.

    Raises
    ------
    InputError
        If the size of a type is not known, or no known type has the sizes of a pool.
    """
    known = _Known(description, machines or {}, spot_prices or {})
    return tuple(
        Pool(pool.name, known.types_of(pool), pool.spot, pool.min, pool.max) for pool in description.pools
    )  # fmt: skip


class _Known:
    """The known types. The sizes and prices in the description take precedence over those of the cloud."""

    def __init__(
        self, description: Description, machines: Mapping[str, MachineType], spot_prices: Mapping[str, float]
    ) -> None:
        self._given = description.machines
        self._offered = machines
        self._spot_prices = spot_prices

    def types_of(self, pool: PoolDescription) -> tuple[MachineType, ...]:
        names = pool.types or choose_types(pool, [self._sized(pool, name) for name in self._suited()])
        kinds = [self._sized(pool, name) for name in names]
        affordable = [kind for kind in kinds if pool.max_price is None or (kind.price or 0) <= pool.max_price]
        return tuple(affordable or kinds)

    def _suited(self) -> list[str]:
        """Return the types that a pool may get which names sizes only."""
        return [*self._given, *(name for name in self._offered if name not in self._given and is_general(name))]

    def _sized(self, pool: PoolDescription, kind: str) -> MachineType:
        given, offered = self._given.get(kind), self._offered.get(kind)
        price = self._spot_price(pool, kind) if pool.spot else None
        if price is None:
            price = given.price if given is not None and given.price is not None else offered.price if offered else None
        if given is not None:
            return MachineType(kind, given.cores, given.memory, pool.disk_of(kind), price)
        if offered is not None:
            return replace(offered, disk=pool.disk_of(kind), price=price)
        raise InputError(
            f"pool {pool.name}: the size of {kind} is not known; add it to the description's machines, such as "
            f"{kind}: {{cores: 16, memory: 32Gi, price: 0.68}}"
        )

    def _spot_price(self, pool: PoolDescription, kind: str) -> float | None:
        given = self._given.get(kind)
        if given is not None and given.spot_price is not None:
            return given.spot_price
        return self._spot_prices.get(kind, pool.max_price)


def price_notes(description: Description, prices: Mapping[str, float]) -> list[str]:
    """Return a sentence for each pool whose limit is below the current prices of some or all of its types."""
    notes = []
    for pool in description.pools:
        if pool.max_price is None or not (costs := {k: prices[k] for k in pool.types if k in prices}):
            continue
        above = [f"{kind} ({cost:.4g})" for kind, cost in costs.items() if cost > pool.max_price]
        if len(above) == len(pool.types):
            notes.append(f"pool {pool.name}: every type costs more than max_price {pool.max_price:g} now, so it has "
                         f"no spot machines until prices fall: {', '.join(above)}")  # fmt: skip
        elif above:
            notes.append(f"pool {pool.name}: not available now at max_price {pool.max_price:g}: {', '.join(above)}")
    return notes


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
    description: Description,
    steps: Sequence[Step],
    machines: Mapping[str, MachineType] | None = None,
    spot_prices: Mapping[str, float] | None = None,
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
    spot_prices : mapping, optional
        Type to what a spot machine costs now.
    """
    scaling = description.scaling
    settings = Settings(
        pools_of(description, machines, spot_prices), scaling.target_time, 0.0, scaling.compensation,
        scaling.overhead, scaling.idle_time, scaling.cooldown,
    )  # fmt: skip
    return simulate(settings, steps)
