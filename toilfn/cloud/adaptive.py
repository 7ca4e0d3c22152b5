"""Adapt the number of a dask cluster's workers to the demand of a run.

Dask's own rule counts the tasks that its scheduler has. It assumes that each takes half a second until one of them has
ended, and ignores the resources that they request. The log of a run contains more: which tasks will be ready soon, what
they request, and how long they take. With these, the scaler decides how many workers are needed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from distributed.deploy.adaptive import Adaptive

from toilfn.cloud.demand import RunDemand, Task, grouped
from toilfn.cloud.description import Scaling, Sizes
from toilfn.cloud.machines import MachineType, Pool, usable
from toilfn.cloud.packing import Amounts, amounts_of
from toilfn.cloud.scaler import Create, Drain, Load, Machine, Memory, Settings, decide
from toilfn.errors import ClusterError, InputError, ToilfnError
from toilfn.resources import Accelerator, Resources
from toilfn.stores import open_store
from toilfn.units import parse_duration

__all__ = ["Sizing", "WorkerSize", "follow"]

_log = logging.getLogger(__name__)

_AHEAD = 300.0
"""Seconds before tasks are ready at which their workers are started: about the time that a machine takes to boot."""
_INTERVAL = "5s"
"""The time between two decisions."""
_ANY = 2**60
"""The amount of a resource that workers do not advertise: practically unlimited, since dask does not limit it."""
_TARGET = 1800.0
"""Default time in seconds within which tasks should be done; the same as for clusters in clouds."""
_POOL = "workers"
_PLACED = ("cores", "memory", "disk")
"""The resources that tasks can request, except accelerators."""


@dataclass(frozen=True)
class WorkerSize:
    """The size of a worker: the resources by which dask places tasks.

    Attributes
    ----------
    threads : int
        Maximum number of tasks that run at the same time.
    resources : mapping of str to float
        The resources that the worker advertises, by toilfn's names: ``"cores"``, ``"memory"``, ``"disk"`` and kinds of
        accelerators.
    """

    threads: int
    resources: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, worker: Mapping[str, Any], names: Mapping[str, str]) -> WorkerSize:
        """Return the size of a worker from the scheduler's description; `names` maps toilfn's names to dask's."""
        own = {theirs: ours for ours, theirs in names.items()}
        offered = ((own.get(name, name), float(amount)) for name, amount in worker["resources"].items())
        return cls(worker["nthreads"], tuple(sorted(offered)))

    @property
    def machine(self) -> MachineType:
        """The worker as a machine type for the scaler."""
        offered = dict(self.resources)
        devices = tuple(Accelerator(int(n), kind) for kind, n in offered.items() if kind not in _PLACED and n >= 1)
        cores, memory, disk = (offered.get(name, _ANY) for name in _PLACED)
        return MachineType(
            "worker", cores if "cores" in offered else self.threads, int(memory), int(disk), None, devices
        )

    def request(self, resources: Resources) -> Resources:
        """Return the resources that a task takes of such a worker: at least one thread.

        Cores count only if the worker advertises them.
        """
        machine = self.machine
        thread = machine.cores / max(1, self.threads)
        has_cores = "cores" in dict(self.resources)
        return replace(resources, cores=max(resources.cores, thread) if has_cores else 1.0, preemptible=False)


class Sizing:
    """Decides which workers a dask cluster should have.

    Parameters
    ----------
    run : RunDemand
        The tasks of the run.
    limits : tuple of int
        The minimum and maximum number of workers.
    scaling : Scaling
        The settings of the scaler.
    names : mapping of str to str
        The names under which dask workers advertise resources, by toilfn's names.
    size : WorkerSize, optional
        The size of a worker, used until the first worker has started.
    """

    def __init__(
        self, run: RunDemand, limits: tuple[int, int], scaling: Scaling, names: Mapping[str, str],
        size: WorkerSize | None = None,
    ) -> None:  # fmt: skip
        self._run = run
        self._limits = limits
        self._scaling = scaling
        self._names = names
        self._size = size
        self._memory = Memory()

    def decide(
        self, planned: Iterable[Hashable], workers: Mapping[str, Mapping[str, Any]],
        processing: Mapping[str, Sequence[str]], now: float,
    ) -> tuple[int, set[Hashable]]:  # fmt: skip
        """Return the number of workers that are needed, and the names of workers that may end.

        Parameters
        ----------
        planned : iterable of hashable
            Names of the workers that exist or were requested.
        workers : mapping
            The scheduler's descriptions of the workers that exist, by their addresses.
        processing : mapping
            The jobs that the scheduler has assigned to each worker. They may not have started yet.
        now : float
            The time, in seconds since the epoch.
        """
        self._run.update()
        sizes = Counter(WorkerSize.of(worker, self._names) for worker in workers.values())
        if sizes:
            ((self._size, _),) = sizes.most_common(1)
        planned, jobs, soon = set(planned), self._run.jobs(), self._run.soon(now)
        least = 1 if jobs or soon else 0  # the size of workers is only known from the first one
        if self._size is None:
            return max(least, len(planned)), set()
        keys = {worker["name"]: processing.get(address, ()) for address, worker in workers.items()}
        machines, waiting = self._placed(self._size, planned, keys, jobs)
        demand = [replace(group, resources=self._size.request(group.resources)) for group in (*grouped(waiting), *soon)]
        actions, self._memory = decide(self._settings(self._size), machines, demand, self._memory, now)
        more = sum(action.count for action in actions if isinstance(action, Create))
        surplus = {action.machine for action in actions if isinstance(action, Drain)}
        ending = {name for name in planned if str(name) in surplus}
        return max(least, len(planned) + more - len(ending)), ending

    def _settings(self, size: WorkerSize) -> Settings:
        least, most = self._limits
        pool = Pool(_POOL, (size.machine,), min=least, max=most)
        return Settings(
            (pool,), self._scaling.target_time, self._scaling.inertia, overhead=False, linger=self._scaling.idle_time
        )

    def _placed(
        self, size: WorkerSize, planned: set[Hashable], keys: Mapping[Hashable, Sequence[str]],
        jobs: Mapping[str, list[Task]],
    ) -> tuple[list[Machine], list[Task]]:  # fmt: skip
        """Return the workers with the jobs that run on them, and the tasks of all other jobs."""
        given = {key for own in keys.values() for key in own}
        waiting = [task for job, tasks in jobs.items() if job not in given for task in tasks]
        machines = []
        for name in planned:
            free, loads = usable(size.machine, overhead=False), []
            for key in keys.get(name, ()):
                tasks = jobs.get(key, [(Resources(0, 0, 0), _AHEAD)])  # a task of another program takes one thread
                need = _maximum(amounts_of(size.request(resources)) for resources, _ in tasks)
                if free.fits(need) >= 1:
                    free = free.minus(need)
                    loads.append(Load(need, sum(seconds for _, seconds in tasks)))
                elif key in jobs:
                    waiting += tasks
            machines.append(Machine(str(name), _POOL, size.machine.name, tuple(loads), static=bool(keys.get(name))))
        return machines, waiting


