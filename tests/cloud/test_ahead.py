"""Which nodes of Slurm are started before the tasks of a run need them."""

from __future__ import annotations

from pathlib import Path

import pytest

from toilfn import cli
from toilfn.cloud import ahead, power
from toilfn.cloud.ahead import parse_nodes, to_start
from toilfn.cloud.scaler import Demand
from toilfn.resources import Resources
from toilfn.stores import open_store

GIB = 2**30
LINE = (
    "NodeName={name} Arch=x86_64 CoresPerSocket=1 CPUAlloc={used} CPUTot=4 CPULoad=0.1 AvailableFeatures={features} "
    "ActiveFeatures=(null) Gres=(null) OS=Linux 5.1 #1 SMP RealMemory=8192 AllocMem=0 FreeMem=N/A State={state} "
    "Owner=N/A Partitions=all,{partition} Reason=Not State=IDLE at all [root@2026-11-30T12:00:00]"
)
TWO_CORES = Resources(2, GIB)


def text(*nodes: tuple[str, str], used: int = 0, features: str = "(null)", partition: str = "cpu") -> str:
    return "\n".join(
        LINE.format(name=name, state=state, used=used, features=features, partition=partition) for name, state in nodes
    )


def started(shown: str, *demand: Demand, target_time: float = 0.0) -> list[str]:
    return list(to_start(list(parse_nodes(shown)), demand, 60.0, target_time))


DOWN = "IDLE+CLOUD+POWERED_DOWN"


def test_as_many_nodes_as_the_tasks_need_are_started_and_no_more_than_there_are():
    shown = text(("a", DOWN), ("b", DOWN), ("c", DOWN))
    assert started(shown) == []
    assert started(shown, Demand(TWO_CORES, 3, 60)) == ["a", "b"]
    assert started(shown, Demand(TWO_CORES, 30, 60)) == ["a", "b", "c"]
    assert started(shown, Demand(Resources(5, GIB), 1, 60)) == []


def test_short_tasks_follow_each_other_on_one_node():
    shown = text(("a", DOWN), ("b", DOWN))
    assert started(shown, Demand(TWO_CORES, 20, 60), target_time=1800.0) == ["a"]


@pytest.mark.parametrize("state", ["IDLE+CLOUD", "ALLOCATED+CLOUD+POWERING_UP"])
def test_a_node_that_exists_or_boots_is_used_first(state):
    shown = text(("a", state), ("b", DOWN))
    assert started(shown, Demand(TWO_CORES, 2, 60)) == []
    assert started(shown, Demand(TWO_CORES, 3, 60)) == ["b"]


def test_running_tasks_are_assumed_to_have_ended_when_the_later_ones_are_ready():
    shown = text(("a", "ALLOCATED+CLOUD"), used=4) + "\n" + text(("b", DOWN))
    assert started(shown, Demand(TWO_CORES, 2, 60)) == ["b"]
    assert started(shown, Demand(TWO_CORES, 2, 60), target_time=1800.0) == []


@pytest.mark.parametrize(
    "state",
    ["DOWN+CLOUD", "IDLE+CLOUD+DRAIN", "IDLE+CLOUD+POWERING_DOWN", "IDLE*+CLOUD", "IDLE", "DOWN+CLOUD+POWERED_DOWN"],
)  # fmt: skip
def test_nodes_that_cannot_be_used_or_are_no_machines_of_a_cloud_are_left_alone(state):
    assert list(parse_nodes(text(("a", state)))) == []


def test_only_tasks_that_may_be_preempted_get_spot_nodes():
    shown = text(("a", DOWN), features="spot")
    assert started(shown, Demand(TWO_CORES, 1, 60)) == []
    assert started(shown, Demand(Resources(2, GIB, preemptible=True), 1, 60)) == ["a"]


def test_other_partitions_can_be_left_alone():
    shown = text(("a", DOWN)) + "\n" + text(("b", DOWN), partition="other")
    assert [node.name for node in parse_nodes(shown, "other")] == ["b"]
    assert [node.name for node in parse_nodes(shown, "all")] == ["a", "b"]


AWAY = "slurm_load_node error: Unable to contact slurm controller (connect failure)"


@pytest.fixture
def scontrol(monkeypatch, tmp_path) -> Path:
    """A folder in which each file `0`, `1`, ... is an answer of scontrol: its exit status and what it says."""
    folder = tmp_path / "answers"
    folder.mkdir()
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\ncd {folder} || exit 9\nset -- $(ls | head -n 1)\nread -r status said < $1\nrm $1\n"
        'echo "$said" >&2\nexit "$status"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return folder


def test_starting_nodes_ahead_waits_while_slurm_is_away_and_says_so_once_each_time(
    scontrol, monkeypatch, capsys, tmp_path
):
    for number, answer in enumerate([f"1 {AWAY}", f"1 {AWAY}", "0", f"1 {AWAY}", "0"]):
        (scontrol / str(number)).write_text(f"{answer}\n")

    def start(*arguments):
        if not any(scontrol.iterdir()):
            return None  # the run has ended
        power.scontrol("show", "node", "--oneliner")
        return {"cpu-0": "two tasks will be ready"}

    monkeypatch.setattr(ahead, "start_ahead", start)
    open_store(tmp_path / "run", sync=False)
    assert cli.main(["cluster", "ahead", str(tmp_path / "run"), "--interval", "0s"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count(f"cannot start nodes until Slurm responds again: scontrol show node --oneliner: {AWAY}") == 2
    assert shown.out.count("cpu-0: started, because two tasks will be ready") == 2


def test_starting_nodes_ahead_ends_if_slurm_does_not_let_this_user_start_nodes(scontrol, capsys, tmp_path, monkeypatch):
    (scontrol / "0").write_text("1 slurm_update error: Invalid user id\n")
    monkeypatch.setattr(ahead, "start_ahead", lambda *arguments: power.scontrol("update", "nodename=cpu-0"))
    open_store(tmp_path / "run", sync=False)
    assert cli.main(["cluster", "ahead", str(tmp_path / "run")]) == 1
    assert "Invalid user id" in capsys.readouterr().err
