"""Flags of clusters, profiles, `config show`, `init`, completion."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import dask.config
import pytest

import toilfn as toil
from tests.commands import toilfn
from tests.servers.fixtures import slurm, slurm_server
from toilfn.clusters import make_cluster
from toilfn.clusters.common.settings import SECTIONS, settings_of
from toilfn.clusters.local.cluster import LocalCluster
from toilfn.clusters.slurm import SlurmCluster
from toilfn.config.settings import SETTINGS_VARIABLE, Settings, add_options, from_options
from toilfn.errors import InputError

__all__ = ["slurm", "slurm_server"]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)


def flags(*arguments: str) -> dict[str, object]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    return from_options(parser.parse_args(arguments))


def test_flags_become_settings_of_the_cluster() -> None:
    given = flags(
        "--slurm-partition", "long", "--slurm-max-jobs", "3", "--slurm-exclusive", "--slurm-submit-args", "--nice=1 -H",
        "--slurm-submit-args=-v", "--kubernetes-labels", "a=b", "--kubernetes-labels=c=d=e", "--no-slurm-keep-output",
    )  # fmt: skip
    assert given["cluster_settings"] == {
        "slurm": {
            "partition": "long", "max_jobs": 3, "exclusive": True, "submit_args": ["--nice=1", "-H", "-v"],
            "keep_output": False,
        },
        "kubernetes": {"labels": {"a": "b", "c": "d=e"}},
    }  # fmt: skip
    cluster = make_cluster(Settings.resolve(cluster="slurm", **given))
    assert isinstance(cluster, SlurmCluster)
    assert (cluster.settings["partition"], cluster.max_jobs) == ("long", 3)


def test_partitions_with_longest_times_are_a_mapping() -> None:
    given = flags("--slurm-partition", "short=1h", "--slurm-partition", "long=7d")
    assert given["cluster_settings"] == {"slurm": {"partition": {"short": "1h", "long": "7d"}}}


def test_the_local_clusters_flags_have_no_prefix() -> None:
    cluster = make_cluster(
        Settings.resolve(**flags("--cores", "1", "--memory", "1Gi", "--disk", "2Gi", "--workers", "3"))
    )
    assert isinstance(cluster, LocalCluster)
    assert (cluster._cores, cluster._memory, cluster._disk) == (1.0, 2**30, 2**31)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_of_every_cluster_is_a_flag_with_help(section: str) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    known = {word: action for action in parser._actions for word in action.option_strings}
    for name in settings_of(section):
        short = section == "local" and name in ("cores", "memory", "disk")
        action = known[f"--{name}" if short else f"--{section}-{name.replace('_', '-')}"]
        assert action.help, name


def test_the_help_of_flags_keeps_the_capitals_of_names() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    helps = {word: str(action.help) for action in parser._actions for word in action.option_strings}
    assert helps["--awsbatch-region"].startswith("AWS region")
    assert helps["--tes-endpoint"].startswith("URL of the server")
    assert helps["--tes-python"].startswith("Python interpreter")
    assert helps["--kubernetes-ttl"].startswith("how long")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--slurm-max-jobs", "many"], "'many' is not a number"),
        (["--kubernetes-labels", "a"], "write NAME=VALUE"),
    ],
)
def test_a_wrong_value_is_an_error_of_the_flag(words: list[str], message: str) -> None:
    with pytest.raises(argparse.ArgumentError, match=message):
        flags(*words)


def test_a_section_with_an_unknown_setting_names_the_nearest() -> None:
    wanted = Settings.resolve(cluster="slurm", cluster_settings={"slurm": {"partiton": "x"}})
    with pytest.raises(InputError, match="cluster slurm has no setting 'partiton'; did you mean 'partition'"):
        make_cluster(wanted)


CONFIG = """\
toilfn:
  retries: 2
  slurm: {qos: file}
  profiles:
    hpc:
      cluster: slurm
      max-jobs: 5
      retries: 9
      slurm: {account: lab, partition: main}
