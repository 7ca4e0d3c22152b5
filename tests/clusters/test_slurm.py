"""Slurm for real: how it ends jobs, and how it says so."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

import toilfn as toil
from tests.servers.fixtures import alone, slurm, slurm_server
from tests.servers.standins import StandIns
from toilfn.cli import main
from toilfn.clusters.base import Batch, JobState, Refusal, RunContext, SubmissionError
from toilfn.clusters.slurm import STATES, SlurmCluster, accounting_answer, queue_answer
from toilfn.errors import ClusterError
from toilfn.ids import Cause
from toilfn.resources import Accelerator, Resources

__all__ = ["alone", "slurm", "slurm_server"]

SHAPE = Resources(cores=1, memory=200 * 2**20, disk=2**20)


@pytest.fixture
def opened(slurm, tmp_path, request):
    """Make open clusters whose jobs run a shell script; closed at the end."""
    clusters = []

    def make(script="sleep 300", **settings):
        (tmp_path / "job.sh").write_text(script)
        settings = {"poll_interval": 0.3, "worker_command": ("sh", str(tmp_path / "job.sh"))} | settings
        cluster = SlurmCluster(**settings)
        cluster.open(RunContext(str(tmp_path), re.sub(r"\W", "-", request.node.name), {}))
        clusters.append(cluster)
        return cluster

    yield make
    for cluster in clusters:
        cluster.close()


def submitted(cluster, *names, shape=SHAPE):
    return cluster.submit([Batch(name, name, shape) for name in names])


def wait(cluster, job, state, limit=90):
    """The update that brings a job into a state."""
    end = time.monotonic() + limit
    while True:
        for update in cluster.poll(1.0):
            if update.job == job and update.state is state:
                return update
        assert time.monotonic() < end, cluster._live


def running(cluster, *names, shape=SHAPE):
    jobs = submitted(cluster, *names, shape=shape)
    waiting = set(jobs)
    while waiting:
        waiting -= {update.job for update in cluster.poll(1.0) if update.state is JobState.RUNNING}
    return jobs


def test_a_preempted_job_says_so(slurm, opened):
    """A job of a higher tier takes all of the node."""
    cluster = opened(partition="patient")
    (job,) = running(cluster, "low")
    urgent = opened(partition="urgent")
    submitted(urgent, "high", shape=Resources(cores=4, memory=2**27))
    assert wait(cluster, job, JobState.ENDED).cause is Cause.PREEMPTED


def test_a_lost_node_says_so(slurm, opened):
    cluster = opened(partition="fragile")
    (job,) = running(cluster, "a")
    slurm.run("scontrol", "update", "NodeName=n3", "State=DOWN", "Reason=test")
    try:
        update = wait(cluster, job, JobState.ENDED)
    finally:
        slurm.run("scontrol", "update", "NodeName=n3", "State=RESUME", check=False)  # it may be back by itself
    assert update.cause is Cause.LOST
    assert "NODE_FAIL" in update.detail


def test_a_job_that_is_cancelled_while_it_waits_never_started(slurm, opened):
    cluster = opened()
    (job,) = submitted(cluster, "a", shape=Resources(cores=1, memory=2**27))
    slurm.run("scontrol", "hold", job, check=False)
    slurm.run("scancel", job)
    update = wait(cluster, job, JobState.ENDED)
    assert update.cause is Cause.LOST
    assert "CANCELLED" in update.detail


@pytest.mark.slow
def test_a_controller_that_stops_and_starts_costs_nothing(alone, slurm, opened):
    """Running jobs go on meanwhile, and what is submitted then waits."""
    cluster = opened("sleep 1")
    first = running(cluster, "a", "b")
    slurm.stop_controller()
    try:
        assert cluster.poll(1.0) == []
        time.sleep(2)
    finally:
        slurm.start_controller()
    second = submitted(cluster, "c")
    for job in (*first, *second):
        if job in cluster._live:
            assert wait(cluster, job, JobState.ENDED).cause is None


def test_nodes_are_counted_by_state(slurm, opened):
    nodes = opened().nodes()
    assert sum(nodes.values()) == len(slurm.nodes)
    assert set(nodes) <= {"idle", "mixed", "allocated", "completing", "drained", "draining", "down"}


def test_the_walltime_is_named(slurm, opened):
    """Slurm counts in minutes and looks twice in one, so the test brings the end nearer."""
    cluster = opened()
    (job,) = running(cluster, "a", shape=Resources(cores=1, memory=2**27, walltime=1))
    slurm.run("scontrol", "update", f"JobId={job}", "EndTime=now+1")
    assert wait(cluster, job, JobState.ENDED).cause is Cause.WALLTIME


def test_sacct_knows_what_squeue_has_forgotten(slurm, opened):
    cluster = opened("case $2 in ok) exit 0;; *) exit 6;; esac")
    jobs = submitted(cluster, "ok", "fail")
    for job in jobs:
        if job in cluster._live:
            wait(cluster, job, JobState.ENDED)
    base = cluster.split(jobs[0])[0]
    end = time.monotonic() + 20
    while (found := cluster.account([base])).keys() != set(jobs):
        assert time.monotonic() < end, found
        time.sleep(0.2)
    assert [found[job].cause for job in jobs] == [None, Cause.ERROR]


def test_jobs_get_accelerators(slurm, opened, tmp_path):
    cluster = opened('echo "$SLURM_JOB_GPUS" > "$1/gpus"')
    (job,) = submitted(cluster, "a", shape=Resources(1, 2**27, 2**20, (Accelerator(2, model="k80"),)))
    assert wait(cluster, job, JobState.ENDED).cause is None
    assert (tmp_path / "gpus").read_text() == "0,1\n"


def test_refusals_contain_slurms_message_and_the_script(slurm, opened):
    cluster = opened(partition="nosuch")
    with pytest.raises(ClusterError, match=r"(?s)invalid partition specified: nosuch.*#SBATCH --partition=nosuch"):
        submitted(cluster, "a")
    huge = opened()
    with pytest.raises(ClusterError, match=r"(?s)Memory specification can not be satisfied.*#SBATCH --mem=1000000M"):
        submitted(huge, "a", shape=Resources(memory=10**6 * 2**20))


def held(cluster, job, limit=60):
    """Wait until the leader is told that a job may never start; give that."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        for update in cluster.poll(1.0):
            assert (update.job, update.state) == (job, JobState.QUEUED)
            if update.is_held:
                return update
    raise AssertionError("nothing was said")


