"""AWSBatchCluster, against moto with podman behind it: jobs run in containers."""

from __future__ import annotations

import random
import sys
import time
from functools import partial

import pytest

from tests.clusters.leaders import counts, result, start, wait_for_marks
from tests.clusters.test_workflows import adopts, sorts
from tests.servers.awsbatch import QUEUE
from tests.servers.containers import IMAGE
from tests.servers.fixtures import awsbatch_server, containers
from toilfn.clusters.awsbatch import AWSBatchCluster
from toilfn.clusters.testing import ClusterContract

__all__ = ["awsbatch_server", "containers", "start"]


@pytest.fixture
def settings(awsbatch_server, tmp_path):
    folders = {**awsbatch_server.folders, str(tmp_path): str(tmp_path)}
    return {
        "endpoint_url": awsbatch_server.url, "queue": QUEUE, "image": IMAGE, "volumes": folders,
        "python": sys.executable,
    }  # fmt: skip


class TestAWSBatch(ClusterContract):
    @pytest.fixture
    def make_cluster(self, settings):
        return partial(AWSBatchCluster, **settings)


@pytest.fixture
def there(settings):
    return {**settings, "poll_interval": 0.5}


@pytest.fixture
def batch(awsbatch_server):
    client = awsbatch_server.client("batch")
    yield client
    client.close()


def test_merge_sort(there, start):
    assert sorts(start, "awsbatch", cluster=there) == {"sort": 7, "merge": 3}


def test_a_killed_leaders_jobs_are_adopted(there, start):
    adopts(start, "awsbatch", 8, cluster=there)


@pytest.mark.slow
def test_spot_instances_and_leaders_die_at_random(there, start, batch):
    """The result is right, and every task ran."""
    rng = random.Random(6)
    settings = {"cluster": there, "lease_timeout": 4, "lost_retries": 0}
    first, marks = start("awsbatch", "slow", 8, **settings)
    wait_for_marks(first, marks, 2)
    interrupt(batch, rng)
    first.kill()
    first.communicate()
    second, _ = start("awsbatch", "slow", 8, **settings)
    for _ in range(3):
        time.sleep(rng.uniform(0.5, 1.5))
        interrupt(batch, rng)
    assert result(second) == str(sum(range(8)))
    assert set(counts(marks)) == {f"slow-{i}" for i in range(8)}


def interrupt(batch, rng):
    """Take the instance of a job away, in AWS's words."""
    running = [job["jobId"] for job in batch.list_jobs(jobQueue=QUEUE, jobStatus="RUNNING")["jobSummaryList"]]
    if running:
        batch.terminate_job(jobId=rng.choice(running), reason="Host EC2 (instance i-0b1c2d) terminated.")
