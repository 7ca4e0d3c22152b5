"""Estimate the machines, the time and the cost of a run on a cluster, from a finished run or the graph of a script."""

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

    A pool with sizes only gets the cheapest known types. Types of spot machines whose current price exceeds the pool's
    limit are left out, unless this is true for all types.

    Parameters
    ----------
    description : Description
        A cluster. Its ``machines`` have sizes and prices, which override those of the cloud.
    machines : mapping, optional
        Sizes and on-demand prices of machine types from the cloud, by their names.
    spot_prices : mapping, optional
        Current prices of spot machines, by machine types.

    Raises
    ------
    InputError
        If the size of a type is unknown, or no known type has the sizes of a pool.
    """
    known = _Known(description, machines or {}, spot_prices or {})
    return tuple(
        Pool(pool.name, known.types_of(pool), pool.spot, pool.min, pool.max) for pool in description.pools
    )  # fmt: skip


class _Known:
    """The known machine types. Sizes and prices in the description take precedence over those from the cloud."""

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
        """Return the types from which those of a pool with sizes only are chosen."""
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
            f"pool {pool.name}: the size of {kind} is unknown",
            hint=f"add it to the description's machines, such as {kind}: {{cores: 16, memory: 32Gi, price: 0.68}}",
        )

    def _spot_price(self, pool: PoolDescription, kind: str) -> float | None:
        given = self._given.get(kind)
        if given is not None and given.spot_price is not None:
            return given.spot_price
        return self._spot_prices.get(kind, pool.max_price)


def price_notes(description: Description, prices: Mapping[str, float]) -> list[str]:
    """Return a note for each pool whose price limit is below the current prices of some or all of its types."""
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
    """Return the successful tasks of a store, with the resources that they requested and the time that they took."""
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
    """Return the tasks that a script would run now, from a dry run, and notes on what is unknown before the run.

    Parameters
    ----------
    script : str
        A script for `toilfn run`.
    arguments : sequence of str
        The script's own arguments.
    task_time : float
        Seconds to assume for a task if the store has no finished task of its name.
    store : str, optional
        The job store. Default: that of the script.

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
    if asked is None:  # the requirements depend on values of other tasks, so assume the defaults
        return Resources()
    devices = tuple(Accelerator(**device) for device in asked["accelerators"])
    return Resources(**{**asked, "accelerators": devices})


def make_plan(
    description: Description,
    steps: Sequence[Step],
    machines: Mapping[str, MachineType] | None = None,
    spot_prices: Mapping[str, float] | None = None,
) -> Plan:
    """Simulate the tasks of a run on the machines of a description.

    Parameters
    ----------
    description : Description
        The cluster.
    steps : sequence of Step
        The tasks of the run.
    machines : mapping, optional
        Sizes and on-demand prices of machine types from the cloud, by their names.
    spot_prices : mapping, optional
        Current prices of spot machines, by machine types.
    """
    scaling = description.scaling
    settings = Settings(
        pools_of(description, machines, spot_prices), scaling.target_time, 0.0, scaling.compensation,
        scaling.overhead, scaling.idle_time, scaling.cooldown,
    )  # fmt: skip
    return simulate(settings, steps)
