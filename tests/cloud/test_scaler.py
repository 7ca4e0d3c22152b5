"""How many machines a cluster should have: examples, by the subjects of Toil's tests of its scaler."""

from __future__ import annotations

import math

import pytest

from toilfn.cloud.machines import MachineType, Pool, usable
from toilfn.cloud.packing import Amounts, Timeline
from toilfn.cloud.scaler import (
    Create,
    Demand,
    Drain,
    Load,
    Machine,
    Memory,
    Settings,
    Terminate,
    Undrain,
    Unplaced,
    decide,
    note_created,
    round_half_up,
)
from toilfn.resources import Accelerator, Resources

GIB = 2**30
C4 = MachineType("c4.8xlarge", 36, 60 * GIB, 100 * GIB, 1.59)
R3 = MachineType("r3.8xlarge", 32, 260 * GIB, 600 * GIB, 2.66)
MICRO = MachineType("t2.micro", 1, 1 * GIB, 8 * GIB, 0.0116)
HUGE = Pool("micro", (MICRO,), max=5000)


def task(cores=1.0, memory=GIB, disk=0, *, preemptible=False, accelerators=()) -> Resources:
    return Resources(cores, memory, disk, accelerators, preemptible=preemptible)


def plain(*pools: Pool, **values) -> Settings:
    return Settings(pools, **{"overhead": False, "linger": 0.0, **values})


def created(actions) -> dict[tuple[str, str], int]:
    return {(a.pool, a.type): a.count for a in actions if isinstance(a, Create)}


def on_micros(resources: Resources, seconds: float, target: float) -> int:
    actions, _ = decide(plain(HUGE, target_time=target), [], [Demand(resources, 1000, seconds)], Memory(), 0)
    return created(actions)["micro", "t2.micro"]


# Packing


def test_one_shape_fills_what_is_there_before_anything_is_made():
    settings = plain(Pool("c4", (C4,)), target_time=0)
    free = [Machine("m1", "c4", "c4.8xlarge")]
    actions, _ = decide(settings, free, [Demand(task(18), 2, 60)], Memory(), 0)
    assert actions == []
    actions, _ = decide(settings, free, [Demand(task(18), 3, 60)], Memory(), 0)
    assert created(actions) == {("c4", "c4.8xlarge"): 1}


def test_the_first_machine_is_one_that_fits():
    settings = plain(Pool("both", (C4, R3)))
    actions, _ = decide(settings, [], [Demand(task(1, 200 * GIB), 1, 60)], Memory(), 0)
    assert created(actions) == {("both", "r3.8xlarge"): 1}


def test_large_tasks_are_placed_before_small_ones_whatever_order_they_come_in():
    settings = plain(Pool("c4", (C4,)), target_time=0)
    demand = [Demand(task(18, GIB), 2, 60), Demand(task(36, 2 * GIB), 1, 60)]
    assert decide(settings, [], demand, Memory(), 0) == decide(settings, [], demand[::-1], Memory(), 0)
    assert created(decide(settings, [], demand, Memory(), 0)[0]) == {("c4", "c4.8xlarge"): 2}


def test_a_low_target_time_makes_a_machine_for_each_task():
    assert on_micros(task(1, GIB, 8 * GIB), seconds=300, target=0) == 1000


def test_a_high_target_time_lets_tasks_follow_each_other():
    assert on_micros(task(1, GIB, 8 * GIB), seconds=300, target=3600) == 84  # 12 one after the other


@pytest.mark.parametrize("target", [0, 3600])
def test_tasks_that_ask_for_nothing_share_one_machine(target):
    assert on_micros(task(0, 0, 0), seconds=300, target=target) == 1


@pytest.mark.parametrize("seconds", [30000, math.inf])
def test_long_tasks_and_services_run_at_the_same_time(seconds):
    assert on_micros(task(1, GIB, 8 * GIB), seconds=seconds, target=3600) == 1000


