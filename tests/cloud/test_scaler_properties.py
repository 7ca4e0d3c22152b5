"""Properties of every decision about the sizes of pools."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from toilfn.cloud.machines import MachineType, Pool
from toilfn.cloud.packing import Amounts, Timeline, amounts_of
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
)
from toilfn.resources import Resources

GIB = 2**30
TYPES = (
    MachineType("small", 4, 16 * GIB, 50 * GIB, 0.2),
    MachineType("large", 32, 64 * GIB, 200 * GIB, 1.4),
    MachineType("memory", 8, 128 * GIB, 100 * GIB, 0.9),
)

shapes = st.builds(
    Resources,
    st.sampled_from([0.0, 0.5, 1.0, 3.0, 4.0, 8.0, 16.0, 64.0]),
    st.sampled_from([0, GIB, 3 * GIB, 10 * GIB, 60 * GIB, 300 * GIB]),
    st.sampled_from([0, GIB, 40 * GIB]),
    preemptible=st.booleans(),
)
times = st.sampled_from([1.0, 30.0, 300.0, 1000.0, 10000.0, float("inf")])
demands = st.lists(st.builds(Demand, shapes, st.integers(1, 50), times), max_size=6)
pools = st.tuples(
    st.builds(Pool, st.just("spot"), st.just(TYPES), st.just(True), st.integers(0, 2), st.integers(2, 20)),
    st.builds(Pool, st.just("demand"), st.just(TYPES[:2]), st.just(False), st.integers(0, 2), st.integers(2, 20)),
)
scalings = st.builds(
    Settings, pools, st.sampled_from([0.0, 300.0, 1800.0]), st.sampled_from([0.0, 0.1, 0.9]),
    st.sampled_from([0.0, 0.5, 1.0]), st.booleans(), st.sampled_from([0.0, 120.0]),
)  # fmt: skip
loads = st.lists(
    st.builds(Load, st.builds(Amounts, st.sampled_from([0.5, 2.0]), st.just(float(GIB))), times), max_size=2
)
machines = st.lists(
    st.builds(Machine, st.uuids().map(str), st.sampled_from(["spot", "demand"]), st.sampled_from(["small", "large"]),
              loads.map(tuple), st.booleans(), st.booleans()),
    max_size=8,
)  # fmt: skip


@settings(max_examples=60)
@given(scalings, machines, demands)
def test_a_decision_keeps_the_limits(scaling, there, demand):
    actions, _ = decide(scaling, there, demand, Memory(), 0)
    by_id = {machine.id: machine for machine in there}
    for pool in scaling.pools:
        size = sum(machine.pool == pool.name for machine in there)
        new = sum(a.count for a in actions if isinstance(a, Create) and a.pool == pool.name)
        assert new == 0 or size + new <= pool.max
        gone = sum(by_id[a.machine].pool == pool.name for a in actions if isinstance(a, Terminate))
        assert gone == 0 or size - gone >= pool.min
    for action in actions:
        assert action.reason
        if isinstance(action, Terminate):
            assert by_id[action.machine].draining
            assert not by_id[action.machine].loads
        if isinstance(action, (Terminate, Drain)):
            assert not by_id[action.machine].static
        if isinstance(action, Create):
            assert action.count > 0
    touched = [action.machine for action in actions if isinstance(action, (Drain, Undrain, Terminate))]
    assert len(touched) == len(set(touched))


@settings(max_examples=60)
@given(scalings, machines, demands)
def test_the_same_question_has_the_same_answer(scaling, there, demand):
    assert decide(scaling, there, demand, Memory(), 0) == decide(scaling, there[::-1], demand[::-1], Memory(), 0)


@settings(max_examples=60)
@given(shapes.filter(lambda shape: shape.cores <= 32), times, st.integers(1, 200), st.integers(0, 100))
def test_more_tasks_never_need_fewer_machines(shape, seconds, some, more):
    pool = Pool("large", TYPES[1:2], max=1000)
    sizes = []
    for number in (some, some + more):
        actions, _ = decide(Settings((pool,)), [], [Demand(shape, number, seconds)], Memory(), 0)
        sizes.append(sum(action.count for action in actions if isinstance(action, Create)))
    assert sizes[0] <= sizes[1]


@settings(max_examples=60)
@given(shapes.filter(lambda shape: shape.cores <= 32), times, st.integers(1, 200), st.integers(0, 100))
def test_more_tasks_cost_at_most_the_price_of_one_machine_less(shape, seconds, some, more):
    pool = Pool("any", TYPES, max=1000)
    prices = {kind.name: kind.cost() for kind in TYPES}
    costs = []
    for number in (some, some + more):
        actions, _ = decide(Settings((pool,)), [], [Demand(shape, number, seconds)], Memory(), 0)
        costs.append(sum(action.count * prices[action.type] for action in actions if isinstance(action, Create)))
    # Types are chosen one after the other, so the last machines of the smaller number may be dearer than need be.
    assert costs[0] <= costs[1] + max(prices.values())


@settings(max_examples=60)
@given(demands, machines)
def test_without_compensation_a_lack_of_spot_machines_adds_none(demand, there):
    spot, on_demand = Pool("spot", TYPES, spot=True, max=20), Pool("demand", TYPES, max=20)
    scaling = Settings((spot, on_demand), compensation=0.0)
    only_spot = [replace(group, resources=replace(group.resources, preemptible=True)) for group in demand]
    cooling = Memory(cooling={("spot", kind.name): 1000.0 for kind in TYPES})
    actions, _ = decide(scaling, there, only_spot, cooling, 0)
    assert [action for action in actions if isinstance(action, Create)] == []


@settings(max_examples=60)
@given(st.lists(st.tuples(shapes, times, st.integers(1, 40)), max_size=6), st.sampled_from([0.0, 300.0, 1800.0]))
def test_nothing_is_reserved_beyond_the_size_of_a_machine(groups, target):
    line = Timeline(Amounts(8, 32 * GIB, 100 * GIB))
    for shape, seconds, number in groups:
        assert 0 <= line.place(amounts_of(shape), seconds, number, target) <= number
    assert min(line.least().values()) >= -1e-6


@settings(max_examples=60)
@given(scalings, demands)
def test_under_constant_demand_the_size_settles_and_nothing_is_made_and_removed_in_turns(scaling, demand):
    there: dict[str, Machine] = {}
    memory, names, history = Memory(), count(), []
    for step in range(8):
        actions, memory = decide(scaling, list(there.values()), demand, memory, 60.0 * step)
        history.append([type(action) for action in actions if not isinstance(action, Unplaced)])
        for action in actions:
            if isinstance(action, Create):
                made = [Machine(f"m{next(names)}", action.pool, action.type) for _ in range(action.count)]
                there |= {machine.id: machine for machine in made}
                memory = note_created(scaling, memory, action, action.count, 60.0 * step)
    assert history[1:] == [[]] * 7
