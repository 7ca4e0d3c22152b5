"""Compare rules for scaling a cluster, in a simulated cloud: toilfn's scaler, Toil's rule and a naive rule.

Run with ``python benchmarks/scaler.py [TASKS]``. The workload has a wide first stage, a narrow one after it, and a
long tail. Machines take two minutes to boot, the cloud reclaims spot machines, and at times a type is sold out.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from toilfn.cloud.machines import MachineType, Pool
from toilfn.cloud.scaler import (
    Action,
    Create,
    Demand,
    Drain,
    Machine,
    Memory,
    Settings,
    Terminate,
    Undrain,
    decide,
    round_half_up,
)  # fmt: skip
from toilfn.cloud.simulation import Step, simulate
from toilfn.resources import Resources

GIB = 2**30
BIG = MachineType("c6i.16xlarge", 64, 128 * GIB, 500 * GIB, 2.72)
WIDE = MachineType("m6i.16xlarge", 64, 256 * GIB, 500 * GIB, 3.07)


class Market:
    """A market that reclaims spot machines after three hours on average, and at times has only half of the machines."""

    def __init__(self) -> None:
        self._random = random.Random(1)

    def available(self, pool: Pool, kind: MachineType, count: int, now: float) -> int:
        return count // 2 if pool.spot and int(now) // 900 % 4 == 1 else count

    def lifetime(self, pool: Pool) -> float:
        return self._random.expovariate(1 / 10800) if pool.spot else math.inf


def workload(tasks: int) -> list[Step]:
    draw = random.Random(2)
    align = Resources(4, 8 * GIB, 10 * GIB, preemptible=True)
    small = Resources(1, 2 * GIB, GIB, preemptible=True)
    large = Resources(16, 64 * GIB, 50 * GIB)
    steps = [Step("align", align, draw.lognormvariate(6.5, 0.5)) for _ in range(tasks // 4)]
    width = len(steps)
    steps += [Step("call", small, draw.lognormvariate(5.5, 0.7), (i % width,)) for i in range(tasks * 7 // 10)]
    steps += [Step("merge", large, draw.lognormvariate(7.5, 0.3), (width + 10 * i,)) for i in range(tasks // 20)]
    return steps


def toil_rule(
    settings: Settings, machines: Sequence[Machine], demand: Iterable[Demand], memory: Memory, now: float
) -> tuple[list[Action], Memory]:
    """Decide by Toil's rule: pack queued and running tasks into empty machines, smooth the number, set the size."""
    running = [Demand(Resources(*map(int, load.need.values()[:3]), preemptible=True), 1, load.seconds)
               for machine in machines for load in machine.loads]  # fmt: skip
    fresh, _ = decide(replace(settings, inertia=0.0), [], [*demand, *running], Memory(), now)
    actions: list[Action] = []
    averages = {}
    for pool in settings.pools:
        wanted = sum(a.count for a in fresh if isinstance(a, Create) and a.pool == pool.name)
        average = 0.9 * wanted + 0.1 * memory.averages.get(pool.name, wanted)
        averages[pool.name] = average
        target = min(pool.max, max(round_half_up(average), 1 if wanted else 0))
        actions += resize(pool, [m for m in machines if m.pool == pool.name], target)
    return actions, Memory(averages)


def naive(
    settings: Settings, machines: Sequence[Machine], demand: Iterable[Demand], memory: Memory, now: float
) -> tuple[list[Action], Memory]:
    """Decide by a naive rule: enough machines for all cores that are queued or in use, at once."""
    actions: list[Action] = []
    queued = list(demand)
    for pool in settings.pools:
        mine = [m for m in machines if m.pool == pool.name]
        own = [group for group in queued if group.resources.preemptible == pool.spot]
        cores = sum(group.resources.cores * group.count for group in own)
        cores += sum(load.need.cores for machine in mine for load in machine.loads)
        actions += resize(pool, mine, min(pool.max, math.ceil(cores / pool.types[0].cores)))
    return actions, memory


def resize(pool: Pool, machines: Sequence[Machine], target: int) -> list[Action]:
    """Return the actions that bring a pool to a target size.

    Of a pool that is too large, the emptiest machines drain, and idle ones are terminated. In one that is too small,
    draining machines are used again before new ones are created.
    """
    active = sorted((m for m in machines if not m.draining), key=lambda m: len(m.loads))
    draining = [m for m in machines if m.draining]
    actions: list[Action] = [Drain(m.id, "above the target") for m in active[: max(0, len(active) - target)]]
    back = draining[: max(0, target - len(active))]
    actions += [Undrain(m.id, "below the target") for m in back]
    actions += [Terminate(m.id, "idle") for m in draining if m not in back and not m.loads]
    missing = min(target - len(active) - len(back), pool.max - len(machines))
    if missing > 0:
        actions.append(Create(pool.name, pool.types[0].name, missing, "below the target"))
    return actions


def main(tasks: int) -> None:
    steps = workload(tasks)
    pools = (Pool("spot", (BIG, WIDE), spot=True, max=400), Pool("demand", (WIDE, BIG), max=100))
    settings = Settings(pools, target_time=1800, compensation=0.5)
    work = sum(step.seconds * step.resources.cores for step in steps) / 3600
    print(f"{len(steps)} tasks, {work:.0f} core hours; at most {500 * 64} cores")
    heads = ("makespan", "node hours", "core use", "flips", "rerun", "price", "deciding")
    print(f"{'rule':8}" + "".join(f"{head:>11}" for head in heads))
    rules: dict[str, Callable[..., tuple[list[Action], Memory]]] = {"toilfn": decide, "Toil": toil_rule, "naive": naive}
    for name, rule in rules.items():
        spent, rounds = 0.0, 0

        def timed(
            *arguments: object, rule: Callable[..., tuple[list[Action], Memory]] = rule
        ) -> tuple[list[Action], Memory]:
            nonlocal spent, rounds
            begin = time.perf_counter()
            answer = rule(*arguments)
            spent, rounds = spent + time.perf_counter() - begin, rounds + 1
            return answer

        plan = simulate(settings, steps, rule=timed, market=Market())
        hours = sum(use.hours for use in plan.pools)
        cells = (f"{plan.seconds / 60:.0f} min", f"{hours:.0f}", f"{work / hours / 64:.0%}", str(plan.flips),
                 str(plan.lost), f"{plan.cost or 0:.0f}", f"{1000 * spent / rounds:.0f} ms")  # fmt: skip
        print(f"{name:8}" + "".join(f"{cell:>11}" for cell in cells))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