def test_a_task_that_may_wait_for_ever_is_reported(slurm, opened):
    cluster = opened()
    (job,) = submitted(cluster, "a", shape=Resources(cores=1000, memory=2**27))
    assert "PENDING PartitionConfig" in held(cluster, job).detail


def test_a_dependency_that_is_never_satisfied_is_reported(slurm, opened):
    failed = slurm.run("sbatch", "--parsable", "--output=/dev/null", "--mem=10", "--wrap=exit 1").strip()
    cluster = opened(job_extra_directives=[f"--dependency=afterok:{failed}"])
    (job,) = submitted(cluster, "a")
    assert "PENDING DependencyNeverSatisfied" in held(cluster, job).detail


def test_a_site_without_accounting_knows_no_more(slurm, opened, tmp_path, monkeypatch):
    cluster = opened()
    text = (slurm.folder / "slurm.conf").read_text()
    (tmp_path / "slurm.conf").write_text(text.replace("accounting_storage/slurmdbd", "accounting_storage/none"))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert cluster.account(["1"]) == {}


def test_a_node_that_vanishes_under_a_preemptible_job_has_preempted_it(alone, slurm, opened):
    cluster = opened(partition="fragile")
    (job,) = running(cluster, "a", shape=replace(SHAPE, preemptible=True))
    slurm.run("scontrol", "update", "NodeName=n3", "State=DOWN", "Reason=test")
    try:
        assert wait(cluster, job, JobState.ENDED).cause is Cause.PREEMPTED
    finally:
        slurm.run("scontrol", "update", "NodeName=n3", "State=RESUME", check=False)


