"""The refusals of batch systems: their own words reach the user, with the command and the script."""

from __future__ import annotations

import pytest

import toilfn as toil
from tests.servers.fake.systems import system
from tests.servers.fixtures import alone, gridengine, gridengine_server, slurm, slurm_server
from toilfn.clusters import cluster_class
from toilfn.clusters.base import Batch, RunContext
from toilfn.errors import ClusterError
from toilfn.resources import Resources

__all__ = ["alone", "gridengine", "gridengine_server", "slurm", "slurm_server"]

SMALL = Resources(cores=1, memory=2**27, disk=2**20)
LARGE = Resources(cores=1, memory=2**40, disk=2**20)


@pytest.fixture
def refusal(tmp_path):
    """Submit what must be refused; give the error's text, after a look at what it always has."""
    opened = []

    def submit(cluster, resources):
        cluster.open(RunContext(str(tmp_path), "wf"))
        cluster.submit([Batch("the batch", "label", resources)])

    def refusal(name, resources=SMALL, **settings):
        cluster = cluster_class(name)(**settings)
        opened.append(cluster)
        with pytest.raises(ClusterError) as caught:
            submit(cluster, resources)
        return str(caught.value)

    yield refusal
    for cluster in opened:
        cluster.close()


def has_script(text, directive):
    """Whether the text shows the command and the script."""
    return "The command was: " in text and directive in text.splitlines() and "toilfn_batch='the batch'" in text


def test_slurm(slurm, refusal):
    text = refusal("slurm", partition="nosuch")
    assert "invalid partition specified: nosuch" in text
    assert has_script(text, "#SBATCH --partition=nosuch")
    text = refusal("slurm", LARGE)
    assert "Memory specification can not be satisfied" in text
    assert has_script(text, "#SBATCH --mem=1048576M")
    text = refusal("slurm", submit_args=["--nosuch"])
    assert "unrecognized option '--nosuch'" in text


def test_slurm_in_a_run(slurm, tmp_path):
    """The tasks fail and the error says it all."""
    answer = toil.task(memory="100M")(int)(42)
    with pytest.raises(toil.FailedTasksError) as caught:
        toil.compute(answer, store=tmp_path / "store", cluster=toil.SlurmCluster(partition="nosuch"), progress=False)
    assert "invalid partition specified: nosuch" in str(caught.value)
    assert "#SBATCH --partition=nosuch" in str(caught.value)


def test_grid_engine(gridengine, refusal):
    text = refusal("gridengine", queue="nosuch")
    assert 'requests unknown queue "nosuch"' in text
    assert has_script(text, "#$ -q nosuch")
    text = refusal("gridengine", memory_resources=["nosuch"])
    assert 'unknown resource "nosuch"' in text
    assert has_script(text, "#$ -l nosuch=131072K")


def test_a_limit_of_grid_engines_site(alone, gridengine, refusal):
    with gridengine.limit("max_u_jobs", 1):
        gridengine.run("qsub", "-h", "-b", "y", "-o", "/dev/null", "-j", "y", "sleep", "1")
        try:
            text = refusal("gridengine")
        finally:
            gridengine.run("qdel", "-u", "root")
    assert "only 1 jobs are allowed per user" in text
    assert has_script(text, "#$ -l h_vmem=131072K")


@pytest.mark.parametrize(
    ("name", "settings", "words", "directive"),
    [
        ("lsf", {"job_extra_directives": ["-q nosuch"]}, "nosuch: No such queue. Job not submitted", "#BSUB -q nosuch"),
        ("torque", {"queue": "nosuch"}, "Unknown queue MSG=cannot locate queue", "#PBS -q nosuch"),
        ("torque", {"requirements": "nosuch=1"}, "Illegal attribute or resource value", "#PBS -l nosuch=1"),
        ("pbs", {"queue": "nosuch"}, "Unknown queue", "#PBS -q nosuch"),
        ("htcondor", {"parameters": {"nosuch": "1"}}, "Failed to parse command file", "# condor: nosuch = 1"),
        ("parasol", {"submit_args": ["-nosuch"]}, "-nosuch", "toilfn_batch='the batch'"),
    ],
)
def test_fakes(name, settings, words, directive, refusal):
    for _ in system(name):
        text = refusal(name, **settings)
        assert words in text
        assert has_script(text, directive)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("slurm", "sbatch"), ("gridengine", "qsub"), ("lsf", "bsub"), ("torque", "qsub"), ("pbs", "qsub"),
        ("htcondor", "condor_submit"), ("parasol", "parasol"),
    ],
)  # fmt: skip
def test_a_missing_command_says_where_to_start(name, command, refusal, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    settings = {"bindings": False} if name == "htcondor" else {}
    assert f"command {command!r} not found on this machine's PATH; start the leader where" in refusal(name, **settings)
