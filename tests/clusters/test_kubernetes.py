"""KubernetesCluster against a real control plane: contract, places, secrets, exit reasons, wrong settings."""

from __future__ import annotations

import base64
import json
import re
import time
from pathlib import Path

import pytest

from tests.clusters.kubernetes_jobs import ends, opened, run, submit, wait_running
from tests.servers.fixtures import kubernetes, kubernetes_server
from tests.servers.kubernetes import IMAGE
from tests.servers.machine import wait_for
from toilfn.clusters.base import JobState
from toilfn.clusters.kubernetes.cluster import KubernetesCluster
from toilfn.clusters.testing import ClusterContract
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Accelerator, Resources

__all__ = ["kubernetes", "kubernetes_server"]

DEFAULT = "/api/v1/namespaces/default"
SMALL = {"cores": 0.5, "memory": 100 * 2**20, "disk": 2**20}
SECRET = "hunter2-is-no-password"


class TestContract(ClusterContract):
    @pytest.fixture
    def make_cluster(self, kubernetes):
        return lambda **settings: KubernetesCluster(image=IMAGE, **settings)


def make(kubernetes, path, **body):
    """Make an object, or have it from another test."""
    try:
        kubernetes.ask(path, method="POST", body=body)
    except OSError as error:
        if getattr(error, "code", 0) != 409:
            raise


def labelled(kubernetes, cluster, kind="pods", namespace="default"):
    group = "apis/batch/v1" if kind == "jobs" else "api/v1"
    selector = f"toilfn/workflow={cluster._context.workflow}"
    return kubernetes.ask(f"/{group}/namespaces/{namespace}/{kind}?labelSelector={selector}")["items"]


def node_of(kubernetes, folder, resources, **settings):
    """Say where a pod with some requirements runs."""
    with opened(folder, **settings) as cluster:
        jobs = submit(cluster, "wait", resources=resources)
        wait_running(cluster, jobs)
        (pod,) = labelled(kubernetes, cluster)
        return pod["spec"]["nodeName"]


def test_tasks_that_may_lose_their_node_prefer_such_nodes_and_others_keep_off_them(kubernetes, tmp_path):
    assert node_of(kubernetes, tmp_path, Resources(**SMALL, preemptible=True)) == "spot"
    assert node_of(kubernetes, tmp_path, Resources(**SMALL)) == "ordinary"


def test_accelerators_are_found_by_resource_and_model(kubernetes, tmp_path):
    tesla = (Accelerator(2, model="nvidia-tesla-k80"),)
    assert node_of(kubernetes, tmp_path, Resources(**SMALL, accelerators=tesla)) == "gpu"


def test_a_request_that_no_node_can_satisfy_waits_and_the_reason_is_reported(kubernetes, tmp_path, caplog):
    with opened(tmp_path, pod_timeout=0.5) as cluster:
        submit(cluster, "wait", resources=Resources(**SMALL, accelerators=(Accelerator(model="h100"),)))
        end = time.monotonic() + 30
        while "pods are waiting for a node" not in caplog.text:
            assert time.monotonic() < end
            assert all(update.state is not JobState.ENDED for update in cluster.poll(0.2))
    assert "0/3 nodes are available" in caplog.text


def test_jobs_and_pods_say_whose_they_are(kubernetes, tmp_path):
    with opened(tmp_path, owner="ada", labels={"team": "genomics"}, annotations={"note": "hello world"}) as cluster:
        wait_running(cluster, submit(cluster, "wait"))
        for kind in ("jobs", "pods"):
            (found,) = labelled(kubernetes, cluster, kind)
            assert found["metadata"]["labels"]["toilfn/owner"] == "ada"
            assert found["metadata"]["labels"]["team"] == "genomics"
            assert found["metadata"]["annotations"]["note"] == "hello world"


def test_secrets_and_config_maps_are_files_and_variables_and_seen_nowhere_else(kubernetes, tmp_path):
    data = {"KEY": base64.b64encode(SECRET.encode()).decode()}
    make(kubernetes, f"{DEFAULT}/secrets", metadata={"name": "vault"}, data=data)
    make(kubernetes, f"{DEFAULT}/configmaps", metadata={"name": "notes"}, data={"note": "hello"})
    places = {"secrets": {"/var/lib/toilfn-secrets": "vault"}, "config_maps": {"/var/lib/toilfn-notes": "notes"}}
    command = 'do echo "$KEY $PLAIN" $(cat /var/lib/toilfn-secrets/KEY /var/lib/toilfn-notes/note)'
    with opened(tmp_path, secret_env=["vault"], env={"PLAIN": "$(x) $y"}, **places) as cluster:
        jobs = submit(cluster, command)
        wait_for(lambda: labelled(kubernetes, cluster, "jobs"), "the job")
        (job,) = labelled(kubernetes, cluster, "jobs")
        assert ends(cluster, jobs)[command].cause is None
        assert (tmp_path / "output").read_text() == f"{SECRET} $(x) $y {SECRET}hello\n"
        assert SECRET not in json.dumps(job)


def test_pods_of_a_node_share_the_host_path(kubernetes, tmp_path):
    with opened(tmp_path, host_path=str(tmp_path / "on the node")) as cluster:
        assert run(cluster, 'do echo shared > "$TOILFN_WORK_DIR/file"').cause is None
    assert (tmp_path / "on the node" / "file").read_text() == "shared\n"


