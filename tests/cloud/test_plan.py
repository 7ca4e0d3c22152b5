"""The machines, the time and the cost that a run is expected to take."""

from __future__ import annotations

import json
import math

import pytest

import toilfn as toil
from toilfn import cli
from toilfn.cloud.machines import MachineType, Pool
from toilfn.cloud.scaler import Settings
from toilfn.cloud.simulation import Step, simulate
from toilfn.resources import Resources

GIB = 2**30
BOX = MachineType("box", 4, 32 * GIB, 100 * GIB, 0.5)
ONE = Resources(1, GIB, GIB)


def test_independent_tasks_take_as_long_as_the_longest_and_a_boot():
    settings = Settings((Pool("cpu", (BOX,), max=100),), target_time=600, inertia=0, linger=0)
    plan = simulate(settings, [Step("work", ONE, 600.0)] * 40, interval=60, boot=120)
    assert plan.tasks == 40
    assert plan.seconds == pytest.approx(720)
    (use,) = plan.pools
    assert use.most == 10
    assert use.hours == pytest.approx(2.0)  # ten machines for twelve minutes
    assert plan.cost == pytest.approx(1.0)


def test_a_task_that_waits_for_others_comes_after_them_and_machines_go_meanwhile():
    settings = Settings((Pool("cpu", (BOX,), max=100),), target_time=600, inertia=0, linger=0)
    steps = [*[Step("work", ONE, 600.0)] * 40, Step("merge", ONE, 7200.0, tuple(range(40)))]
    plan = simulate(settings, steps, interval=60, boot=120)
    assert plan.seconds == pytest.approx(720 + 7200)
    assert plan.pools[0].hours < 2.0 + 2.0 + 10 * 4 * 60 / 3600


def test_what_no_machine_can_run_is_named_and_the_rest_is_planned():
    settings = Settings((Pool("cpu", (BOX,)),))
    plan = simulate(settings, [Step("big", Resources(64), 60.0), Step("small", ONE, 60.0, (0,))])
    assert plan.tasks == 1
    assert plan.unplaced == ("big: asks for 64 cores, and box has 4",)


class _Losing:
    def available(self, pool, kind, count, now):
        return count

    def lifetime(self, pool):
        return 1000.0 if pool.spot else math.inf


def test_tasks_of_a_machine_that_is_taken_away_run_again():
    settings = Settings((Pool("spot", (BOX,), spot=True, max=1),), target_time=600)
    steps = [Step("work", Resources(4, GIB, GIB, preemptible=True), 400.0)] * 3
    plan = simulate(settings, steps, market=_Losing())
    assert plan.tasks == 3
    assert plan.lost == 1


CLUSTER = """\
name: lab
region: nowhere-1
pools:
  - name: cpu
    types: [box.large]
    max: 3
machines:
  box.large: {cores: 4, memory: 32Gi, price: 0.5}
"""


@toil.task(cores=2, memory="1Gi", disk="1Gi")
def square(x):
    return x * x


@toil.task
def total(values):
    return sum(values)


@pytest.fixture
def finished(tmp_path):
    toil.compute(total([square(x) for x in range(5)]), store=tmp_path / "run", cluster="inline")
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path


def test_a_plan_is_made_from_a_finished_run(finished, capsys):
    file = str(finished / "cluster.yaml")
    assert cli.main(["cluster", "plan", str(finished / "run"), "--file", file, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["tasks"] == 6
    assert plan["seconds"] >= 120
    assert plan["pools"][0]["most"] == 1
    assert plan["cost"] == pytest.approx(plan["pools"][0]["hours"] * 0.5)
    assert cli.main(["cluster", "plan", str(finished / "run"), "--file", file]) == 0
    printed = capsys.readouterr().out
    assert "6 tasks" in printed
    assert "cpu" in printed


def test_a_plan_without_the_sizes_of_machines_says_where_they_belong(finished, capsys):
    file = finished / "cluster.yaml"
    file.write_text(CLUSTER.partition("machines:")[0])
    assert cli.main(["cluster", "plan", str(finished / "run"), "--file", str(file)]) == 2
    assert "the size of box.large is not known; add it to the description's machines" in capsys.readouterr().err