def test_a_node_that_vanishes_under_a_preemptible_job_that_was_adopted_has_preempted_it(alone, slurm, opened):
    first = opened(partition="fragile")
    (job,) = running(first, "a", shape=replace(SHAPE, preemptible=True))
    first.leave()
    second = opened(partition="fragile")
    assert second.list(second.context.workflow) == {job: "a"}
    slurm.run("scontrol", "update", "NodeName=n3", "State=DOWN", "Reason=test")
    try:
        assert wait(second, job, JobState.ENDED).cause is Cause.PREEMPTED
    finally:
        slurm.run("scontrol", "update", "NodeName=n3", "State=RESUME", check=False)


def test_arrays_keep_to_the_sites_limit(slurm, opened):
    assert opened()._array_limit == 1001
    assert opened(max_array_size=7)._array_limit == 7


def test_a_log_directory_that_slurm_cannot_write_to_is_refused(slurm, opened, tmp_path):
    with pytest.raises(SubmissionError, match="backslash") as caught:
        submitted(opened(log_directory=str(tmp_path / "a\\b")), "a")
    assert caught.value.refusal is Refusal.FINAL


def squeue(job, state, code="0", nodes="n1", reason="None"):
    """A line as squeue 22.05 writes it."""
    return f"{job:<64}{state:<32}{code:<16}{nodes:<64}{reason:<256}"


@pytest.mark.parametrize(
    ("line", "state", "cause", "detail"),
    [
        (squeue("9_0", "COMPLETED"), JobState.ENDED, None, "COMPLETED, on n1"),
        (squeue("9_1", "FAILED", "768", reason="NonZeroExitCode"), JobState.ENDED, Cause.ERROR, "exit status 3"),
        (squeue("9_4", "FAILED", "11", reason="JobLaunchFailure"), JobState.ENDED, Cause.ERROR, "signal 11"),
        (squeue("9_2", "FAILED", "9", reason="JobLaunchFailure"), JobState.ENDED, Cause.LOST, "signal 9"),
        (squeue("9_5", "CANCELLED", "15"), JobState.ENDED, Cause.LOST, "CANCELLED"),
        (squeue("9", "CANCELLED", "0", ""), JobState.ENDED, Cause.LOST, "before it started"),
        (squeue("9", "OUT_OF_MEMORY", "125"), JobState.ENDED, Cause.MEMORY, "OUT_OF_MEMORY"),
        (squeue("9", "TIMEOUT", "0", reason="TimeLimit"), JobState.ENDED, Cause.WALLTIME, "TimeLimit"),
        (squeue("9", "PENDING", nodes="", reason="Resources"), JobState.QUEUED, None, "PENDING Resources"),
        (squeue("9", "A_NEW_WORD"), JobState.UNKNOWN, None, "A_NEW_WORD"),
    ],
)
def test_squeues_lines_are_understood(line, state, cause, detail):
    (found,) = queue_answer(line).values()
    assert (found.state, found.cause) == (state, cause)
    assert detail in found.detail


@pytest.mark.parametrize(
    ("line", "job", "cause"),
    [
        ("9_0|COMPLETED|0:0|n1", "9_0", None),
        ("9_1|FAILED|3:0|n1", "9_1", Cause.ERROR),
        ("9_2|FAILED|0:9|n1", "9_2", Cause.LOST),
        ("9_5|CANCELLED by 0|0:0|n2", "9_5", Cause.LOST),
        ("10|OUT_OF_MEMORY|0:125|n2", "10", Cause.MEMORY),
        ("11|CANCELLED by 0|0:0|None assigned", "11", Cause.LOST),
    ],
)
def test_saccts_lines_are_understood(line, job, cause):
    ((id_, found),) = accounting_answer(line).items()
    assert (id_, found.cause) == (job, cause)