"""


def test_profiles_lie_between_files_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = {"max-jobs": 5, "retries": 9, "default-cores": 3, "slurm": {"account": "lab", "qos": "p"}}
    monkeypatch.setenv("DASK_TOILFN__RETRIES", "4")
    with dask.config.set({"toilfn": {"retries": 4, "max-jobs": 1, "profiles": {"hpc": profile}}}):
        found = Settings.resolve(profile="hpc", default_cores=2, cluster_settings={"slurm": {"qos": "k"}})
        assert (found.retries, found.max_jobs, found.default_cores) == (4, 5, 2)
        assert found.cluster_settings == {"slurm": {"account": "lab", "qos": "k"}}
        with pytest.raises(InputError, match="profile 'hcp' not found; the settings files have: hpc"):
            Settings.resolve(profile="hcp")


def test_config_show_names_the_origin_of_each_value(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    words = ("config", "show", "--config", "c.yaml", "--profile", "hpc", "--slurm-partition", "long", "--cores", "2")
    shown = toilfn(tmp_path, *words, "--set-env", "SECRET=x", "--json", DASK_TOILFN__SLURM__SIGNAL="B:TERM@60")
    assert shown.returncode == 0, shown.stderr
    found = {row["setting"]: (row["value"], row["origin"]) for row in json.loads(shown.stdout)}
    assert found == {
        "config": ("c.yaml", "flag --config"),
        "profile": ("hpc", "flag --profile"),
        "cluster": ("slurm", "profile hpc"),
        "max_jobs": (5, "profile hpc"),
        "retries": (2, "c.yaml"),
        "set_env": ("SECRET", "flag --set-env"),
        "local.cores": (2.0, "flag --cores"),
        "slurm.account": ("lab", "profile hpc"),
        "slurm.partition": ("long", "flag --slurm-partition"),
        "slurm.qos": ("file", "c.yaml"),
        "slurm.signal": ("B:TERM@60", "environment variable DASK_TOILFN__SLURM__SIGNAL"),
    }
    assert "all settings have their defaults" in toilfn(tmp_path, "config", "show").stdout
    assert ["default_memory", "2Gi", "default"] in [
        line.split() for line in toilfn(tmp_path, "config", "show", "--all").stdout.splitlines()
    ]


def test_a_resume_knows_the_flags_of_the_run(tmp_path: Path) -> None:
    settings = Settings.resolve(cluster_settings={"local": {"cores": 1, "watch_memory": False}}).as_dict()
    assert settings["cluster"] == "local"
    assert settings["cluster_recipe"]["settings"]["cores"] == 1


def test_slurm_gets_what_flags_file_and_environment_say(slurm, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "toilfn:\n  store: run1\n  profiles:\n    hpc:\n      cluster: slurm\n      slurm:\n"
        "        {partition: main, job-name: lab}\n"
    )
    (tmp_path / "flow.py").write_text(
        "import os, subprocess, toilfn as toil\n@toil.task(memory='200M', walltime='10m')\ndef where():\n"
        "    return subprocess.run(['scontrol', 'show', 'job', os.environ['SLURM_JOB_ID']], capture_output=True,"
        " text=True).stdout\nif __name__ == '__main__': print(toil.compute(where()))\n"
    )
    words = ("--config", "c.yaml", "--profile", "hpc", "--slurm-partition", "patient")
    variables = {"DASK_TOILFN__SLURM__JOB_EXTRA_DIRECTIVES": "['--comment=from-the-environment']"}
    shown = toilfn(tmp_path, "config", "show", *words, "--json", **variables)
    origins = {row["setting"]: row["origin"] for row in json.loads(shown.stdout)}
    assert origins["slurm.partition"] == "flag --slurm-partition"
    assert origins["slurm.job_name"] == "profile hpc"
    assert origins["slurm.job_extra_directives"].startswith("environment variable")
    done = toilfn(tmp_path, "run", *words, "flow.py", **variables)
    assert done.returncode == 0, done.stderr
    assert "Partition=patient" in done.stdout
    assert "JobName=lab" in done.stdout
    assert "Comment=from-the-environment" in done.stdout


def test_init_writes_a_project_that_runs_and_whose_test_passes(tmp_path: Path) -> None:
    done = toilfn(tmp_path, "init", "mine")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "mine"
    assert toilfn(folder, "run", "--config", "toilfn.yaml", "flow.py").stdout == "5\n"
    assert (folder / "run1").is_dir()
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=folder, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    again = toilfn(tmp_path, "init", "mine")
    assert (again.returncode, "mine/flow.py exists" in again.stderr) == (2, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_code_for_each_shell(tmp_path: Path, shell: str) -> None:
    pytest.importorskip("argcomplete")
    done = toilfn(tmp_path, "completion", shell)
    assert done.returncode == 0, done.stderr
    assert "toilfn" in done.stdout


def test_bash_completes_commands_and_flags(tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    script = (
        'eval "$(toilfn completion bash)"; for line in "toilfn expl" "toilfn run --retry-b" "toilfn cwl --tmp-out" '
        '"toilfn wdl --walltime-r" "toilfn cwl --slurm-partit" "toilfn run --cluster slurm --kubernetes-namesp" '
        '"toilfn server --public"; do '
        'COMP_LINE="$line"; COMP_POINT=${#line}; COMP_TYPE=9; COMP_WORDS=($line); '
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _python_argcomplete toilfn; printf '%s\\n' \"${COMPREPLY[@]}\"; done"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, cwd=tmp_path, capture_output=True, text=True,
        timeout=100, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [
        "explain",
        "--retry-backoff",
        "--tmp-outdir-prefix",
        "--walltime-retries",
        "--slurm-partition",
        "--kubernetes-namespace",
        "--public-url",
    ], done.stderr


def test_settings_are_keywords_too(tmp_path: Path) -> None:
    @toil.task
    def one() -> int:
        return 1

    found = toil.compute(one(), store=tmp_path / "run", cluster_settings={"local": {"cores": 1}}, progress=False)
    assert found == 1