def _maximum(needs: Iterable[Amounts]) -> Amounts:
    """Return the maximum of each amount, which is what a job needs, since its tasks run one after the other."""
    return Amounts(*map(max, zip(*(need.values() for need in needs), strict=True)))


class _RunAdaptive(Adaptive):
    """Dask's adaptive deployment, with the decisions of `Sizing`."""

    def __init__(self, sizing: Sizing, cluster: Any, **options: Any) -> None:
        self._sizing = sizing
        self._ending: set[Hashable] = set()
        super().__init__(cluster, **options)

    async def target(self) -> int:
        """Return the number of workers that are needed."""
        workers = dict(self.cluster.scheduler_info["workers"])
        processing = await self.scheduler.processing(workers=None)
        try:
            wanted, self._ending = await asyncio.to_thread(
                self._sizing.decide, set(self.plan), workers, processing, time.time()
            )
        except (ToilfnError, OSError) as error:  # the store may be unreachable for a moment
            _log.warning("the number of dask workers is not changed: %s", error)
            return len(self.plan)
        return wanted

    async def workers_to_close(self, target: int) -> list[Any]:
        """Return the names of the workers that may end."""
        return list(self._ending)


def follow(
    cluster: Any, store: str, options: Mapping[str, Any], names: Mapping[str, str], scaling: Scaling | None = None,
    size: Sizes | None = None,
) -> None:  # fmt: skip
    """Adapt the number of a cluster's workers to a run, until the cluster's ``adapt`` is called again.

    Parameters
    ----------
    cluster : cluster object
        A cluster object whose class is derived from one of dask.distributed.
    store : str
        The URL of the run's store.
    options : mapping
        Arguments of the cluster's ``adapt``.
    names : mapping of str to str
        The names under which dask workers advertise resources, by toilfn's names.
    scaling : Scaling, optional
        The settings of the scaler. Default: workers end as soon as dask's ``wait_count`` allows it.
    size : Sizes, optional
        The size of a worker, if it is known before the first worker has started.

    Raises
    ------
    InputError
        If the limits are not whole numbers, or ``target_duration`` is not longer than 0.
    ClusterError
        If the cluster object does not accept another class for its adaptive deployment.
    """
    options = {"minimum": 0, "maximum": _ANY, "interval": _INTERVAL, **options}
    for name in ("minimum", "maximum"):
        if not isinstance(options[name], int) or options[name] < 0:
            raise InputError(f"adapt: {name} must be a whole number, not {options[name]!r}")
    if scaling is None:
        target = parse_duration(options.get("target_duration", _TARGET))
        if target <= 0:
            raise InputError(
                f"adapt: target_duration must be longer than 0, not {options['target_duration']!r}",
                hint="dask's own rule, which is used after the run, divides by it; pass a short time, such as 1s",
            )
        scaling = Scaling(target, inertia=0.0, idle_time=0.0)
    else:
        options["wait_count"] = 1  # the scaler itself waits before it ends workers
    limits = options["minimum"], options["maximum"]
    known = WorkerSize(int(size.cores), (("cores", size.cores), ("memory", size.memory))) if size else None
    sizing = Sizing(RunDemand(open_store(store, create=False), _AHEAD), limits, scaling, names, known)
    try:
        cluster.adapt(Adaptive=partial(_RunAdaptive, sizing), **options)
    except TypeError as error:
        raise ClusterError(
            f"the number of workers of {type(cluster).__name__} cannot be adapted to the run: {error}",
            hint="leave adapt out, and call the cluster's own adapt or scale",
        ) from error
