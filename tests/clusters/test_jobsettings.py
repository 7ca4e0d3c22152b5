"""Settings of clusters have the types that they are documented with, wherever they come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dask
import pytest

from toilfn.clusters.gridengine import GridEngineCluster
from toilfn.clusters.kubernetes.cluster import KubernetesCluster
from toilfn.clusters.slurm import SlurmCluster
from toilfn.errors import InputError


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("submit_args", "--qos=normal --comment='a b'", ["--qos=normal", "--comment=a b"]),
        ("submit_args", ("--qos=normal",), ["--qos=normal"]),
        ("submit_args", "", []),
        ("worker_command", "nice -n 5 python", ["nice", "-n", "5", "python"]),
        ("job_extra_directives", "--reservation=mine", ["--reservation=mine"]),
        ("job_directives_skip", "--time", ["--time"]),
        ("job_script_prologue", "module load python", ["module load python"]),
        ("job_script_epilogue", ["true", "true"], ["true", "true"]),
        ("account", 4711, "4711"),
        ("max_jobs", "7", 7),
        ("walltime", 60, 60),
        ("walltime", "2h", "2h"),
        ("keep_output", "false", False),
        ("keep_output", 1, True),
        ("exclusive", "yes", True),
        ("exclusive", "off", False),
        ("log_directory", Path("/logs"), "/logs"),
        ("partition", {"short": "1h"}, {"short": "1h"}),
    ],
)
def test_settings_get_their_types(name, value, expected):
    (value_read,) = (SlurmCluster(**{name: value}).settings[name],)
    assert (value_read, type(value_read)) == (expected, type(expected))
    with dask.config.set({f"toilfn.slurm.{name}": value}):
        assert SlurmCluster().settings[name] == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("submit_args", 5), ("submit_args", ["a", None]), ("submit_args", {"a": 1}), ("submit_args", "it's"),
        ("job_script_prologue", {"a": "b"}), ("max_jobs", "many"), ("max_jobs", 1.5), ("max_jobs", True),
        ("max_jobs", 0), ("max_jobs", "-1"), ("max_array_size", -5), ("account", 1e5), ("queue", 1.10),
        ("walltime", 0), ("walltime", "soon"), ("poll_interval", "0s"), ("patience", -1),
        ("account", ["a"]), ("account", True), ("exclusive", "perhaps"), ("walltime", ["1h"]), ("partition", 5j),
    ],
)  # fmt: skip
def test_other_types_are_one_clear_error(name, value):
    with pytest.raises(InputError, match=name):
        SlurmCluster(**{name: value})


def test_a_section_that_is_not_a_mapping_is_named():
    with dask.config.set({"toilfn.slurm": "long"}), pytest.raises(InputError, match=r"toilfn\.slurm: 'long' is not"):
        SlurmCluster()


def test_the_environment_and_files_are_read_as_keywords_are(tmp_path, monkeypatch):
    (tmp_path / "toilfn.yaml").write_text(
        "toilfn:\n  slurm:\n    job-script-prologue: module load python\n    account: 4711\n"
    )
    script = "from toilfn.clusters.slurm import SlurmCluster\nprint(SlurmCluster().job_script())"
    variables = {"DASK_CONFIG": str(tmp_path), "DASK_TOILFN__SLURM__JOB_EXTRA_DIRECTIVES": "--qos=normal"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert {"#SBATCH --qos=normal", "#SBATCH --account=4711", "module load python"} <= set(lines)


def test_other_clusters_settings_are_checked_as_well():
    assert GridEngineCluster(memory_resources="h_rss").settings["memory_resources"] == ["h_rss"]
    assert KubernetesCluster(image="i", job_script_prologue="true").settings["job_script_prologue"] == ["true"]
    with pytest.raises(InputError, match="accelerator_labels"):
        KubernetesCluster(image="i", accelerator_labels=5)
    assert KubernetesCluster(image="i", env={"SIZE": 5}).settings["env"] == {"SIZE": "5"}
    with pytest.raises(InputError, match=r"labels\.debug: expected text, got bool True; write it in quotes"):
        KubernetesCluster(image="i", labels={"debug": True})


@pytest.mark.parametrize("name", ["my job", "x" * 101, "a\nb", "a/b", "1st", "Lösung", "a'b", "$HOME", "-x"])
def test_names_that_jobs_cannot_have_are_refused_before_submission(name):
    with pytest.raises(InputError, match="job_name="):
        SlurmCluster(job_name=name)


@pytest.mark.parametrize("name", ["mine", "a&b", "run-1.2", "x" * 100])
def test_other_names_are_taken(name):
    assert SlurmCluster(job_name=name).settings["job_name"] == name


@pytest.mark.parametrize("name", ["account", "partition", "qos", "constraint", "queue", "signal"])
@pytest.mark.parametrize("value", ["my project", "a\n#SBATCH --uid=0", 'a"b', ""])
def test_values_that_directives_cannot_have_are_refused_before_submission(name, value):
    if value or name in ("account", "constraint", "signal"):
        with pytest.raises(InputError, match=r"is not valid in a directive"):
            SlurmCluster(**{name: value})


@pytest.mark.parametrize("value", ["--comment=a\n#SBATCH --uid=0", "a\rb"])
def test_a_directive_is_one_line(value):
    with pytest.raises(InputError, match="job_extra_directives"):
        SlurmCluster(job_extra_directives=[value])


def test_the_users_own_directives_are_not_left_out():
    script = SlurmCluster(job_directives_skip=["--mem", "--nodes"], job_extra_directives=["--mem=5G"]).job_script()
    assert "#SBATCH --mem=5G" in script
    assert "--mem=2" not in script
    assert "--nodes" not in script
