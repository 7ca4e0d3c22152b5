"""Indexed Jobs, and streams that end, against a strict fake of a newer server than the real one of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.fake.kubernetes import FakeKubernetes
from tests.servers.kubernetes import IMAGE
from toilfn.clusters.base import Batch, JobState, Session
from toilfn.clusters.kube import connection
from toilfn.clusters.kubernetes import KubernetesCluster
from toilfn.clusters.testing import ClusterContract
from toilfn.resources import Resources


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


RESOURCES = Resources(cores=1, memory=400 * 2**20, disk=2**20)
WORKER = """\
case $2 in
wait*) while ! test -e "$1/go"; do sleep 0.1; done ;;
fail*) exit 3 ;;
esac
"""


@pytest.fixture
def cluster(fake, tmp_path):
    worker = tmp_path / "worker.sh"
    worker.write_text(WORKER)
    cluster = KubernetesCluster(image=IMAGE, worker_command=["sh", str(worker)], poll_interval=0.1)
    cluster.open(Session(str(tmp_path), "toilfn-test"))
    yield cluster
    cluster.close()


def submit(cluster, *names):
    return dict(zip(names, cluster.submit([Batch(name, name, RESOURCES) for name in names]), strict=True))


def ends(cluster, jobs):
    """Poll until all jobs have ended; give whether each ended well."""
    ended = {}
    while len(ended) < len(jobs):
        ended |= {u.job: u.cause is None for u in cluster.poll(10) if u.state is JobState.ENDED}
    return {name: ended[job] for name, job in jobs.items()}


def started(cluster, jobs):
    """Poll until all jobs run."""
    left = set(jobs.values())
    while left:
        left -= {u.job for u in cluster.poll(10) if u.state is JobState.RUNNING}


def test_batches_of_one_shape_are_one_job_and_one_that_fails_leaves_the_others_alone(fake, cluster):
    jobs = submit(cluster, "ok-0", "fail-1", "ok-2", "fail-3")
    (job,) = {id_.partition("/")[0] for id_ in jobs.values()}
    assert ends(cluster, jobs) == {"ok-0": True, "fail-1": False, "ok-2": True, "fail-3": False}
    assert [path for method, path in fake.requests if method == "POST"] == ["/apis/batch/v1/namespaces/default/jobs"]
    assert ("DELETE", f"/apis/batch/v1/namespaces/default/jobs/{job}") in fake.requests


def test_a_job_has_at_most_as_many_pods_as_it_may(fake, cluster):
    cluster.close()
    cluster.settings["max_array_size"] = 2
    cluster.open(Session(str(fake.folder.parent), "toilfn-test"))
    jobs = submit(cluster, "ok-0", "ok-1", "ok-2")
    assert len({id_.partition("/")[0] for id_ in jobs.values()}) == 2
    assert all(ends(cluster, jobs).values())


def test_a_stream_that_ends_goes_on_where_it_ended(fake, cluster, tmp_path):
    jobs = submit(cluster, "wait-0", "ok-1")
    started(cluster, jobs)
    fake.cut()
    Path(tmp_path, "go").touch()
    assert all(ends(cluster, jobs).values())


def test_what_the_server_has_forgotten_is_listed_anew(fake, cluster, tmp_path):
    """Also what was deleted in between."""
    jobs = submit(cluster, "wait-0", "wait-1", "wait-2")
    started(cluster, jobs)
    with fake.changed:
        pod = next(name for kind, name in fake.objects if kind == "pods" and name.endswith("-1"))
        fake.put("pods", fake.get("pods", pod), "DELETED")
        fake.forget()
    Path(tmp_path, "go").touch()
    assert ends(cluster, jobs) == {"wait-0": True, "wait-1": False, "wait-2": True}


def test_lists_longer_than_a_page_are_whole(fake, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "_PAGE", 2)
    names = [f"wait-{i}" for i in range(5)]
    jobs = submit(cluster, *names)
    started(cluster, jobs)
    assert cluster.list("toilfn-test") == {id_: name for name, id_ in jobs.items()}
    fake.forget()
    Path(tmp_path, "go").touch()
    assert all(ends(cluster, jobs).values())