def test_a_short_task_does_not_wait_for_days_behind_a_long_one():
    settings = plain(Pool("c4", (C4,), max=1000), target_time=3600)
    demand = [Demand(task(36), 1, 10 * 86400), Demand(task(36), 1, 86400), Demand(task(36), 24, 1800)]
    actions, _ = decide(settings, [], demand, Memory(), 0)
    assert created(actions) == {("c4", "c4.8xlarge"): 1 + 1 + 12}


def test_a_short_task_fits_in_time_between_others():
    line = Timeline(Amounts(4, 8))
    line.take(Amounts(3, 1), 100)
    assert line.place(Amounts(2, 1), 50, 10, 200) == 4  # two lanes from 100 to 150, and from 150 to 200
    assert line.place(Amounts(1, 1), 100, 10, 200) == 1


@pytest.mark.parametrize(
    ("resources", "limit"),
    [
        (task(64), "64 cores, and c4.8xlarge has 36"),
        (task(1, 300 * GIB), "300 GiB of memory, and r3.8xlarge has 260 GiB"),
        (task(1, GIB, 700 * GIB), "700 GiB of disk, and r3.8xlarge has 600 GiB"),
        (task(1, accelerators=(Accelerator(),)), "does not have the accelerators"),
    ],
)
def test_a_task_that_fits_no_machine_is_reported_with_the_nearest_limit(resources, limit):
    settings = plain(Pool("both", (C4, R3)))
    actions, _ = decide(settings, [], [Demand(resources, 7, 60), Demand(task(), 1, 60)], Memory(), 0)
    (unplaced,) = [action for action in actions if isinstance(action, Unplaced)]
    assert limit in unplaced.reason
    assert unplaced.count == 7
    assert sum(created(actions).values()) == 1


def test_accelerators_are_found_by_the_requested_kind():
    gpu = MachineType("g5", 8, 32 * GIB, 100 * GIB, 2.0, (Accelerator(2, "gpu", "a10g", "nvidia", "cuda"),))
    settings = plain(Pool("plain", (C4,)), Pool("gpu", (gpu,)), target_time=0)
    actions, _ = decide(
        settings, [], [Demand(task(1, accelerators=(Accelerator(1, model="a10g"),)), 4, 60)], Memory(), 0
    )
    assert created(actions) == {("gpu", "g5"): 2}
    (action,) = decide(
        settings, [], [Demand(task(1, accelerators=(Accelerator(1, model="k80"),)), 4, 60)], Memory(), 0
    )[0]
    assert isinstance(action, Unplaced)


# Sizes of pools


def test_halves_are_rounded_away_from_zero():
    assert [round_half_up(x) for x in (0.4, 0.5, 1.5, 2.5, -0.5, -1.4)] == [0, 1, 2, 3, -1, -1]


def test_never_more_than_the_maximum():
    settings = plain(Pool("c4", (C4,), max=7), target_time=0)
    actions, _ = decide(settings, [], [Demand(task(36), 1000, 60)], Memory(), 0)
    assert created(actions) == {("c4", "c4.8xlarge"): 7}
    (waiting,) = [action for action in actions if isinstance(action, Unplaced)]
    assert "its maximum number of machines: c4 (7)" in waiting.reason
    assert waiting.count == 993


def test_never_fewer_than_the_minimum():
    settings = plain(Pool("c4", (C4,), min=3))
    actions, memory = decide(settings, [], [], Memory(), 0)
    assert created(actions) == {("c4", "c4.8xlarge"): 3}
    machines = [Machine(f"m{i}", "c4", "c4.8xlarge") for i in range(3)]
    assert decide(settings, machines, [], memory, 1000)[0] == []


def test_one_machine_at_least_while_anything_is_queued():
    settings = plain(HUGE, target_time=3600, inertia=0.9)
    _, memory = decide(settings, [], [], Memory(), 0)
    actions, _ = decide(settings, [], [Demand(task(), 1, 1)], memory, 60)
    assert sum(created(actions).values()) == 1