def test_only_one_state_is_a_success():
    well = [word for word, row in STATES.items() if row.state is JobState.ENDED and row.cause is None]
    assert well == ["COMPLETED"]


def test_results_do_not_wait_for_a_sites_epilog(slurm, opened, tmp_path, monkeypatch):
    """What a job has answered counts while it is still COMPLETING."""
    kit = StandIns(tmp_path / "kit", "squeue")
    monkeypatch.setenv("PATH", kit.path)
    cluster = opened("sleep 1")
    (job,) = running(cluster, "a")
    kit.always("squeue", """"$real" "$@" | sed 's/COMPLETED /COMPLETING/;s/RUNNING   /COMPLETING/'; exit 0""")
    end = time.monotonic() + 30
    while not any(update.is_ending and update.state is JobState.RUNNING for update in cluster.poll(1.0)):
        assert time.monotonic() < end
    kit.always("squeue", "")
    assert wait(cluster, job, JobState.ENDED).cause is None


# Jobs of another cluster, which only answers to its name: here the same one again.
SUBMIT = """id=$("$real" "$@") || exit; echo "$id;elsewhere"; exit 0\n"""
ASK = """\
case " $* " in *" --clusters=elsewhere "*) ;; *) exit 0 ;; esac
for word do shift; case $word in --clusters=elsewhere) ;; *) set -- "$@" "$word" ;; esac; done
echo "CLUSTER: elsewhere"
"$real" "$@" | sed 's/|toilfn *|/|elsewhere|/'
exit 0
"""


@pytest.mark.parametrize("given", [{"submit_args": ["-M", "elsewhere"]}, {"clusters": "elsewhere"}, {}])
def test_jobs_of_another_cluster_are_asked_for_there(slurm, opened, tmp_path, monkeypatch, given):
    kit = StandIns(tmp_path / "kit", "sbatch", "squeue", "sacct", "scancel")
    monkeypatch.setenv("PATH", kit.path)
    if not given:
        monkeypatch.setenv("SLURM_CLUSTERS", "elsewhere")
    drop = """for word do shift; case $word in -M|elsewhere) ;; *) set -- "$@" "$word" ;; esac; done\n"""
    kit.always("sbatch", f"unset SLURM_CLUSTERS\n{drop}{SUBMIT}")
    for command in ("squeue", "sacct", "scancel"):
        kit.always(command, f"unset SLURM_CLUSTERS\n{ASK}")
    cluster = opened("case $2 in sleep*) exec sleep 300;; esac", job_directives_skip=["--clusters"], **given)
    jobs = submitted(cluster, "sleep", "ok")
    assert [job.rpartition(";")[2] for job in jobs] == ["elsewhere", "elsewhere"]
    assert cluster.arrived(cluster._live[jobs[0]].name) == cluster.split(jobs[0])[0]
    assert wait(cluster, jobs[1], JobState.ENDED).cause is None
    address = cluster.address()
    monkeypatch.delenv("SLURM_CLUSTERS", raising=False)
    successor = SlurmCluster(**address, poll_interval=0.3)
    successor.open(cluster.context)
    assert successor.list(cluster.context.workflow) == {jobs[0]: "sleep"}
    successor.kill([jobs[0]])
    assert wait(successor, jobs[0], JobState.ENDED).cause is Cause.LOST
    assert wait(cluster, jobs[0], JobState.ENDED).cause is Cause.LOST


