"""MesosCluster, against a strict fake of master and agents that runs executors as processes."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.clusters.leaders import counts, result, start, wait_for_marks
from tests.clusters.test_workflows import adopts, sorts
from tests.servers.fake.mesos import Agent, FakeMesos
from toilfn.clusters.mesos.cluster import MesosCluster
from toilfn.clusters.testing import ClusterContract

__all__ = ["start"]


@pytest.fixture
def mesos():
    with FakeMesos().running() as fake:
        yield fake


@pytest.fixture
def make(mesos):
    """Make clusters of this master; all are closed at the end."""
    made = []

    def make(**settings):
        made.append(MesosCluster(**{"endpoint": mesos.address, "poll_interval": 0.1, **settings}))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


class TestMesos(ClusterContract):
    @pytest.fixture
    def make_cluster(self, make):
        return make


def there(mesos, **settings):
    """Settings that find the fake."""
    return {"endpoint": mesos.address, **settings}


def test_merge_sort(mesos, start):
    assert sorts(start, "mesos", cluster=there(mesos)) == {"sort": 7, "merge": 3}
    assert mesos.frameworks == {}


def test_a_killed_leaders_jobs_are_adopted(mesos, start):
    """The next one is the same framework."""
    adopts(start, "mesos", 12, cluster=there(mesos))
    assert mesos.removed == {"framework-1"}
    assert "RECONCILE" in mesos.calls


def test_nodes_executors_leaders_and_the_master_fail_at_random(mesos, start):
    """The result is right, and every task ran."""
    rng = random.Random(4)
    settings = {"cluster": there(mesos), "lease_timeout": 4, "lost_retries": 30}
    mesos.agents.append(Agent("agent-3", attributes={"preemptible": "false"}))
    first, marks = start("mesos", "slow", 16, **settings)
    wait_for_marks(first, marks, 3)
    mesos.disconnect()
    time.sleep(1)
    mesos.lose_agent(mesos.agents[0])
    first.kill()
    first.communicate()
    second, _ = start("mesos", "slow", 16, **settings)
    for _ in range(3):
        time.sleep(rng.uniform(0.5, 1.5))
        kill_an_executor(mesos, rng)
        mesos.disconnect()
    assert result(second) == str(sum(range(16)))
    assert set(counts(marks)) == {f"slow-{i}" for i in range(16)}


def kill_an_executor(mesos, rng):
    executors = [e for f in mesos.frameworks.values() for e in f.executors.values() if e.process.poll() is None]
    if executors:
        os.kill(rng.choice(executors).process.pid, signal.SIGKILL)
