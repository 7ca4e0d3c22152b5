"""The variants pipeline as a CWL document: the same calls everywhere, also after its leader was killed."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from tests.cwl.interrupted import kill_half_way
from tests.servers.fixtures import slurm, slurm_server

__all__ = ["slurm", "slurm_server"]

ROOT = Path(__file__).parents[2]
EXAMPLES = Path("/usr/share/doc/bowtie2/examples")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The first few of bowtie2's example reads, and the genome that they are from."""
    if not all(map(shutil.which, ("bowtie2", "samtools", "bcftools"))) or not EXAMPLES.exists():
        if os.environ.get("CI"):
            pytest.fail("the pipeline's programs are not installed")
        pytest.skip("the pipeline's programs are not installed")
    folder = tmp_path_factory.mktemp("reads")
    for name in ("reads_1.fq.gz", "reads_2.fq.gz"):
        with gzip.open(EXAMPLES / "reads" / name) as all_reads, gzip.open(folder / name, "w") as few:
            few.writelines(islice(all_reads, 4 * 1000))
    return [EXAMPLES / "reference/lambda_virus.fa.gz", folder / "reads_1.fq.gz", folder / "reads_2.fq.gz"]


@pytest.fixture(scope="module")
def expected(inputs):
    """What the same programs find when they are called one after the other."""
    script = ROOT / "tests/examples/variants.sh"
    found = variants(subprocess.run([script, *inputs], capture_output=True, text=True, check=True).stdout)
    assert len(found) > 10
    return found


def variants(text):
    """Position, reference and alternative of each."""
    return [line.split()[:5] for line in text.splitlines() if not line.startswith("#")]


def command(inputs, folder, *options):
    names = ("--genome", "--reads_1", "--reads_2")
    given = [word for pair in zip(names, inputs, strict=True) for word in pair]
    arguments = ["--outdir", folder, "--store", folder / "store", "--no-container", *options]
    run = [sys.executable, "-m", "toilfn.cwl", *arguments, ROOT / "examples/variants.cwl", *given, "--chunk", "500"]
    return list(map(str, run))


def called(printed):
    return variants(Path(json.loads(printed)["calls"]["path"]).read_text())


def test_on_this_machine(inputs, expected, tmp_path):
    done = subprocess.run(command(inputs, tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert called(done.stdout) == expected


def test_on_slurm(slurm, inputs, expected, tmp_path):
    run = command(inputs, tmp_path, "--cluster", "slurm", "--poll-interval", "0.3")
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert called(done.stdout) == expected


def test_killed_and_resumed(inputs, expected, tmp_path):
    process = subprocess.Popen(
        command(inputs, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert kill_half_way(process, tmp_path / "store", 6)
    assert process.wait() == -signal.SIGKILL
    resume = [sys.executable, "-m", "toilfn", "resume", str(tmp_path / "store"), "--json"]
    done = subprocess.run(resume, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert called(done.stdout) == expected
