"""A cluster of another package: `examples/ext_cluster`, as if it were installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "ext_cluster"


@pytest.fixture
def installed(tmp_path):
    """The environment of a process in which the example is installed."""
    information = tmp_path / "toilfn_processes-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toilfn-processes\nVersion: 0.1.0\n")
    (information / "entry_points.txt").write_text("[toilfn.clusters]\nprocesses = toilfn_processes:ProcessCluster\n")
    return os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{EXAMPLE}"}


def test_it_is_found_by_its_name_and_runs_a_workflow(installed, tmp_path):
    (tmp_path / "marks").mkdir()
    script = Path(__file__).with_name("workflow.py")
    words = [str(script), "processes", str(tmp_path / "store"), str(tmp_path / "marks"), "sort", "6"]
    done = subprocess.run([sys.executable, *words], env=installed, capture_output=True, text=True, check=False)
    assert done.stdout == "[0, 1, 2, 3, 4, 5]\n", done.stderr


def test_the_example_cluster_passes_the_contract_tests(installed):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE)]
    done = subprocess.run(command, env=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
