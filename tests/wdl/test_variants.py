"""The variants pipeline as a WDL document: the same calls everywhere, also after its leader was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.cwl.interrupted import kill_half_way
from tests.cwl.test_variants import expected, inputs, variants
from tests.servers.fixtures import slurm, slurm_server

__all__ = ["expected", "inputs", "slurm", "slurm_server"]

ROOT = Path(__file__).parents[2]


def command(given, folder, *options):
    words = [f"{name}={path}" for name, path in zip(("genome", "reads_1", "reads_2"), given, strict=True)]
    flags = ["-o", folder / "out", "--store", folder / "store", "--container", "none", *options]
    run = [sys.executable, "-m", "toilfn", "wdl", ROOT / "examples/variants.wdl", *words, "chunk=500", *flags]
    return list(map(str, run))


def called(printed):
    return variants(Path(json.loads(printed)["variants.calls"]).read_text())


def test_on_this_machine(inputs, expected, tmp_path):
    done = subprocess.run(command(inputs, tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert called(done.stdout) == expected


def test_on_slurm(slurm, inputs, expected, tmp_path):
    run = command(inputs, tmp_path, "--cluster", "slurm", "--poll-interval", "0.3")
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert called(done.stdout) == expected


def resumed(run, folder):
    """What is called by a run that is killed half-way and then resumed."""
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    assert kill_half_way(process, folder / "store", 6)
    assert process.wait() == -signal.SIGKILL
    resume = [sys.executable, "-m", "toilfn", "resume", str(folder / "store"), "--json"]
    done = subprocess.run(resume, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return called(done.stdout)


def test_killed_and_resumed(inputs, expected, tmp_path):
    assert resumed(command(inputs, tmp_path), tmp_path) == expected


def test_killed_and_resumed_on_slurm(slurm, inputs, expected, tmp_path):
    run = command(inputs, tmp_path, "--cluster", "slurm", "--poll-interval", "0.3")
    assert resumed(run, tmp_path) == expected
