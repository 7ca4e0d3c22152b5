"""The number of a dask cluster's workers follows the run, and not what dask's scheduler has already got."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import distributed
import pytest

import toilfn as toil
from tests.servers.dask import dask_running
from tests.servers.machine import wait_for
from toilfn.cloud.adaptive import Sizing, WorkerSize, follow
from toilfn.cloud.demand import Task, grouped
from toilfn.cloud.description import Scaling
from toilfn.cloud.scaler import Demand
from toilfn.errors import ClusterError, InputError
from toilfn.resources import Accelerator, Resources
from toilfn.stores import open_store

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

GIB = 2**30
NAMES = {"cores": "cores", "memory": "memory", "disk": "disk", "gpu": "GPU"}
SIZED = {"cores": 4.0, "memory": 8.0 * GIB}


class Run:
    """The needs of a run, without a store."""

    def __init__(self, soon: Sequence[Task] = (), jobs: dict[str, list[Task]] | None = None) -> None:
        self.waiting, self.given = soon, jobs or {}

    def update(self) -> None:
        pass

    def soon(self, now: float) -> list[Demand]:
        return grouped(self.waiting)

    def jobs(self) -> dict[str, list[Task]]:
        return self.given


def task(cores: float = 2, seconds: float = 600, **more: Any) -> Task:
    return Resources(cores, GIB, GIB, **more), seconds


def worker(name: int | str, threads: int = 4, resources: dict[str, float] | None = None) -> dict[str, Any]:
    return {"name": name, "nthreads": threads, "resources": SIZED if resources is None else resources}


def sizing(run: Run, least: int = 0, most: int = 10, size: WorkerSize | None = None, **scaling: float) -> Sizing:
    given = {"target_time": 0.0, "inertia": 0.0, "idle_time": 0.0, **scaling}
    return Sizing(run, (least, most), Scaling(**given), NAMES, size)  # type: ignore[arg-type]


def decided(
    run: Run, *workers: dict[str, Any], keys: dict[str, list[str]] | None = None, **more: Any
) -> tuple[int, set[Any]]:
    known = {f"tcp://{each['name']}": each for each in workers}
    return sizing(run, **more).decide([each["name"] for each in workers], known, keys or {}, 0.0)


def test_as_many_workers_as_the_tasks_need_are_wanted_and_no_more_than_the_maximum():
    assert decided(Run(), worker(0)) == (0, {0})
    assert decided(Run([task()] * 2), worker(0)) == (1, set())
    assert decided(Run([task()] * 5), worker(0)) == (3, set())
    assert decided(Run([task()] * 500), worker(0)) == (10, set())
    assert decided(Run(), worker(0), least=1) == (1, set())
    assert decided(Run([task()] * 5), worker(0), target_time=1800.0) == (1, set())


def test_jobs_that_wait_in_dasks_scheduler_or_at_a_full_worker_count_as_well():
    jobs = {key: [task()] for key in "abcde"}
    assert decided(Run(jobs=jobs), worker(0)) == (3, set())
    assert decided(Run(jobs=jobs), worker(0), keys={"tcp://0": [*"abcde"]}) == (3, set())
    assert decided(Run(jobs=jobs), worker(0), worker(1), keys={"tcp://0": [*"abcd"]}) == (3, set())


def test_a_worker_with_a_job_never_ends_whoever_has_sent_it():
    run = Run(jobs={"a": [task()]})
    assert decided(run, worker(0), worker(1), keys={"tcp://1": ["a"]}) == (1, {0})
    assert decided(run, worker(0), worker(1), keys={"tcp://0": ["other"], "tcp://1": ["a"]}) == (2, set())
    assert decided(run, worker(0), worker(1), keys={"tcp://0": ["other"], "tcp://1": ["a"]}, most=1) == (2, set())


def test_the_tasks_of_a_job_run_one_after_the_other():
    jobs = {"a": [task(seconds=60)] * 20}
    assert decided(Run([task()], jobs), worker(0), keys={"tcp://0": ["a"]}) == (1, set())


def test_without_advertised_resources_each_task_takes_a_thread():
    threads = worker(0, 2, {})
    assert decided(Run([task(cores=1)] * 4), threads) == (2, set())
    assert decided(Run([task(cores=2)] * 4), threads) == (2, set())
    assert decided(Run([task(cores=0.1)] * 8), worker(0, 4, {"cores": 4})) == (2, set())


def test_accelerators_are_placed_by_the_names_that_workers_advertise():
    wanted = task(cores=1, accelerators=(Accelerator(),))
    assert decided(Run([wanted] * 3), worker(0, 4, {"GPU": 1})) == (3, set())


def test_before_the_first_worker_one_is_wanted_unless_their_size_is_known():
    run = Run([task()] * 6)
    assert decided(run) == (1, set())
    assert decided(Run()) == (0, set())
    size = WorkerSize(4, (("cores", 4.0), ("memory", 8.0 * GIB)))
    assert decided(run, size=size) == (3, set())


def test_a_task_that_no_worker_can_run_still_gets_one_that_shows_it():
    size = WorkerSize(4, (("cores", 4.0), ("memory", 8.0 * GIB)))
    assert decided(Run([task(cores=64)]), size=size) == (1, set())


def test_workers_that_were_not_seen_yet_count_and_idle_ones_stay_for_their_time():
    run = Run([task()] * 4)
    rule = sizing(run, idle_time=60.0)
    assert rule.decide([0, 1], {"a": worker(0)}, {}, 0.0) == (2, set())
    run.waiting = []
    assert rule.decide([0, 1], {"a": worker(0), "b": worker(1)}, {}, 10.0) == (2, set())
    assert rule.decide([0, 1], {"a": worker(0), "b": worker(1)}, {}, 69.0) == (2, set())
    assert rule.decide([0, 1], {"a": worker(0), "b": worker(1)}, {}, 70.0) == (0, {0, 1})


def test_services_have_no_end():
    assert decided(Run([task(seconds=math.inf)] * 4), worker(0), target_time=1800.0) == (2, set())


@pytest.fixture
def dask() -> Iterator[distributed.LocalCluster]:
    """A cluster object with one worker for one task at a time."""
    with dask_running(n_workers=1, threads_per_worker=1, processes=False) as cluster:
        yield cluster


@toil.task(cores=1, memory="200M", disk="10M")
def first_half(flag):
    Path(flag).touch()
    while not Path(f"{flag}.go").exists():
        time.sleep(0.05)
    return 1


@toil.task(cores=1, memory="200M", disk="10M")
def second_half(x, i):
    return x, i


def of_dask(cluster: distributed.LocalCluster) -> int:
    """The number of workers that dask's own rule wants."""
    return cluster.sync(cluster.scheduler_comm.adaptive_target)


