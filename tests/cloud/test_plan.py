"""The machines, the time and the cost that a run is expected to take."""

from __future__ import annotations

import io
import json
import math
import time

import pytest

import toilfn as toil
from tests.servers.fixtures import *  # noqa: F403
from toilfn import cli
from toilfn.cloud.description import read
from toilfn.cloud.machines import MachineType, Pool
from toilfn.cloud.plan import pools_of
from toilfn.cloud.prices import cache_file, offered
from toilfn.cloud.scaler import Settings
from toilfn.cloud.simulation import Step, simulate
from toilfn.errors import InputError
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


def test_a_task_that_no_machine_can_run_is_named_and_the_rest_is_planned():
    settings = Settings((Pool("cpu", (BOX,)),))
    plan = simulate(settings, [Step("big", Resources(64), 60.0), Step("small", ONE, 60.0, (0,))])
    assert plan.tasks == 1
    assert plan.unplaced == ("big: requests 64 cores, and box has 4",)


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
    assert "the size of box.large is unknown\nhint: add it to the description's machines" in capsys.readouterr().err


SCRIPT = """\
import sys
import toilfn as toil

@toil.task(cores=2, memory="1Gi", disk="1Gi")
def square(x):
    return x * x

@toil.task
def total(values):
    return sum(values)

print(toil.compute(total([square(x) for x in range(int(sys.argv[1]))])))
"""


def test_a_plan_is_made_from_the_graph_of_a_script_that_has_never_run(tmp_path, capfd):
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [str(tmp_path / "script.py"), "--file", str(tmp_path / "cluster.yaml"), "--task-time", "1h", "--json"]
    assert cli.main(["cluster", "plan", *words, "--", "12"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["tasks"] == 13
    assert plan["pools"][0]["most"] == 3
    # Three machines of four cores take six squares at a time, and the total waits for all of them.
    assert plan["seconds"] >= 3 * 3600
    assert any("none of them has finished" in reason for reason in plan["unknown"])


def test_a_script_that_fails_is_not_planned(tmp_path, capfd):
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [str(tmp_path / "script.py"), "--file", str(tmp_path / "cluster.yaml")]
    assert cli.main(["cluster", "plan", *words, "--", "many"]) == 2
    assert "its dry run failed" in capfd.readouterr().err


OFFERS = """\
"FormatVersion","v1.0"
"Publication Date","2026-11-01T00:00:00Z"
"SKU","TermType","Unit","PricePerUnit","Currency","Instance Type","Tenancy","vCPU","Memory","Operating System",\
"CapacityStatus","Pre Installed S/W"
"A","OnDemand","Hrs","0.5","USD","box.large","Shared","4","32 GiB","Linux","Used","NA"
"B","OnDemand","Hrs","0.9","USD","box.large","Shared","4","32 GiB","Windows","Used","NA"
"C","Reserved","Hrs","0.1","USD","box.large","Shared","4","32 GiB","Linux","Used","NA"
"D","OnDemand","Hrs","0.6","USD","box.large","Dedicated","4","32 GiB","Linux","Used","NA"
"E","OnDemand","Hrs","0","USD","box.large","Shared","4","32 GiB","Linux","AllocatedCapacityReservation","NA"
"F","OnDemand","Hrs","24.5","USD","box.huge","Shared","448","12,288 GiB","Linux","Used","NA"
"G","OnDemand","Hrs","1","USD","host","Shared","NA","NA","Linux","Used","NA"
"""


def test_sizes_and_prices_come_from_the_offer_file(finished, capsys):
    file, offers = finished / "cluster.yaml", finished / "index.csv"
    file.write_text(CLUSTER.partition("machines:")[0])
    offers.write_text(OFFERS)
    words = ["cluster", "plan", str(finished / "run"), "--file", str(file), "--prices", str(offers), "--json"]
    assert cli.main(words) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["cost"] == pytest.approx(plan["pools"][0]["hours"] * 0.5)
    offers.write_text("a,b\n1,2\n")
    assert cli.main(words) == 2
    assert "not an offer file of AWS EC2" in capsys.readouterr().err


def test_offers_are_read_once_in_thirty_days(tmp_path, monkeypatch):
    downloads = []

    def download(url: str, timeout: float) -> io.BytesIO:
        downloads.append(url)
        return io.BytesIO(OFFERS.encode())

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", download)
    first = offered("eu-central-1", now=0.0)
    assert first["box.huge"].memory == 12288 * GIB
    assert offered("eu-central-1", now=29 * 86400.0) == first
    assert len(downloads) == 1
    cache_file("eu-central-1").write_text("damaged")
    assert offered("eu-central-1", now=0.0) == first
    offered("eu-central-1", now=31 * 86400.0)
    assert len(downloads) == 3
    assert all("/eu-central-1/index.csv" in url for url in downloads)


def test_spot_machines_cost_what_they_cost_now_and_dear_types_are_left_out():
    text = CLUSTER.replace("    max: 3\n", "    max: 3\n    spot: true\n    max_price: 0.3\n")
    text = text.replace("[box.large]", "[box.large, box.small]") + "  box.small: {cores: 2, memory: 8Gi, price: 0.2}\n"
    (pool,) = pools_of(read(text), {}, {"box.large": 0.21, "box.small": 0.05})
    assert [kind.price for kind in pool.types] == [0.21, 0.05]
    (pool,) = pools_of(read(text), {}, {"box.large": 0.31, "box.small": 0.05})
    assert [kind.name for kind in pool.types] == ["box.small"]
    (pool,) = pools_of(read(text))
    assert [kind.price for kind in pool.types] == [0.3, 0.3]  # no more than the limit


def test_a_pool_of_sizes_is_planned_with_the_cheapest_known_types():
    text = CLUSTER.replace("types: [box.large]", "cores: 4")
    (pool,) = pools_of(read(text))
    assert [kind.name for kind in pool.types] == ["box.large"]
    offers = {name: MachineType(name, 4, 8 * GIB, 0, price) for name, price in [("c9.large", 0.2), ("c9g.large", 0.1)]}
    (pool,) = pools_of(read(text), offers)
    assert [kind.name for kind in pool.types] == ["c9.large"]
    with pytest.raises(InputError, match="no machine type has 40 cores") as caught:
        pools_of(read(text.replace("cores: 4\n", "cores: 40\n", 1)))
    assert caught.value.hint == "box.large has 4 cores and 32 GiB"


def test_prices_of_spot_machines_are_asked_of_aws(moto_server, finished, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(finished))
    cache_file("eu-central-1").parent.mkdir()
    cache_file("eu-central-1").write_text(json.dumps({"time": time.time(), "types": [["m5.large", 2, 8 * GIB, 0.1]]}))
    text = CLUSTER.replace("nowhere-1", "eu-central-1").replace("box.large]", "m5.large]\n    spot: true")
    (finished / "cluster.yaml").write_text(text)
    command = ["cluster", "plan", str(finished / "run"), "--file", str(finished / "cluster.yaml"), "--json"]
    assert cli.main([*command, "--prices", "aws"]) in (0, 1)
    (pool,) = json.loads(capsys.readouterr().out)["pools"]
    assert pool["cost"] == pytest.approx(pool["hours"] * 0.00001)