def test_inertia_keeps_machines_for_a_while():
    machines = [Machine(f"m{i}", "micro", "t2.micro") for i in range(10)]
    memory = Memory(averages={"micro": 10.0})
    for inertia, drained in ((0.0, 10), (0.5, 5), (0.9, 1)):
        actions, _ = decide(plain(HUGE, inertia=inertia), machines, [], memory, 0)
        assert sum(isinstance(action, Drain) for action in actions) == drained


def test_a_lull_shorter_than_the_linger_drains_nothing():
    settings = plain(HUGE, linger=120, inertia=0)
    machines = [Machine("m1", "micro", "t2.micro")]
    actions, memory = decide(settings, machines, [], Memory(), 0)
    assert actions == []
    actions, memory = decide(settings, machines, [], memory, 60)
    assert actions == []
    (drain,) = decide(settings, machines, [], memory, 120)[0]
    assert drain == Drain("m1", "nothing has needed it for 2m 00s; pool micro wants 0")
    _, memory = decide(settings, machines, [Demand(task(), 1, 1)], memory, 120)
    assert decide(settings, machines, [], memory, 180)[0] == []


def test_a_machine_is_drained_before_it_is_removed_and_never_while_it_works():
    settings = plain(HUGE, inertia=0)
    idle, busy = Machine("idle", "micro", "t2.micro"), Machine("busy", "micro", "t2.micro", (Load(Amounts(1), 50),))
    assert [type(a) for a in decide(settings, [idle, busy], [], Memory(), 0)[0]] == [Drain]
    draining = [Machine("idle", "micro", "t2.micro", draining=True),
                Machine("busy", "micro", "t2.micro", busy.loads, draining=True)]  # fmt: skip
    assert decide(settings, draining, [], Memory(), 0)[0] == [Terminate("idle", "it is drained and idle")]


def test_draining_machines_are_taken_back_before_new_ones_are_made():
    settings = plain(HUGE, target_time=0)
    machines = [Machine("m1", "micro", "t2.micro", draining=True)]
    actions, _ = decide(settings, machines, [Demand(task(1, GIB), 1, 60)], Memory(), 0)
    assert [type(action) for action in actions] == [Undrain]
    actions, _ = decide(settings, machines, [Demand(task(1, GIB), 3, 60)], Memory(), 0)
    assert [(type(action), getattr(action, "count", 1)) for action in actions] == [(Undrain, 1), (Create, 2)]


def test_above_the_maximum_the_emptiest_is_drained_first():
    machines = [Machine(f"m{i}", "c4", "c4.8xlarge", (Load(Amounts(cores), 5),)) for i, cores in enumerate((30, 2, 9))]
    actions, _ = decide(plain(Pool("c4", (C4,), max=1)), machines, [], Memory(), 0)
    assert [action.machine for action in actions] == ["m1", "m2"]


def test_static_machines_stay():
    machines = [Machine("m1", "micro", "t2.micro", static=True)]
    assert decide(plain(HUGE, inertia=0), machines, [], Memory(), 1e6)[0] == []


def test_the_cheapest_type_for_the_tasks_is_taken():
    small = MachineType("small", 4, 8 * GIB, 50 * GIB, 0.2)
    large = MachineType("large", 64, 128 * GIB, 500 * GIB, 2.5)
    settings = plain(Pool("any", (small, large)), target_time=0)
    assert created(decide(settings, [], [Demand(task(), 2, 60)], Memory(), 0)[0]) == {("any", "small"): 1}
    many = decide(settings, [], [Demand(task(), 66, 60)], Memory(), 0)[0]
    assert created(many) == {("any", "large"): 1, ("any", "small"): 1}


def test_several_pools_grow_together():
    settings = plain(Pool("cpu", (C4,)), Pool("memory", (R3,)), target_time=0)
    demand = [Demand(task(36, GIB), 2, 60), Demand(task(1, 250 * GIB), 3, 60)]
    actions, _ = decide(settings, [], demand, Memory(), 0)
    assert created(actions) == {("cpu", "c4.8xlarge"): 2, ("memory", "r3.8xlarge"): 3}


