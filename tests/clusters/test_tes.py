"""TESCluster, against a strict fake that runs the executors as processes."""

from __future__ import annotations

import random
import sys
import time
from functools import partial

import pytest

from tests.clusters.leaders import counts, result, start, wait_for_marks
from tests.clusters.test_workflows import adopts, sorts
from tests.servers.fake.tes import FakeTES
from toilfn.clusters.tes import TESCluster
from toilfn.clusters.testing import ClusterContract

__all__ = ["start"]


@pytest.fixture
def tes():
    with FakeTES().running() as fake:
        yield fake


class TestTES(ClusterContract):
    @pytest.fixture
    def make_cluster(self, tes):
        return partial(TESCluster, endpoint=tes.url, image="toilfn:test", python=sys.executable)


def there(tes, **settings):
    """Settings that find the fake."""
    return {"endpoint": tes.url, "image": "toilfn:test", "python": sys.executable, "poll_interval": 0.3, **settings}


def test_merge_sort(tes, start):
    assert sorts(start, "tes", cluster=there(tes)) == {"sort": 7, "merge": 3}


def test_a_killed_leaders_jobs_are_adopted(tes, start):
    adopts(start, "tes", 12, cluster=there(tes))


def test_jobs_leaders_and_the_server_fail_at_random(tes, start):
    """The result is right, and every task ran."""
    rng = random.Random(3)
    settings = {"cluster": there(tes), "lease_timeout": 4, "lost_retries": 30}
    tes.page = 3
    tes.loses_answers = 2
    first, marks = start("tes", "slow", 12, **settings)
    wait_for_marks(first, marks, 3)
    tes.is_away = True
    time.sleep(1)
    tes.is_away = False
    hurt(tes, rng)
    first.kill()
    first.communicate()
    second, _ = start("tes", "slow", 12, **settings)
    for _ in range(4):
        time.sleep(rng.uniform(0.2, 1.5))
        hurt(tes, rng)
    assert result(second) == str(sum(range(12)))
    assert set(counts(marks)) == {f"slow-{i}" for i in range(12)}


def hurt(tes, rng):
    """End a job as a system may."""
    if live := tes.live():
        tes.stop_task(rng.choice(live), rng.choice(["PREEMPTED", "SYSTEM_ERROR", "CANCELED"]))
