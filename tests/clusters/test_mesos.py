"""MesosCluster, against a strict fake of master and agents that runs executors as processes."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clusters.leaders import counts, result, start, wait_for_marks
from tests.clusters.test_workflows import adopts, sorts
from tests.servers.fake.mesos import Agent, FakeMesos
from tests.servers.fake.mesosmessages import CallError
from tests.servers.machine import wait_for
from tests.waiting import end_of
from toilfn.clusters.base import Batch, JobState, RunContext
from toilfn.clusters.mesos.cluster import MesosCluster, amounts, cut, found
from toilfn.clusters.mesos.master import records
from toilfn.clusters.resume import make_again, name_of
from toilfn.clusters.testing import ClusterContract
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Accelerator, Resources

SHAPE = Resources(cores=1, memory=200 * 2**20, disk=2**20)

__all__ = ["start"]


@pytest.fixture
def mesos():
    with FakeMesos().running() as fake:
        yield fake


@pytest.fixture
def make(mesos):
    """Make clusters of this master; all are closed at the end."""
    made = []

    def make(**settings):
        made.append(MesosCluster(**{"endpoint": mesos.address, "poll_interval": 0.1, **settings}))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


class TestMesos(ClusterContract):
    @pytest.fixture
    def make_cluster(self, make):
        return make


def there(mesos, **settings):
    """Settings that find the fake."""
    return {"endpoint": mesos.address, **settings}


def test_merge_sort(mesos, start):
    assert sorts(start, "mesos", cluster=there(mesos)) == {"sort": 7, "merge": 3}
    assert mesos.frameworks == {}


def test_a_killed_leaders_jobs_are_adopted(mesos, start):
    """The next one is the same framework."""
    adopts(start, "mesos", 12, cluster=there(mesos))
    assert mesos.removed == {"framework-1"}


def test_nodes_executors_leaders_and_the_master_fail_at_random(mesos, start):
    """The result is right, and every task ran."""
    rng = random.Random(4)
    settings = {"cluster": there(mesos), "lease_timeout": 4, "lost_retries": 30}
    mesos.agents.append(Agent("agent-3", attributes={"preemptible": "false"}))
    first, marks = start("mesos", "slow", 16, **settings)
    wait_for_marks(first, marks, 3)
    mesos.disconnect()
    time.sleep(1)
    mesos.lose_agent(mesos.agents[0])
    first.kill()
    first.communicate()
    second, _ = start("mesos", "slow", 16, **settings)
    for _ in range(3):
        time.sleep(rng.uniform(0.5, 1.5))
        kill_an_executor(mesos, rng)
        mesos.disconnect()
    assert result(second) == str(sum(range(16)))
    assert set(counts(marks)) == {f"slow-{i}" for i in range(16)}


def kill_an_executor(mesos, rng):
    executors = [e for f in mesos.frameworks.values() for e in f.executors.values() if e.process.poll() is None]
    if executors:
        os.kill(rng.choice(executors).process.pid, signal.SIGKILL)


@pytest.fixture
def opened(make, tmp_path):
    """Open clusters whose jobs run the file ``job.sh``."""

    def opened(script="exit 0", **settings):
        (tmp_path / "job.sh").write_text(script)
        cluster = make(worker_command=("sh", str(tmp_path / "job.sh")), **settings)
        cluster.open(RunContext(str(tmp_path), "wf"))
        return cluster

    return opened


def batch(name="b", shape=SHAPE):
    return Batch(name, name, shape)


WAIT = 'printf x > "$1/started"; while ! test -e "$1/go"; do sleep 0.05; done'


def test_after_a_break_of_the_connection_each_live_task_is_asked_for(mesos, opened, tmp_path):
    cluster = opened(WAIT)
    (job,) = cluster.submit([batch()])
    wait_for((tmp_path / "started").exists, "the job")
    mesos.disconnect()
    wait_for(lambda: cluster.poll(0.1) == [] and "RECONCILE" in mesos.calls, "reconciliation")
    (tmp_path / "go").touch()
    assert end_of(cluster, job).cause is None


def test_a_task_that_the_master_has_forgotten_is_lost(mesos, opened, tmp_path):
    cluster = opened(WAIT)
    (job,) = cluster.submit([batch()])
    wait_for((tmp_path / "started").exists, "the job")
    (framework,) = mesos.frameworks.values()
    del framework.tasks[job]
    mesos.disconnect()
    assert end_of(cluster, job).cause is Cause.LOST


def test_a_lost_node_is_a_lost_job_or_a_preempted_one(mesos, opened, tmp_path):
    for value, cause in (("false", Cause.LOST), ("true", Cause.PREEMPTED)):
        mesos.agents[:] = [Agent(f"agent {value}", attributes={"preemptible": value})]
        (tmp_path / "started").unlink(missing_ok=True)
        cluster = opened(WAIT)
        (job,) = cluster.submit([batch(shape=Resources(1, 2**27, 2**20, preemptible=True))])
        wait_for((tmp_path / "started").exists, "the job")
        mesos.lose_agent(mesos.agents[0])
        update = end_of(cluster, job)
        assert update.cause is cause
        # The answer to a question may come before the news.
        assert "slave removed" in update.detail or "reconciliation" in update.detail
        cluster.close()


@pytest.mark.parametrize("state", ["TASK_LOST", "TASK_GONE", "TASK_GONE_BY_OPERATOR"])
@pytest.mark.parametrize(("is_preemptible", "cause"), [(False, Cause.LOST), (True, Cause.PREEMPTED)])
def test_a_lost_node_is_the_same_when_it_is_learnt_by_asking(state, is_preemptible, cause):
    status = {"state": state, "reason": "REASON_RECONCILIATION"}
    assert found(status, is_preemptible=is_preemptible).cause is cause


def test_nodes_are_chosen_by_their_attributes(mesos, opened, tmp_path):
    """What cannot be taken away is not run where it can; other attributes are as wanted."""
    mesos.agents[:] = [
        Agent("spot", attributes={"preemptible": "true", "rack": "1"}),
        Agent("other", attributes={"rack": "2"}),
        Agent("right", attributes={"rack": "1"}),
    ]
    cluster = opened(attributes={"rack": "1"})
    jobs = cluster.submit([batch(str(number)) for number in range(5)])
    assert [end_of(cluster, job).cause for job in jobs[-1:]] == [None]
    (framework,) = mesos.frameworks.values()
    assert {task.info["agent_id"]["value"] for task in framework.tasks.values()} == {"right"}


def test_reserved_resources_of_the_role_are_used_as_such(mesos, opened):
    mesos.agents[:] = [Agent("one", cpus=4, reserved=3)]
    cluster = opened(role="lab")
    (job,) = cluster.submit([batch(shape=Resources(3.5, 2**27, 2**20))])
    assert end_of(cluster, job).cause is None
    (framework,) = mesos.frameworks.values()
    cpus = [entry for entry in framework.tasks[job].info["resources"] if entry["name"] == "cpus"]
    assert sum(entry["scalar"]["value"] for entry in cpus) == 3.5
    assert any(entry.get("reservations") for entry in cpus)


def test_one_executor_a_node_runs_all_its_tasks_and_cleans_up(mesos, opened, tmp_path):
    mesos.agents[:] = [Agent("one")]
    cluster = opened(env={"WHERE": "a b"}, job_script_prologue=['printf %s "$WHERE" > "$3/where"'])
    jobs = cluster.submit([batch(str(number)) for number in range(6)])
    assert {end_of(cluster, job).cause for job in jobs[-1:]} == {None}
    assert (tmp_path / "where").read_text() == "a b"
    (framework,) = mesos.frameworks.values()
    (executor,) = framework.executors.values()
    cluster.close()
    assert executor.process.wait(20) == 0


def test_at_the_end_nodes_are_cleaned_of_what_dead_workers_left(mesos, make, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    code = "import os; from toilfn.files.scratch import Scratch; Scratch().new_dir(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TOILFN_WORK_DIR": str(work)}, check=False)
    assert left(work)
    cluster = make(worker_command=("true",))
    cluster.open(RunContext(str(tmp_path), "wf", {"TOILFN_WORK_DIR": str(work)}))
    (job,) = cluster.submit([batch()])
    assert end_of(cluster, job).cause is None
    assert left(work)
    cluster.close()
    wait_for(lambda: not left(work), "the executor to clean up")


def left(work):
    """Directories of processes."""
    return [path for path in work.rglob("*") if path.is_dir() and (path / ".lock").exists()]


def test_the_jobs_of_a_dead_leader_are_found_by_address(opened, make, tmp_path):
    cluster = opened(WAIT)
    (job,) = cluster.submit([batch()])
    wait_for((tmp_path / "started").exists, "the job")
    again = make_again(name_of(cluster), cluster.address())
    again.open(cluster.context)
    try:
        assert again.list("wf") == {job: "b"}
        again.kill([job])
        assert end_of(again, job).cause is Cause.LOST
    finally:
        again.close()


def test_the_walltime_is_named(opened):
    cluster = opened("exec sleep 60")
    (job,) = cluster.submit([batch(shape=Resources(1, 2**27, 2**20, walltime=1))])
    assert end_of(cluster, job).cause is Cause.WALLTIME


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"role": "nobody"}, "Role 'nobody' is not present"),
        ({"endpoint": "ftp://host"}, "invalid URL for"),
        ({"endpoint": "127.0.0.1:9"}, "does not respond"),
        ({"principal": "me", "secret": "wrong"}, "TOILFN_MESOS_PRINCIPAL"),
    ],
)
def test_wrong_settings_give_one_clear_error(mesos, opened, monkeypatch, settings, words):
    monkeypatch.setattr("toilfn.clusters.mesos.cluster.START_PATIENCE", 2.0)
    mesos.principal, mesos.secret = ("me", "right") if "secret" in settings else ("", "")
    with pytest.raises((ClusterError, InputError), match=words) as caught:
        opened(**settings)
    assert "wrong" not in str(caught.value)


def test_right_credentials_are_accepted(mesos, opened, monkeypatch):
    mesos.principal, mesos.secret = "me", "right"
    monkeypatch.setenv("TOILFN_MESOS_PRINCIPAL", "me")
    monkeypatch.setenv("TOILFN_MESOS_SECRET", "right")
    cluster = opened()
    (job,) = cluster.submit([batch()])
    assert end_of(cluster, job).cause is None


def test_a_second_leader_ends_the_first_ones_subscription(mesos, make, tmp_path):
    context = RunContext(str(tmp_path), "wf")
    first, second = make(), make()
    first.open(context)
    second.open(context)
    with pytest.raises(ClusterError, match=r"failed over|didn't match"):
        first.submit([batch()])


def test_a_framework_that_was_removed_meanwhile_is_followed_by_a_new_one(mesos, make, tmp_path):
    """As when no leader came back within failover_timeout."""
    context = RunContext(str(tmp_path), "wf")
    context.notes.write("mesos-framework", b"gone")
    mesos.removed.add("gone")
    cluster = make(worker_command=("true",))
    cluster.open(context)
    assert context.notes.read("mesos-framework").decode() in mesos.frameworks
    (job,) = cluster.submit([batch()])
    assert end_of(cluster, job).cause is None
    with pytest.raises(ClusterError, match="has been removed"):
        make(framework_id="gone").open(context)


def test_tasks_of_a_lost_call_are_asked_for_and_count_as_lost(mesos, opened, monkeypatch):
    """Whether its tasks were launched is asked for; what the master does not know is lost, and can run again."""
    monkeypatch.setattr("toilfn.clusters.mesos.cluster._SOON", 0.2)
    cluster = opened()
    monkeypatch.setattr(mesos, "_accept", refuse)
    (job,) = cluster.submit([batch()])
    assert end_of(cluster, job).cause is Cause.LOST
    assert "RECONCILE" in mesos.calls


def refuse(*_):
    raise CallError(503, "No leader elected")


def test_requirements_that_mesos_has_no_name_for_are_refused():
    with pytest.raises(InputError, match="'tpu'"):
        amounts(Resources(accelerators=(Accelerator(1, "tpu"),)))
    assert amounts(Resources(1, 2**30, 2**30, (Accelerator(2),)))["gpus"] == 2


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        ({"state": "TASK_FINISHED"}, None),
        ({"state": "TASK_FAILED", "reason": "REASON_CONTAINER_LIMITATION_MEMORY"}, Cause.MEMORY),
        ({"state": "TASK_FAILED", "reason": "REASON_COMMAND_EXECUTOR_FAILED"}, Cause.ERROR),
        ({"state": "TASK_LOST", "reason": "REASON_EXECUTOR_TERMINATED"}, Cause.LOST),
        ({"state": "TASK_FAILED", "reason": "REASON_CONTAINER_LIMITATION_DISK"}, Cause.ERROR),
        ({"state": "TASK_FAILED", "reason": "REASON_MAX_COMPLETION_TIME_REACHED"}, Cause.WALLTIME),
        ({"state": "TASK_FAILED", "reason": "REASON_EXECUTOR_PREEMPTED"}, Cause.PREEMPTED),
        *(
            ({"state": "TASK_FAILED", "reason": f"REASON_{reason}"}, Cause.LOST)
            for reason in (
                "EXECUTOR_REGISTRATION_TIMEOUT", "EXECUTOR_REREGISTRATION_TIMEOUT", "EXECUTOR_UNREGISTERED",
                "CONTAINER_LAUNCH_FAILED", "CONTAINER_UPDATE_FAILED", "IO_SWITCHBOARD_EXITED", "AGENT_RESTARTED",
                "SLAVE_RESTARTED", "INVALID_OFFERS", "RESOURCES_UNKNOWN",
            )
        ),
        ({"state": "TASK_GONE_BY_OPERATOR"}, Cause.LOST),
        ({"state": "TASK_ERROR", "message": "Task uses invalid agent"}, Cause.ERROR),
    ],
)  # fmt: skip
def test_statuses_are_understood(status, cause):
    assert found(status, is_preemptible=False)[:2] == (JobState.ENDED, cause)


def test_an_unreachable_node_may_come_back():
    assert found({"state": "TASK_UNREACHABLE"}, is_preemptible=False).state is JobState.UNKNOWN


class Slow(io.RawIOBase):
    """Gives bytes in portions of other sizes than were asked for."""

    def __init__(self, data, sizes):
        self._data, self._sizes = io.BytesIO(data), sizes

    def readline(self, size=-1):
        return self._data.readline(size)

    def read(self, size=-1):
        return self._data.read(min(size, self._sizes.pop() if self._sizes else size))


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(1, 9)))
def test_records_are_read_however_they_are_cut(given_records, sizes):
    data = b"".join(b"%d\n" % len(record) + record for record in given_records)
    assert list(records(Slow(data, sizes))) == given_records


@pytest.mark.parametrize("data", [b"abc\n", b"-1\nx", b"5\nabc", b"99999999999999999999\n"])
def test_data_that_is_not_a_record_is_an_error(data):
    with pytest.raises(ClusterError, match="Mesos"):
        list(records(io.BytesIO(data)))


AMOUNTS = st.integers(1, 8000).map(lambda number: number / 1000)


def entry(name, value, role):
    reservations = {"reservations": [{"type": "STATIC", "role": role}]} if role else {}
    return {"name": name, "type": "SCALAR", "scalar": {"value": value}, **reservations}


RESOURCES = st.lists(st.builds(entry, st.sampled_from(["cpus", "mem"]), AMOUNTS, st.sampled_from(["", "lab"])))


@given(RESOURCES, st.dictionaries(st.sampled_from(["cpus", "mem"]), AMOUNTS))
def test_cutting_takes_what_was_asked_or_nothing(offered, asked):
    def total(entries):
        sums = {name: sum(e["scalar"]["value"] for e in entries if e["name"] == name) for name in ("cpus", "mem")}
        return {name: round(value, 3) for name, value in sums.items()}

    before, rest = total(offered), [dict(entry) for entry in offered]
    taken = cut(rest, asked)
    if taken is None:
        assert rest == offered
        assert any(before[name] < amount for name, amount in asked.items())
    else:
        assert total(taken) == {name: asked.get(name, 0) for name in before}
        assert {name: round(total(rest)[name] + total(taken)[name], 3) for name in before} == before