# Spot machines


def spot_and_demand(compensation: float) -> Settings:
    return plain(Pool("spot", (C4,), spot=True, max=50), Pool("demand", (C4,), max=50), target_time=0,
                 compensation=compensation)  # fmt: skip


def test_preemptible_tasks_get_spot_machines_and_others_do_not():
    demand = [Demand(task(36, preemptible=True), 2, 60), Demand(task(36), 1, 60)]
    actions, _ = decide(spot_and_demand(0), [], demand, Memory(), 0)
    assert created(actions) == {("spot", "c4.8xlarge"): 2, ("demand", "c4.8xlarge"): 1}


def test_a_type_that_the_cloud_has_none_of_cools_down():
    settings = spot_and_demand(0)
    demand = [Demand(task(36, preemptible=True), 4, 60)]
    (create,), memory = decide(settings, [], demand, Memory(), 0)
    memory = note_created(settings, memory, create, got=1, now=0)
    assert created(decide(settings, [], demand, memory, 299)[0]) == {}
    assert created(decide(settings, [], demand, memory, 300)[0]) == {("spot", "c4.8xlarge"): 4}


def test_another_type_of_the_pool_is_tried_meanwhile():
    settings = plain(Pool("spot", (C4, R3), spot=True), target_time=0)
    demand = [Demand(task(1, preemptible=True), 1, 60)]
    (create,), memory = decide(settings, [], demand, Memory(), 0)
    assert create.type == "c4.8xlarge"
    memory = note_created(settings, memory, create, got=0, now=0)
    assert created(decide(settings, [], demand, memory, 60)[0]) == {("spot", "r3.8xlarge"): 1}


@pytest.mark.parametrize(("compensation", "made"), [(0.0, 0), (0.5, 5), (1.0, 10)])
def test_missing_spot_machines_are_compensated_in_proportion(compensation, made):
    settings = spot_and_demand(compensation)
    demand = [Demand(task(36, preemptible=True), 10, 60)]
    memory = Memory(cooling={("spot", "c4.8xlarge"): 1000.0})
    actions, memory = decide(settings, [], demand, memory, 0)
    assert sum(created(actions).values()) == made
    machines = [Machine(f"m{i}", "demand", "c4.8xlarge") for i in range(made)]
    actions, _ = decide(settings, machines, demand, memory, 60)
    assert actions == []  # those that stand in are not compensated for again


# What the system on a machine keeps


@pytest.mark.parametrize(
    ("memory", "least", "most"),
    [(1 * GIB, 0.6, 0.7), (8 * GIB, 0.7, 0.8), (64 * GIB, 0.9, 0.95), (256 * GIB, 0.95, 0.97), (GIB // 2, 0.25, 0.35)],
)
def test_small_machines_keep_a_larger_share_of_memory_than_large_ones(memory, least, most):
    assert least < usable(MachineType("t", 2, memory, 50 * GIB)).memory / memory < most


def test_a_task_that_requests_a_whole_machine_does_not_fit_it():
    settings = Settings((Pool("c4", (C4,)),))
    (action,), _ = decide(settings, [], [Demand(task(1, 60 * GIB), 1, 60)], Memory(), 0)
    assert isinstance(action, Unplaced)
    (action,), _ = decide(settings, [], [Demand(task(1, 54 * GIB, 90 * GIB), 1, 60)], Memory(), 0)
    assert isinstance(action, Create)


def test_figures_of_real_machines_are_accepted():
    r5 = MachineType("r5.2xlarge", 8, 64 * GIB, 50 * GIB)
    room = usable(r5)  # a node of this type had 61.5 GiB for pods
    assert 58 * GIB < room.memory < 61.5 * GIB
    assert room.disk == pytest.approx(42.5 * GIB)
