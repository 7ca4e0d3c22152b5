"""A real Slurm whose nodes do not exist until tasks ask for them, and vanish when they are idle."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import toilfn as toil
from tests.servers.machine import cache_folder, serve, wait_for
from tests.servers.metadata import metadata
from tests.servers.slurmcloud import SlurmCloud
from toilfn.cli import main
from toilfn.cloud.ahead import start_ahead
from toilfn.cloud.demand import RunDemand
from toilfn.cloud.notices import AmazonNotices, watch
from toilfn.files import node
from toilfn.leader.cluster_context import jobs_name
from toilfn.stores import Store, open_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cloud() -> Iterator[SlurmCloud]:
    yield from serve(SlurmCloud())


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that does not look as if each machine had its own."""
    folder = Path(tempfile.mkdtemp(dir=cache_folder()))
    yield folder
    shutil.rmtree(folder)


@toil.task(cores=1, memory="500M", disk="100M")
def where(x):
    return x, os.environ["SLURMD_NODENAME"]


@toil.task(cores=2, memory="500M", disk="100M")
def die_once(flag):
    path = Path(flag)
    node = os.environ["SLURMD_NODENAME"]
    if not path.exists():
        path.write_text(node)
        os.kill(int(Path(os.environ["SLURM_CONF"]).with_name(f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
        signal.pause()
    return "done"


def slurm(partition: str) -> toil.SlurmCluster:
    return toil.SlurmCluster(partition=partition, poll_interval=1)


def test_a_workflow_runs_on_nodes_that_did_not_exist_and_they_vanish_when_idle(cloud, shared):
    wait_for(lambda: not any(map(cloud.exists, ("cpu-0", "cpu-1"))), "the nodes to be gone")
    assert "POWERED_DOWN" in cloud.state("cpu-0")
    found = toil.compute([where(x) for x in range(8)], store=shared / "run", cluster=slurm("all"))
    assert [x for x, _ in found] == list(range(8))
    assert {node for _, node in found} <= {"cpu-0", "cpu-1"}
    assert "resume" in cloud.log()
    wait_for(lambda: not any(map(cloud.exists, ("cpu-0", "cpu-1"))), "the nodes to be gone")
    wait_for(lambda: "POWERED_DOWN" in cloud.state("cpu-0"), "Slurm to know that")


def test_a_node_that_does_not_come_up_in_time_can_be_tried_again(cloud):
    cloud.run("sbatch", "--partition=slow", "--output=/dev/null", "--wrap=true")
    wait_for(lambda: "restore ['slow-0']" in cloud.log(), "Slurm to give the node up")
    cloud.run("scancel", "--partition=slow")
    wait_for(lambda: cloud.state("slow-0").startswith("IDLE"), "the node to be usable again")
    assert "DOWN" not in cloud.state("slow-0").split("+")


def test_a_node_that_the_cloud_does_not_have_is_given_up_with_the_reason_and_tried_again_later(cloud):
    cloud.run("sbatch", "--partition=none", "--nodelist=none-0", "--output=/dev/null", "--wrap=true")
    wait_for(lambda: "none-0: no capacity for rare" in cloud.log(), "the answer of the cloud")
    wait_for(lambda: "suspend ['none-0']" in cloud.log(), "Slurm to power the node down")
    cloud.run("scancel", "--partition=none")
    wait_for(lambda: cloud.state("none-0").startswith("IDLE"), "the node to be usable again")


def test_a_task_on_a_node_that_is_lost_runs_again_on_another(cloud, shared):
    flag = shared / "flag"
    assert toil.compute(die_once(str(flag)), store=shared / "run", cluster=slurm("all"), retries=1) == "done"
    assert flag.read_text() in ("cpu-0", "cpu-1")


@toil.task(cores=1, memory="500M", disk="100M")
def save_when_warned(folder):
    """Wait until the machine is taken away, and use the grace; the second time there is something to continue from."""
    saved = Path(folder, "saved")
    if saved.exists():
        return saved.read_text()
    Path(folder, "began").write_text(os.environ["SLURMD_NODENAME"])
    try:
        signal.pause()
    finally:
        Path(folder, "warned").touch()
        while not Path(folder, "save").exists():
            time.sleep(0.1)
        saved.write_text("what was done so far")


@toil.task(cores=1, memory="500M", disk="100M")
def ignore_warnings(folder):
    """Take no notice of warnings, the first time; a program of others may do so."""
    began = Path(folder, "began")
    if not began.exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        began.write_text(os.environ["SLURMD_NODENAME"])
        while Path(folder).exists() and not Path(folder, "end").exists():
            time.sleep(0.1)
        return "in time"
    return "again"


ONCE = {"retries": 0, "lost_retries": 0}


def begun(shared: Path) -> str:
    """Wait for the task to begin, and return the node on which it runs."""
    began = shared / "began"
    wait_for(lambda: began.exists() and began.read_text(), "the task to begin")
    return began.read_text()


def wait_until_usable(cloud: SlurmCloud, node: str) -> None:
    """Wait until a node is no longer drained; Slurm ends the drain once the machine is gone."""

    def is_usable() -> bool:
        state = cloud.state(node)
        return state.startswith("IDLE") and "DRAIN" not in state

    wait_for(is_usable, "the node to be usable again")


def test_a_warned_node_takes_nothing_new_and_its_tasks_have_their_grace_at_no_cost(cloud, shared):
    """The notice arrives twice, while the task saves: a second signal would interrupt it."""
    prologues = shared / "prologues"
    cluster = toil.SlurmCluster(
        partition="spot", poll_interval=1, job_script_prologue=[f"echo $SLURMD_NODENAME >> {prologues}"]
    )
    with ThreadPoolExecutor(1) as pool, metadata() as machine:
        run = pool.submit(
            toil.compute, save_when_warned(str(shared)), cluster=cluster, store=shared / "run", **ONCE
        )  # fmt: skip
        taken = begun(shared)
        machine.take_away()
        for _ in range(2):
            watch(taken, AmazonNotices(machine.url))
        assert "DRAIN" in cloud.state(taken)
        wait_for((shared / "warned").exists, "the warning to arrive")
        other = job_of_somebody_else(cloud, shared)
        watch(taken, AmazonNotices(machine.url))
        (shared / "save").touch()
        assert run.result() == "what was done so far"
    assert len(prologues.read_text().split()) == 2  # also on the machine of the second attempt
    wait_for(other.exists, "the new job")
    assert {taken, other.read_text().strip()} == {"spot-0", "spot-1"}
    wait_until_usable(cloud, taken)


def job_of_somebody_else(cloud: SlurmCloud, shared: Path) -> Path:
    """Submit a job of somebody else, and return the file into which it writes where it runs."""
    ran = shared / "ran"
    cloud.run("sbatch", "--partition=spot", "--output=/dev/null", f"--wrap=echo $SLURMD_NODENAME > {ran}")
    return ran


@pytest.mark.parametrize("in_time", [True, False])
def test_a_task_that_ignores_warnings_ends_in_time_or_runs_again_at_no_cost(cloud, shared, in_time):
    with ThreadPoolExecutor(1) as pool, metadata() as machine:
        run = pool.submit(
            toil.compute, ignore_warnings(str(shared)), cluster=slurm("spot"), store=shared / "run", **ONCE
        )  # fmt: skip
        taken = begun(shared)
        machine.take_away()
        watch(taken, AmazonNotices(machine.url))
        if in_time:
            (shared / "end").touch()
        else:
            os.kill(int((cloud.folder / f"slurmd-{taken}.pid").read_text()), signal.SIGKILL)
        assert run.result() == ("in time" if in_time else "again")
    (shared / "end").touch()
    wait_until_usable(cloud, taken)


def test_a_notice_that_is_withdrawn_costs_a_task_one_more_attempt_and_nothing_else(cloud, shared):
    """The node ends all the same, and Slurm starts it again when it is needed."""
    with ThreadPoolExecutor(1) as pool, metadata() as machine:
        run = pool.submit(
            toil.compute, save_when_warned(str(shared)), cluster=slurm("spot"), store=shared / "run", **ONCE
        )  # fmt: skip
        taken = begun(shared)
        machine.take_away()
        watch(taken, AmazonNotices(machine.url))
        machine.withdraw()
        (shared / "save").touch()
        assert run.result() == "what was done so far"
    wait_until_usable(cloud, taken)
    cloud.run("sbatch", "--wait", "--partition=spot", f"--nodelist={taken}", "--output=/dev/null", "--wrap=true")


def test_a_machine_that_vanishes_from_a_pool_of_spot_machines_costs_its_tasks_nothing(cloud, shared):
    flag = shared / "flag"
    assert toil.compute(die_once(str(flag)), cluster=slurm("spot"), store=shared / "run", **ONCE) == "done"
    assert flag.read_text() in ("spot-0", "spot-1")


def test_a_task_waits_at_no_cost_while_the_cloud_has_no_machine(cloud, shared, caplog):
    cloud.run("scontrol", "update", "nodename=cpu-0", "state=drain", "reason=test")
    try:
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(toil.compute, where(1), cluster=slurm("none"), store=shared / "run", **ONCE)
            wait_for(lambda: cloud.log().count("none-0: no capacity for rare") > 1, "the cloud to be asked twice", 120)
            cloud.run("scontrol", "update", "nodename=cpu-0", "state=resume")
            assert run.result(timeout=200)[0] == 1
    finally:
        cloud.run("scontrol", "update", "nodename=cpu-0", "state=resume", check=False)


@contextmanager
def process_of(store: Store) -> Iterator[int]:
    """A process that works for a run on this machine, and leaves unpacked code there."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        node.begin(store)
        node.code_dir(store.url).mkdir(parents=True)
        os.write(writer, b".")
        signal.pause()
    os.read(reader, 1)
    try:
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def test_the_epilog_of_a_runs_last_job_removes_what_the_run_has_left(cloud, monkeypatch):
    cloud.work.mkdir(exist_ok=True)
    monkeypatch.setenv("TOILFN_WORK_DIR", str(cloud.work))
    alive, queued, gone = (open_store(f"memory://epilog-{name}") for name in ("alive", "queued", "gone"))
    for store in (queued, gone):
        with process_of(store):
            pass
    job = ["sbatch", "--parsable", "--partition=all", "--output=/dev/null"]
    held = cloud.run(*job, "--hold", f"--job-name={jobs_name(queued)}-7", "--wrap=true").strip()
    with process_of(alive):
        cloud.run(*job, "--wrap=true")
        wait_for(lambda: not node.code_dir(gone.url).exists(), "the epilog")
        assert node.code_dir(alive.url).exists()
        assert node.code_dir(queued.url).exists()
    cloud.run("scancel", held)
    cloud.run(*job, "--wrap=true")
    wait_for(lambda: not any(node.code_dir(store.url).exists() for store in (alive, queued)), "the next epilog")
    assert "DRAIN" not in cloud.state("cpu-0") + cloud.state("cpu-1")


def test_clean_names_the_nodes_that_it_cannot_reach(cloud, shared, monkeypatch, capsys):
    toil.compute(where(1), store=shared / "run", cluster=slurm("all"))
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "login")
        assert main(["clean", "--yes", str(shared / "run")]) == 0
    assert f"could not reach {socket.gethostname()}:" in capsys.readouterr().out
    toil.compute(where(1), store=shared / "here", cluster="inline", set_env={"SLURMD_NODENAME": "none"})
    assert main(["clean", "--yes", str(shared / "here")]) == 0
    assert "could not reach" not in capsys.readouterr().out


@toil.task(cores=2, memory="500M", disk="100M")
def first_half(flag):
    Path(flag).touch()
    while not Path(f"{flag}.go").exists():
        time.sleep(0.1)
    return 1


@toil.task(cores=2, memory="500M", disk="100M")
def second_half(x, i):
    return x, i


def test_nodes_are_started_before_the_tasks_that_need_them_are_ready(cloud, shared):
    """The second node boots while the only task of the first stage still runs."""
    timed = toil.compute(first_half(ready(shared / "timed")), store=shared / "run", cluster="inline")
    assert timed == 1
    wait_for(lambda: not any(map(cloud.exists, ("cpu-0", "cpu-1"))), "the nodes to be gone")
    before = first_half(str(shared / "flag"))
    with ThreadPoolExecutor(1) as pool:
        last = [second_half(before, i) for i in range(2)]
        run = pool.submit(toil.compute, last, store=shared / "run", cluster=slurm("all"))
        try:
            wait_for((shared / "flag").exists, "the first task to run")
            demand = RunDemand(open_store(shared / "run", create=False), 600.0)
            chosen: list[str] = []
            wait_for(lambda: chosen.extend(start_ahead(demand, 600.0, 0.0, time.time(), "all") or ()) or chosen, "it")
            assert len(chosen) == 1
            wait_for(lambda: cloud.exists("cpu-0") and cloud.exists("cpu-1"), "the other node")
            assert not run.done()
        finally:
            (shared / "flag.go").touch()
        assert run.result() == [(1, 0), (1, 1)]
    assert start_ahead(demand, 600.0, 0.0, time.time(), "all") is None


def ready(flag: Path) -> str:
    flag.with_name(f"{flag.name}.go").touch()
    return str(flag)
