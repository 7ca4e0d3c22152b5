"""Indexed Jobs, and streams that end, against a strict fake of a newer server than the real one of the tests."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.clusters.kubernetes_jobs import ends, opened, submit, wait_running
from tests.clusters.test_workflows import adopts, sorts, start
from tests.servers.fake.kubernetes import FakeKubernetes
from tests.servers.kubernetes import IMAGE
from toilfn.clusters.kubernetes import cluster as module
from toilfn.clusters.kubernetes import connection
from toilfn.clusters.kubernetes.cluster import KubernetesCluster
from toilfn.clusters.testing import ClusterContract
from toilfn.ids import Cause

__all__ = ["start"]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    (tmp_path / "fake").mkdir()
    with FakeKubernetes(tmp_path / "fake").running() as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig()))
        yield fake
    assert fake.complaints == []


class TestContract(ClusterContract):
    @pytest.fixture
    def make_cluster(self, fake):
        return lambda **settings: KubernetesCluster(image=IMAGE, **settings)


@pytest.fixture
def cluster(fake, tmp_path):
    with opened(tmp_path) as cluster:
        yield cluster


def all_ended_well(cluster, jobs):
    return all(update.cause is None for update in ends(cluster, jobs).values())


def test_batches_of_one_shape_are_one_job_and_one_that_fails_leaves_the_others_alone(fake, cluster):
    jobs = submit(cluster, "ok-0", "fail-1", "ok-2", "fail-3")
    (job,) = {id_.partition("/")[0] for id_ in jobs.values()}
    assert {name: update.cause for name, update in ends(cluster, jobs).items()} == {
        "ok-0": None, "fail-1": Cause.ERROR, "ok-2": None, "fail-3": Cause.ERROR,
    }  # fmt: skip
    assert fake.requests.count(("POST", "/apis/batch/v1/namespaces/default/jobs")) == 1
    assert ("DELETE", f"/apis/batch/v1/namespaces/default/jobs/{job}") in fake.requests


def test_a_job_has_at_most_as_many_pods_as_it_may(fake, tmp_path):
    with opened(tmp_path, max_array_size=2) as cluster:
        jobs = submit(cluster, "ok-0", "ok-1", "ok-2")
        assert len({id_.partition("/")[0] for id_ in jobs.values()}) == 2
        assert all_ended_well(cluster, jobs)


def test_a_stream_that_ends_is_continued_where_it_ended(fake, cluster, tmp_path):
    jobs = submit(cluster, "wait-0", "wait-1")
    wait_running(cluster, jobs)
    fake.cut()
    Path(tmp_path, "go").touch()
    assert all_ended_well(cluster, jobs)


def test_jobs_whose_history_the_server_has_forgotten_are_listed_again(fake, cluster, tmp_path):
    """Also what was deleted in between."""
    jobs = submit(cluster, "wait-0", "wait-1", "wait-2")
    wait_running(cluster, jobs)
    with fake.changed:
        pod = next(name for kind, name in fake.objects if kind == "pods" and name.endswith("-1"))
        fake.put("pods", fake.get("pods", pod), "DELETED")
        fake.forget()
    Path(tmp_path, "go").touch()
    ended = ends(cluster, jobs)
    assert [name for name, update in ended.items() if update.cause is Cause.LOST] == ["wait-1"]


def test_lists_longer_than_a_page_are_whole(fake, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "_PAGE", 2)
    names = [f"wait-{i}" for i in range(5)]
    jobs = submit(cluster, *names)
    wait_running(cluster, jobs)
    assert cluster.list(cluster._context.workflow) == {id_: name for name, id_ in jobs.items()}
    fake.forget()
    Path(tmp_path, "go").touch()
    assert all_ended_well(cluster, jobs)


def test_a_pod_whose_node_is_gone_permanently_is_lost(fake, cluster, tmp_path, monkeypatch):
    """Kubernetes marks it as deleted; nobody is left to say that it has ended."""
    monkeypatch.setattr(module, "_DELETION_TIME", -29.0)
    jobs = submit(cluster, "wait-0")
    wait_running(cluster, jobs)
    fake.nodes.is_stopped.set()
    fake.cut()
    (pod,) = (name for kind, name in fake.objects if kind == "pods")
    fake.delete_pod(pod, {})
    assert ends(cluster, jobs)["wait-0"].cause is Cause.LOST


def test_a_job_without_a_pod_waits_for_the_quota_and_says_so(fake, cluster, caplog):
    complaint = "pods is forbidden: exceeded quota: lab"
    fake.quota = complaint
    cluster._pod_timeout = 0.2
    jobs = submit(cluster, "ok")
    end = time.monotonic() + 20
    while "the namespace's quota" not in caplog.text:
        assert time.monotonic() < end
        assert cluster.poll(0.2) == []
    assert complaint in caplog.text
    fake.start_pods(fake.get("jobs", jobs["ok"]))
    assert all_ended_well(cluster, jobs)


def test_merge_sort(fake, start):
    settings = {"image": IMAGE, "python": sys.executable}
    assert sorts(start, "kubernetes", cluster=settings) == {"sort": 7, "merge": 3}
    assert not any(kind == "jobs" for kind, _ in fake.objects)


def test_a_killed_leaders_jobs_are_adopted(fake, start):
    """They are elements of a few Jobs."""
    adopts(start, "kubernetes", 6, cluster={"image": IMAGE, "python": sys.executable})
    made = [path for method, path in fake.requests if method == "POST" and path.endswith("/jobs")]
    assert len(made) < 6
    assert not any(kind == "jobs" for kind, _ in fake.objects)
