"""Whole workflows on a real Kubernetes: leader, store, pods, workers."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
import urllib.error
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
import yaml

from tests.clusters.test_journal import fails, survives
from tests.clusters.test_workflows import adopts, counts, result, sorts, start, wait_for_marks
from tests.servers.fixtures import alone, kubernetes, kubernetes_server
from tests.servers.kubernetes import IMAGE
from tests.servers.machine import wait_for

__all__ = ["alone", "kubernetes", "kubernetes_server", "start"]

CLUSTER = {"image": IMAGE, "python": sys.executable, "poll_interval": 0.5}
EXAMPLES = Path(__file__).parents[2] / "examples" / "kubernetes"
PODS = "/api/v1/namespaces/default/pods"
JOBS = "/apis/batch/v1/namespaces/default/jobs"


def test_merge_sort(kubernetes, start):
    assert sorts(start, "kubernetes", cluster=CLUSTER) == {"sort": 7, "merge": 3}


def test_a_killed_leaders_jobs_are_adopted(kubernetes, start):
    adopts(start, "kubernetes", 20, cluster=CLUSTER)


def test_output_that_a_task_printed_before_it_was_out_of_memory_is_in_the_error(kubernetes, start):
    assert fails(start, "kubernetes", "hungry", cluster=CLUSTER)[1] == "memory"


def test_output_that_a_task_printed_before_its_worker_was_killed_is_in_the_error(kubernetes, start):
    def kill(marks):
        for process in psutil.process_iter(["cmdline"]):
            if str(marks.parent) in " ".join(process.info["cmdline"] or ()) and "toilfn.worker" in str(process.info):
                process.kill()

    _, cause, message = survives(start, "kubernetes", kill, cluster=CLUSTER)
    assert cause == "lost"
    assert "patient was here" in message


def names(kubernetes, path):
    return {item["metadata"]["name"] for item in kubernetes.ask(path)["items"]}


def delete_now(kubernetes, pod):
    """Remove a pod as when its node is gone for good."""
    with contextlib.suppress(urllib.error.HTTPError):  # it has just ended
        kubernetes.ask(f"{PODS}/{pod}", method="DELETE", body={"gracePeriodSeconds": 0})


def test_a_run_that_is_stopped_leaves_no_job(kubernetes, start, tmp_path):
    leader, marks = start("kubernetes", "slow", 12, cluster={**CLUSTER, "owner": "stopped"})
    wait_for_marks(leader, marks, 2)
    subprocess.run([sys.executable, "-m", "toilfn", "kill", str(tmp_path / "store")], check=True, timeout=120)
    leader.communicate(timeout=120)
    assert leader.returncode != 0
    left = f"{JOBS}?labelSelector=toilfn/owner=stopped"
    # The server deletes a job only after its pods have ended, which takes as long as it takes.
    wait_for(lambda: not names(kubernetes, left), "the jobs' end", 120)


@pytest.mark.slow
def test_pods_leaders_and_the_api_die_at_random(alone, kubernetes, start):
    """The result is right, every task ran, and no job stays."""
    before = names(kubernetes, JOBS)
    rng = random.Random(5)
    settings = {"cluster": CLUSTER, "lease_timeout": 5, "lost_retries": 20}
    first, marks = start("kubernetes", "slow", 12, **settings)
    wait_for_marks(first, marks, 5)
    delete_now(kubernetes, rng.choice(sorted(names(kubernetes, PODS))))
    kubernetes.stop_api()
    time.sleep(3)
    kubernetes.start_api()
    kubernetes.start_controllers()
    first.kill()
    first.communicate()
    second, _ = start("kubernetes", "slow", 12, **settings)
    for _ in range(3):
        time.sleep(1)
        if there := sorted(names(kubernetes, PODS)):
            delete_now(kubernetes, rng.choice(there))
    assert result(second) == str(sum(range(12)))
    assert set(counts(marks)) == {f"slow-{i}" for i in range(12)}
    assert names(kubernetes, JOBS) <= before


def manifests(name, words=()):
    """Read an example's manifests, with some words replaced."""
    text = (EXAMPLES / name).read_text()
    for word, value in dict(words).items():
        text = text.replace(word, value)
    return list(yaml.safe_load_all(text))


PLACES = {"ServiceAccount": "api/v1", "ConfigMap": "api/v1", "Secret": "api/v1", "Job": "apis/batch/v1"}


def apply(kubernetes, manifest, namespace):
    kind = manifest["kind"]
    place = PLACES.get(kind, "apis/rbac.authorization.k8s.io/v1")
    if kind == "RoleBinding":
        manifest["subjects"][0]["namespace"] = namespace  # as kubectl does
    kubernetes.ask(f"/{place}/namespaces/{namespace}/{kind.lower()}s", method="POST", body=manifest)


SCRIPT = """\
import toilfn as toil

@toil.task(memory="200Mi", disk="1Mi")
def double(x):
    return 2 * x

@toil.task(memory="200Mi", disk="1Mi")
def total(values):
    return sum(values)

if __name__ == "__main__":
    print("the total is", toil.compute(total([double(i) for i in range(4)])))
"""


def test_a_leader_in_a_pod_has_the_rights_it_needs_and_no_others(kubernetes, tmp_path):
    """The manifests of examples/kubernetes/, with an image and a store."""
    namespace = f"leader-{uuid4().hex[:8]}"
    kubernetes.ask("/api/v1/namespaces", method="POST", body={"metadata": {"name": namespace}})
    make_script = {"kind": "ConfigMap", "metadata": {"name": "toilfn-script"}, "data": {"workflow.py": SCRIPT}}
    make_secret = {"kind": "Secret", "metadata": {"name": "bucket"}, "stringData": {"AWS_ACCESS_KEY_ID": "x"}}
    for manifest in [make_script, make_secret, *manifests("role.yaml")]:
        apply(kubernetes, manifest, namespace)
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/toilfn"
    wait_for(lambda: kubernetes.ask(account).get("secrets"), "the account's token")
    words = {"REGISTRY/toilfn:TAG": IMAGE, "s3://BUCKET/RUN": str(tmp_path / "store"), "YOUR-NAME": "ada"}
    (job,) = manifests("leader.yaml", {**words, "python3": sys.executable})
    job["spec"]["template"]["spec"]["containers"][0]["env"] += [
        {"name": "DASK_TOILFN__KUBERNETES__PYTHON", "value": sys.executable},
        {"name": "KUBECONFIG", "value": "/nowhere"},  # the stand-in's pods have the variables of its own process
    ]
    apply(kubernetes, job, namespace)
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs/toilfn-leader"
    wait_for(lambda: kubernetes.ask(path)["status"].get("conditions"), "the leader's job", 120)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    tried = kubernetes.ask(f"{pods}?labelSelector=job-name=toilfn-leader")["items"]
    logs = [kubernetes.ask(f"{pods}/{pod['metadata']['name']}/log", raw=True) for pod in tried]
    # A role counts a moment after it was made; the leader's job tries again.
    told = [log for log in logs if "the total is 12" in log]
    assert len(told) == 1, logs
    assert all("forbids the request" in log for log in logs if log not in told), logs
