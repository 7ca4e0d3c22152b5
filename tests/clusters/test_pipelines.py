"""What people run, on every system: the variants pipeline, and workflows whose leaders and jobs are killed."""

from __future__ import annotations

import contextlib
import gzip
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from tests.clusters.leaders import counts, events, own_jobs, result, start, wait_for_marks
from tests.servers.fake.systems import system
from tests.servers.fixtures import gridengine, gridengine_server, slurm, slurm_server
from toilfn.clusters import cluster_class
from toilfn.errors import ClusterError

__all__ = ["gridengine", "gridengine_server", "slurm", "slurm_server", "start"]

ROOT = Path(__file__).parents[2]
FAKES = ["lsf", "torque", "pbs", "htcondor", "parasol"]


@pytest.fixture(scope="module")
def reads(tmp_path_factory):
    """The first few of bowtie2's example reads, and the genome that they are from."""
    examples = Path("/usr/share/doc/bowtie2/examples")
    if not all(map(shutil.which, ("bowtie2", "samtools", "bcftools"))) or not examples.exists():
        pytest.skip("the pipeline's programs are not installed")
    folder = tmp_path_factory.mktemp("reads")
    for name in ("reads_1.fq.gz", "reads_2.fq.gz"):
        with gzip.open(examples / "reads" / name) as all_reads, gzip.open(folder / name, "w") as few:
            few.writelines(islice(all_reads, 4 * 1000))
    return [str(examples / "reference/lambda_virus.fa.gz"), *map(str, sorted(folder.iterdir()))]


@pytest.fixture(scope="module")
def variants(reads):
    """Run the pipeline; give the lines of variants."""

    def variants(folder, cluster):
        settings = ["--cluster", cluster, "--poll-interval", "0.3"]
        arguments = [*reads, "-o", str(folder / "calls.vcf"), "--chunk", "500", "--store", str(folder / "store")]
        script = str(ROOT / "examples/variants.py")
        command = [sys.executable, "-m", "toilfn", "run", *settings, script, "--", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        lines = (folder / "calls.vcf").read_text().splitlines()
        return [line for line in lines if not line.startswith("#")]

    return variants


@pytest.fixture(scope="module")
def expected(variants, tmp_path_factory):
    """What the pipeline finds on this machine."""
    found = variants(tmp_path_factory.mktemp("local"), "local")
    assert len(found) > 10
    return found


def test_variants_on_slurm(slurm, variants, expected, tmp_path):
    assert variants(tmp_path, "slurm") == expected


def test_variants_on_grid_engine(gridengine, variants, expected, tmp_path):
    assert variants(tmp_path, "gridengine") == expected


@pytest.mark.parametrize("name", FAKES)
def test_variants_on_fakes(name, variants, expected, tmp_path):
    for _ in system(name):
        assert variants(tmp_path, name) == expected


COUNT = 16
SEED = 20


def suffers(start, name, leaders):
    """Kill leaders and jobs at random until the workflow is done; every task counts once, whatever its attempts."""
    chance = random.Random(SEED)
    marks = None
    for _ in range(leaders):
        leader, marks = start(name, "tree", COUNT, lease_timeout=5, lost_retries=50)
        wait_for_marks(leader, marks, 2)
        time.sleep(chance.uniform(0, 1.5))
        kill_jobs(name, marks, chance)
        time.sleep(chance.uniform(0, 0.5))
        leader.kill()
        leader.communicate()
    leader, _ = start(name, "tree", COUNT, lease_timeout=5, lost_retries=50)
    assert result(leader, 200) == str(sum(range(COUNT)))
    assert counts(marks).keys() == {"pair", *(f"slow-{i}" for i in range(COUNT))}
    assert counting_outcomes(marks) == {"pair": COUNT - 1, "slow": COUNT}


def counting_outcomes(marks):
    """Return how many tasks of each name have a value; the journal says it again for a task whose value was dropped."""
    told = [event for event in events(marks) if event["event"] in ("done", "forgotten")]
    done = Counter(event["task"] for event in told if event["event"] == "done")
    done.subtract(event["task"] for event in told if event["event"] == "forgotten")
    assert set(done.values()) == {1}
    return Counter({event["task"]: event["name"] for event in told}.values())


def kill_jobs(name, marks, chance):
    """End some of the workflow's live jobs, with the system's own command."""
    for job in own_jobs(name, marks):
        if chance.random() < 0.4:
            with contextlib.suppress(ClusterError):  # it has ended meanwhile
                cluster_class(name)().remove([job])


def test_chaos_on_slurm(slurm, start):
    suffers(start, "slurm", 3)


def test_chaos_on_grid_engine(gridengine, start):
    suffers(start, "gridengine", 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAKES)
def test_chaos_on_fakes(name, start):
    for _ in system(name):
        suffers(start, name, 1)
