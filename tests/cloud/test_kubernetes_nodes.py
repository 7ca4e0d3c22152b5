"""Nodes of Kubernetes that join when pods wait for them, and leave while pods run."""

from __future__ import annotations

import contextlib
import threading
import urllib.error
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.clusters.kubernetes_jobs import ends, opened, submit
from tests.servers.fixtures import kubernetes, kubernetes_server
from tests.servers.kubernetes import PORT
from tests.servers.kubernetes_node import MERGE, SIZE, Api, Nodes
from tests.servers.machine import wait_for
from toilfn.clusters.kubernetes.placement import PREEMPTIBLE_LABELS, disruption_annotations, reason_for_leaving
from toilfn.ids import Cause
from toilfn.resources import Resources

__all__ = ["kubernetes", "kubernetes_server"]

PODS = "/api/v1/namespaces/default/pods"


class Pool:
    """A pool that begins without nodes, as an autoscaler leaves it."""

    def __init__(self, kubernetes) -> None:
        self.name = f"pool-{uuid4().hex[:8]}"
        self.node = f"{self.name}-0"
        self.template = {"spec": {"nodeSelector": {"pool": self.name}}}
        self._api = Api(f"https://127.0.0.1:{PORT}", kubernetes.folder / "server.crt")
        nodes = {self.node: {"labels": {"pool": self.name}, "size": SIZE}}
        self._nodes = Nodes(self._api, kubernetes.folder, nodes)

    def join(self) -> None:
        """Let the node join."""
        self._nodes.register()
        threading.Thread(target=self._nodes.follow, daemon=True).start()

    def pods(self) -> list[dict]:
        """Return the pods that want to be here."""
        found = self._api.ask("GET", PODS)["items"]
        return [pod for pod in found if pod["spec"].get("nodeSelector", {}).get("pool") == self.name]

    def is_wanted(self) -> bool:
        """Return whether a pod waits for a node."""
        said = [condition for pod in self.pods() for condition in pod["status"].get("conditions", [])]
        return any(condition.get("reason") == "Unschedulable" for condition in said)

    def drain(self) -> None:
        """Drain a node as `kubectl drain` does."""
        self._api.ask("PATCH", f"/api/v1/nodes/{self.node}", {"spec": {"unschedulable": True}}, MERGE)
        for pod in self.pods():
            about = {"name": pod["metadata"]["name"], "namespace": "default"}
            eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": about}
            self._api.ask("POST", f"{PODS}/{about['name']}/eviction", eviction)

    def leave(self) -> None:
        """Remove the node."""
        self._nodes.is_stopped.set()
        with contextlib.suppress(urllib.error.HTTPError):
            self._api.ask("DELETE", f"/api/v1/nodes/{self.node}")


@pytest.fixture
def pool(kubernetes) -> Iterator[Pool]:
    made = Pool(kubernetes)
    yield made
    made.leave()


def test_pods_wait_for_a_node_run_when_it_joins_and_ask_to_be_left_alone(pool, tmp_path):
    with opened(tmp_path, pod_template=pool.template, annotations={"team": "lab"}) as cluster:
        jobs = submit(cluster, "do echo done")
        wait_for(pool.is_wanted, "the pod to be unschedulable")
        annotations = pool.pods()[0]["metadata"]["annotations"]
        assert annotations["karpenter.sh/do-not-disrupt"] == "true"
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert annotations["team"] == "lab"
        pool.join()
        assert ends(cluster, jobs)["do echo done"].cause is None


def test_draining_a_node_costs_its_tasks_nothing(pool, tmp_path):
    pool.join()
    with opened(tmp_path, pod_template=pool.template) as cluster:
        jobs = submit(cluster, "wait")
        wait_for(lambda: [pod["status"]["phase"] for pod in pool.pods()] == ["Running"], "the pod to run")
        pool.drain()
        found = ends(cluster, jobs)["wait"]
    assert found.cause is Cause.PREEMPTED
    assert f"node {pool.node}" in found.detail


@pytest.mark.parametrize(
    ("node", "why"),
    [
        ({"spec": {"taints": [{"key": "aws-node-termination-handler/spot-itn"}]}}, "has the taint aws-node-termin"),
        ({"spec": {"taints": [{"key": "cloud.google.com/impending-node-termination"}]}}, "has the taint cloud.google"),
        ({"spec": {"taints": [{"key": "karpenter.sh/disrupted"}]}}, "has the taint karpenter.sh/disrupted"),
        ({"spec": {"unschedulable": True}}, "is cordoned"),
        ({"metadata": {"labels": {"karpenter.sh/capacity-type": "spot"}}}, "has the label karpenter.sh/capacity-type"),
        ({"spec": {"taints": [{"key": "nvidia.com/gpu"}]}}, ""),
        ({"spec": {"taints": [{"key": "node.kubernetes.io/unreachable"}]}}, ""),
        ({"metadata": {"labels": {"karpenter.sh/capacity-type": "on-demand"}}}, ""),
        ({"spec": {"taints": None}}, ""),
    ],
)
def test_a_node_that_is_emptied_or_may_be_taken_away_is_known_by_its_taints_and_labels(node, why):
    node.setdefault("metadata", {})["name"] = "n1"
    found = reason_for_leaving(node, PREEMPTIBLE_LABELS)
    assert why in found
    assert bool(found) == bool(why)


def test_autopilot_does_not_get_what_it_refuses_for_spot_machines():
    assert disruption_annotations(Resources(preemptible=True)) == {"karpenter.sh/do-not-disrupt": "true"}