@pytest.mark.timeout(300)
def test_workers_come_before_dasks_own_rule_adds_them_and_go_when_nothing_is_left(dask, tmp_path):
    """The other workers start while the only task of the first stage still runs."""
    (tmp_path / "timed.go").touch()
    toil.compute(first_half(str(tmp_path / "timed")), store=tmp_path / "run", cluster="inline")
    before = first_half(str(tmp_path / "flag"))
    limits = {"minimum": 0, "maximum": 3, "interval": "1s", "target_duration": "1s"}
    cluster = toil.DaskCluster(dask, adapt=limits)
    with ThreadPoolExecutor(1) as pool:
        last = [second_half(before, i) for i in range(3)]
        run = pool.submit(toil.compute, last, store=tmp_path / "run", cluster=cluster)
        try:
            wait_for((tmp_path / "flag").exists, "the first task to run", 120)
            wait_for(lambda: len(dask.scheduler_info["workers"]) == 3, "the other workers", 120)
            assert of_dask(dask) == 1
            assert not run.done()
        finally:
            (tmp_path / "flag.go").touch()
        assert run.result() == [(1, i) for i in range(3)]
    wait_for(lambda: not dask.scheduler_info["workers"], "the workers to end", 60)
    assert type(dask._adaptive) is distributed.Adaptive  # the cluster is the user's again


@pytest.mark.timeout(300)
def test_the_first_worker_comes_when_there_is_something_to_do(tmp_path):
    with dask_running(n_workers=0, threads_per_worker=1, processes=False) as dask:
        cluster = toil.DaskCluster(dask, adapt={"minimum": 0, "maximum": 2, "interval": "1s"})
        assert toil.compute(second_half(1, 2), store=tmp_path / "run", cluster=cluster) == (1, 2)


def test_adapt_needs_a_cluster_object():
    with pytest.raises(InputError, match="adapt needs a cluster object"):
        toil.DaskCluster("tcp://127.0.0.1:8786", adapt={"maximum": 4})


def test_a_cluster_that_takes_no_rule_of_others_is_named(tmp_path):
    class Own:
        def adapt(self, minimum=0, maximum=1):
            raise AssertionError("it does not take the rule")

    open_store(tmp_path / "run", sync=False)
    with pytest.raises(ClusterError, match="the number of workers of Own cannot be adapted to the run") as caught:
        follow(Own(), str(tmp_path / "run"), {"maximum": 4}, NAMES)
    assert caught.value.hint == "leave adapt out, and call the cluster's own adapt or scale"


@pytest.mark.parametrize("target", [0, "0s", 0.0])
def test_a_target_that_dask_would_divide_by_zero_is_refused_before_the_run(target):
    with pytest.raises(InputError, match=f"adapt: target_duration must be longer than 0, not {target!r}"):
        follow(None, "memory://none", {"maximum": 4, "target_duration": target}, NAMES)


@pytest.mark.parametrize("options", [{"maximum": 2.5}, {"minimum": -1}, {"maximum": "4"}])
def test_limits_are_whole_numbers(options):
    with pytest.raises(InputError, match=r"adapt: (maximum|minimum) must be a whole number, not"):
        follow(None, "memory://none", options, NAMES)
