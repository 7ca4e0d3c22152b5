"""Whole workflows on a real Kubernetes: leader, store, pods, workers."""

from __future__ import annotations

import contextlib
import random
import sys
import time
import urllib.error

import pytest

from tests.clusters.test_workflows import adopts, counts, result, sorts, start, wait_for_marks
from tests.servers.fixtures import alone, kubernetes, kubernetes_server
from tests.servers.kubernetes import IMAGE

__all__ = ["alone", "kubernetes", "kubernetes_server", "start"]

CLUSTER = {"image": IMAGE, "python": sys.executable, "poll_interval": 0.5}
PODS = "/api/v1/namespaces/default/pods"


def test_merge_sort(kubernetes, start):
    assert sorts(start, "kubernetes", cluster=CLUSTER) == {"sort": 7, "merge": 3}


def test_a_killed_leaders_jobs_are_adopted(kubernetes, start):
    adopts(start, "kubernetes", 20, cluster=CLUSTER)


def pods(kubernetes):
    return [pod["metadata"]["name"] for pod in kubernetes.ask(PODS)["items"]]


def delete_now(kubernetes, pod):
    """Remove a pod as when its node is gone for good."""
    with contextlib.suppress(urllib.error.HTTPError):  # it has just ended
        kubernetes.ask(f"{PODS}/{pod}", method="DELETE", body={"gracePeriodSeconds": 0})


@pytest.mark.slow
def test_pods_leaders_and_the_api_die_at_random(alone, kubernetes, start):
    """The result is right, and every task ran."""
    rng = random.Random(5)
    settings = {"cluster": CLUSTER, "lease_timeout": 5, "lost_retries": 20}
    first, marks = start("kubernetes", "slow", 12, **settings)
    wait_for_marks(first, marks, 5)
    delete_now(kubernetes, rng.choice(pods(kubernetes)))
    kubernetes.stop_api()
    time.sleep(3)
    kubernetes.start_api()
    first.kill()
    first.communicate()
    second, _ = start("kubernetes", "slow", 12, **settings)
    for _ in range(3):
        time.sleep(1)
        if names := pods(kubernetes):
            delete_now(kubernetes, rng.choice(names))
    assert result(second) == str(sum(range(12)))
    assert set(counts(marks)) == {f"slow-{i}" for i in range(20)}
