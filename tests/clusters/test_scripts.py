"""The scripts that go to batch systems, whole, as golden files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import dask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toilfn.clusters.base import Batch, RunContext
from toilfn.clusters.common.settings import Submission, batch_names, render
from toilfn.clusters.gridengine import GridEngineCluster
from toilfn.clusters.htcondor import HTCondorCluster
from toilfn.clusters.lsf import LSFCluster
from toilfn.clusters.parasol import ParasolCluster
from toilfn.clusters.pbs import PBSCluster, TorqueCluster
from toilfn.clusters.slurm import SlurmCluster
from toilfn.errors import InputError
from toilfn.resources import Accelerator, Resources

SYSTEMS = [
    SlurmCluster, GridEngineCluster, LSFCluster, TorqueCluster, PBSCluster, HTCondorCluster, ParasolCluster,
]  # fmt: skip
SMALL = Resources(cores=0.5, memory=100_000_000, disk=10**9)
LARGE = Resources(cores=4, memory=8 * 2**30, disk=20 * 2**30, walltime=5400, accelerators=(Accelerator(2 * 2),))
SETTINGS = {
    "python": "/opt/python",
    "account": "lab",
    "job_extra_directives": ["--extra one"],
    "job_script_prologue": ["module load python"],
    "job_script_epilogue": ["echo done"],
}


def written(cluster, resources, *names) -> str:
    """What would be submitted, with the command and what it reads."""
    batches = tuple(Batch(name, "label", resources) for name in names)
    submission = Submission("toilfn-0a1b-7f", batches, resources, "/shared/it's logs/toilfn-0a1b-7f")
    cluster._context = RunContext("/shared/it's store", "toilfn-0a1b", {"NAME": "a $b"})
    cluster.log_directory = Path("/shared/logs")
    script = cluster.script(submission)
    path = Path(f"{submission.log}.sh")
    shown = [f"$ {' '.join(cluster.submit_command(submission, path))}"] if cluster.name != "parasol" else []
    given = cluster.submit_input(path, script)
    return "\n".join([*shown, *([given] if given != script else []), script])


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_scripts_are_unchanged(system):
    """If the change is meant, remove the file and run the test again."""
    golden = Path(__file__).parent / "scripts" / f"{system.name}.txt"
    single = written(system(python="/opt/python"), SMALL, "it's one")
    many = written(system(**SETTINGS), LARGE, "1-1", "1-2", "it's; $x") if system is not ParasolCluster else ""
    text = f"{single}\n==== an array, with all settings ====\n{many}"
    if not golden.exists():
        golden.write_text(text)
        pytest.fail(f"{golden} was missing and is written now: look at it, and keep it if it is right")
    assert text == golden.read_text(), f"if this is meant, remove {golden} and run the test again"


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_scripts_are_valid_for_the_shell(system):
    script = system(**SETTINGS).job_script()
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


@given(st.lists(st.text(st.characters(exclude_characters="\0\n\r", codec="utf-8"), min_size=1), min_size=1, max_size=8))
def test_each_element_finds_its_own_batch(names):
    """Whatever the names: the shell sees them, and a leader that comes back reads them."""
    batches = tuple(Batch(name, "", SMALL) for name in names)
    script = render(
        Submission("name", batches, SMALL, "log"), shell="/bin/sh", directives=[], index="INDEX", first=5,
        command=["printf", "%s"], environment={}, output=None, prologue=[], epilogue=[],
    )  # fmt: skip
    assert batch_names(script) == names
    number = len(names) - 1
    shown = subprocess.run(["sh", "-c", script], env={"INDEX": str(5 + number)}, capture_output=True, check=True)
    assert shown.stdout.decode() == names[number]


def test_an_epilogue_runs_after_failures_and_keeps_the_status():
    script = render(
        Submission("name", (Batch("b", "", SMALL),), SMALL, "log"), shell="/bin/sh", directives=[], index="", first=0,
        command=["sh", "-c", "exit 7"], environment={}, output=None, prologue=[], epilogue=["echo after"],
    )  # fmt: skip
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "after\n")


def slurm(resources=SMALL, **settings) -> str:
    batch = Batch("b", "", resources)
    return SlurmCluster(**settings).script(Submission("n", (batch,), resources, "log"))


def test_slurm_takes_the_partition_that_the_walltime_fits_in():
    partitions = {"long": "7d", "short": "1h"}
    assert "--partition=short" in slurm(Resources(walltime=3600), partition=partitions)
    assert "--partition=long" in slurm(Resources(walltime=3601), partition=partitions)
    assert "--partition=long" in slurm(partition=partitions)
    assert "--partition=short" in slurm(partition=partitions, walltime="30m")


def test_slurm_has_partitions_for_special_tasks(monkeypatch):
    settings = {"partition": "cpu", "gpu_partition": "gpu", "gpu_qos": "fast", "preemptible_partition": "spot"}
    assert "--partition=cpu" in slurm(**settings)
    gpu = slurm(Resources(accelerators=(Accelerator(2, model="a100"),)), **settings)
    assert "--gres=gpu:a100:2" in gpu
    assert "--partition=gpu" in gpu
    assert "--qos=fast" in gpu
    assert "--partition=spot" in slurm(Resources(preemptible=True), **settings)
    monkeypatch.setenv("TOILFN_SLURM_PE", "multicore")
    assert "--partition=multicore" in slurm(Resources(cores=2), **settings)


def test_slurm_asks_for_memory_as_the_site_wants():
    four = Resources(cores=4, memory=8 * 2**30)
    assert "--mem=8192M" in slurm(four)
    assert "--mem-per-cpu=2048M" in slurm(four, memory_per="cpu")
    assert "--mem" not in slurm(four, memory_per="none")
    assert {"#SBATCH --exclusive", "#SBATCH --mem=0"} <= set(slurm(four, whole_node=True).splitlines())
    with pytest.raises(InputError, match="'node', 'cpu' and 'none'"):
        SlurmCluster(memory_per="core")


def test_directives_can_be_left_out():
    assert "--mem" not in slurm(job_directives_skip=["--mem"])


def test_settings_come_from_the_configuration_too(monkeypatch):
    with dask.config.set({"toilfn.slurm": {"partition": "long", "job-extra-directives": ["--reservation=x"]}}):
        script = slurm()
    assert "#SBATCH --partition=long" in script
    assert "#SBATCH --reservation=x" in script
    monkeypatch.setenv("TOILFN_GRIDENGINE_ARGS", "-q 'batch q'")
    assert GridEngineCluster().submit_args() == ["-q", "batch q"]
    monkeypatch.setenv("TOILFN_TORQUE_REQS", "walltime=1:00:00")
    assert "#PBS -l walltime=1:00:00" in TorqueCluster().job_script()
    monkeypatch.setenv("TOILFN_HTCONDOR_PARAMS", "requirements = A == 1; accounting_group = x")
    assert "# condor: requirements = A == 1\n# condor: accounting_group = x" in HTCondorCluster().job_script()


def test_a_setting_that_does_not_exist_lists_those_that_do():
    with pytest.raises(TypeError, match=r"SlurmCluster has no setting 'partion'; it has: .*partition"):
        SlurmCluster(partion="long")


def test_grid_engine_shares_memory_and_accelerators_among_slots():
    four = Resources(cores=4, memory=8 * 2**30)
    batch = Batch("b", "", four)
    submission = Submission("n", (batch,), four, "log")
    assert "#$ -l h_vmem=2097152K" in GridEngineCluster().script(submission)
    assert "#$ -l h_vmem=8388608K" in GridEngineCluster(memory_is_per_slot=False).script(submission)
    assert "vmem" not in GridEngineCluster(memory_resources=[]).script(submission)
    odd = Resources(cores=4, accelerators=(Accelerator(2),))
    with pytest.raises(InputError, match="2 is not divisible by 4 cores"):
        GridEngineCluster().script(Submission("n", (Batch("b", "", odd),), odd, "log"))


def test_lsf_counts_memory_in_the_sites_unit(tmp_path, monkeypatch):
    (tmp_path / "lsf.conf").write_text("# x\nLSF_UNIT_FOR_LIMITS=GB\n")
    assert "#BSUB -M 2097152" in LSFCluster().job_script()
    monkeypatch.setenv("LSF_ENVDIR", str(tmp_path))
    assert "#BSUB -M 2\n" in LSFCluster().job_script()
    assert "#BSUB -M 2048\n" in LSFCluster(units="MB").job_script()
    with pytest.raises(InputError, match="units='XB'"):
        LSFCluster(units="XB")