HABITS = {
    "SBATCH_JOB_NAME": "mine", "SBATCH_PARTITION": "nosuch", "SBATCH_ARRAY_INX": "1-3", "SBATCH_OUTPUT": "/nowhere",
    "SQUEUE_PARTITION": "nosuch", "SQUEUE_STATES": "PENDING", "SQUEUE_USERS": "nobody", "SQUEUE_NAMES": "mine",
    "SQUEUE_FORMAT2": "JobID", "SACCT_FORMAT": "JobName", "SCANCEL_STATE": "PENDING", "SCANCEL_NAME": "mine",
    "SLURM_JOB_ID": "1", "SLURM_JOBID": "1", "SLURM_MEM_PER_CPU": "1", "SLURM_MEM_PER_NODE": "1", "SLURM_NTASKS": "40",
    "SLURM_NNODES": "40", "SLURM_CPUS_PER_TASK": "40", "SLURM_TRES_PER_TASK": "cpu:40", "SLURM_NODELIST": "n9",
    "SLURM_CPU_BIND": "nonsense", "SLURM_DISTRIBUTION": "nonsense", "SLURM_EXPORT_ENV": "NONE",
}  # fmt: skip


def test_the_environments_habits_and_an_enclosing_job_change_nothing(slurm, opened, monkeypatch, caplog, tmp_path):
    """Also for the commands that a task runs."""
    for name, value in HABITS.items():
        monkeypatch.setenv(name, value)
    script = 'case $2 in a) srun --immediate=60 sh -c "echo srun works" > "$1/srun" 2>&1 ;; *) exec sleep 300 ;; esac'
    cluster = opened(script)
    assert (
        "ignoring environment variables SBATCH_ARRAY_INX, SBATCH_JOB_NAME, SBATCH_OUTPUT, SBATCH_PARTITION;"
        in caplog.text
    )
    assert "TOILFN_SLURM_ARGS" in caplog.text
    (job,) = submitted(cluster, "a")
    assert wait(cluster, job, JobState.ENDED).cause is None
    assert (tmp_path / "srun").read_text() == "srun works\n"
    (job,) = submitted(cluster, "b")
    successor = opened(script)
    assert successor.list(cluster.context.workflow) == {job: "b"}
    successor.kill([job])
    assert wait(successor, job, JobState.ENDED).cause is Cause.LOST


def test_arguments_in_toilfn_slurm_args_are_used(slurm, opened, monkeypatch, tmp_path):
    monkeypatch.setenv("TOILFN_SLURM_ARGS", "--comment='on purpose' --export=ALL,A=b")
    cluster = opened('printenv A > "$1/a"')
    (job,) = submitted(cluster, "a")
    assert wait(cluster, job, JobState.ENDED).cause is None
    assert (tmp_path / "a").read_text() == "b\n"


@pytest.mark.parametrize("name", ["", " ", "\t", "a\nb", "7_[0-3] toilfn-x-12345678", "x" * 300])
def test_other_jobs_of_the_user_do_not_matter(slurm, opened, name, tmp_path):
    slurm.run("sbatch", f"--job-name={name}", "--output=/dev/null", "--wrap=sleep 3", "--mem=10")
    cluster = opened("true")
    assert cluster.list(cluster.context.workflow) == {}
    (job,) = submitted(cluster, "a")
    assert wait(cluster, job, JobState.ENDED).cause is None


def test_a_hold_is_reported_and_waited_for(slurm, opened):
    cluster = opened("true", job_extra_directives=["--hold"])
    (job,) = submitted(cluster, "a")
    assert "PENDING JobHeldUser" in held(cluster, job).detail
    slurm.run("scontrol", "release", job)
    assert wait(cluster, job, JobState.ENDED).cause is None


@toil.task
def doubled(number):
    return 2 * number


def test_a_store_can_be_cleaned_and_used_again(slurm, tmp_path):
    store = tmp_path / "store"
    for number in range(2):
        assert toil.compute(doubled(number), store=store, cluster=SlurmCluster()) == 2 * number
        assert main(["clean", "--yes", str(store)]) == 0
    assert not store.exists()