def test_a_template_is_laid_over_the_pod(kubernetes, tmp_path):
    template = {
        "metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/worker": "unconfined"}},
        "spec": {
            "priority": 0,
            "nodeSelector": {"kubernetes.io/hostname": "ordinary"},
            "tolerations": [{"key": "mine", "operator": "Exists"}],
            "containers": [{"name": "worker", "env": [{"name": "MORE", "value": "x"}], "workingDir": "/tmp"}],
        },
    }
    (tmp_path / "pod.yaml").write_text(json.dumps(template))  # which is YAML, too
    with opened(tmp_path, pod_template=str(tmp_path / "pod.yaml"), security_context={"runAsUser": 0}) as cluster:
        jobs = submit(cluster, "do echo $MORE")
        wait_for(lambda: labelled(kubernetes, cluster, "jobs"), "the job")
        (job,) = labelled(kubernetes, cluster, "jobs")
        assert all(update.cause is None for update in ends(cluster, jobs).values())
    pod = job["spec"]["template"]
    assert template["metadata"]["annotations"].items() <= pod["metadata"]["annotations"].items()
    assert pod["spec"]["nodeSelector"] == template["spec"]["nodeSelector"]
    assert pod["spec"]["containers"][0]["securityContext"] == {"runAsUser": 0}
    assert (tmp_path / "output").read_text() == "x\n"


def test_a_namespace_is_respected(kubernetes, tmp_path):
    make(kubernetes, "/api/v1/namespaces", metadata={"name": "lab"})
    with opened(tmp_path, namespace="lab") as cluster:
        jobs = submit(cluster, "do echo")
        wait_for(lambda: labelled(kubernetes, cluster, "jobs", "lab"), "the job")
        assert ends(cluster, jobs)["do echo"].cause is None


def test_too_long_is_named(kubernetes, tmp_path):
    with opened(tmp_path) as cluster:
        update = run(cluster, "wait", Resources(**SMALL, walltime=1.0))
    assert update.cause is Cause.WALLTIME
    assert "walltime" in update.detail


@pytest.mark.parametrize(("preemptible", "cause"), [(False, Cause.LOST), (True, Cause.PREEMPTED)])
def test_a_pod_that_a_person_removed_is_lost(kubernetes, tmp_path, preemptible, cause):
    with opened(tmp_path) as cluster:
        jobs = submit(cluster, "wait", resources=Resources(**SMALL, preemptible=preemptible))
        wait_running(cluster, jobs)
        (pod,) = labelled(kubernetes, cluster)
        name = pod["metadata"]["name"]
        kubernetes.ask(f"{DEFAULT}/pods/{name}", method="DELETE", body={"gracePeriodSeconds": 0})
        assert ends(cluster, jobs)["wait"].cause is cause


def test_a_job_that_a_person_removed_is_lost(kubernetes, tmp_path):
    with opened(tmp_path) as cluster:
        jobs = submit(cluster, "wait")
        wait_running(cluster, jobs)
        path = f"/apis/batch/v1/namespaces/default/jobs/{jobs['wait']}?propagationPolicy=Background"
        kubernetes.ask(path, method="DELETE")
        assert ends(cluster, jobs)["wait"].cause is Cause.LOST


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image": "no/such:image"}, "ImagePullBackOff.*no/such:image"),
        ({"secrets": {"/var/lib/x": "nowhere"}}, "FailedMount"),
        ({"secret_env": ["nowhere"]}, 'CreateContainerConfigError.*"nowhere" not found'),
        ({"service_account": "nobody"}, 'FailedCreate.*"nobody" not found'),
    ],
    ids=["image", "mounted secret", "secret in variables", "service account"],
)
def test_the_reason_why_pods_do_not_start_is_reported_after_the_timeout(kubernetes, tmp_path, settings, words):
    """A retry would not help: nothing ran yet, so the settings are wrong."""
    with opened(tmp_path, pod_timeout=2, **settings) as cluster:
        begin = time.monotonic()
        update = run(cluster, "do echo", limit=30)
        assert time.monotonic() - begin < 20
        assert update.cause is Cause.INPUT
        assert "(pod_timeout)" in update.detail
        assert re.search(words, update.detail), update.detail
        assert labelled(kubernetes, cluster, "jobs") == []


def test_the_image_comes_from_a_setting_or_from_the_variable_that_all_container_clusters_read(monkeypatch):
    def image(**settings):
        (container,) = KubernetesCluster(**settings).manifest()["spec"]["template"]["spec"]["containers"]
        return container["image"]

    monkeypatch.setenv("TOILFN_IMAGE", "registry/from-the-variable:1")
    assert image() == "registry/from-the-variable:1"
    assert image(image="registry/given:1") == "registry/given:1"


def refused(folder, **settings):
    begin = time.monotonic()
    with pytest.raises((ClusterError, InputError)) as caught, opened(folder, **settings):
        pass
    assert time.monotonic() - begin < 60
    return str(caught.value)


def test_wrong_settings_are_reported_at_once(kubernetes, tmp_path, monkeypatch):
    assert "namespace 'nowhere' not found" in refused(tmp_path, namespace="nowhere")
    assert "rejects the credentials" in refused(tmp_path, context="nobody")
    assert "needs an image with toilfn" in refused(tmp_path, image=None)
    assert "nowhere" in refused(tmp_path, context="nowhere")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert "no Kubernetes configuration found" in refused(tmp_path)


def test_an_api_that_does_not_exist_is_reported(kubernetes, tmp_path, monkeypatch):
    text = Path(kubernetes.environment["KUBECONFIG"]).read_text()
    (tmp_path / "config").write_text(text.replace("127.0.0.1:26860", "127.0.0.1:9"))
    assert "https://127.0.0.1:9 does not respond" in refused(tmp_path, kubeconfig=str(tmp_path / "config"), patience=3)
