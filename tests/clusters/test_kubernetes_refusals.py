"""`KubernetesCluster` when the API refuses, forgets or is away, against a strict fake of it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.clusters.kubernetes_jobs import ends, opened, submit, wait_running
from tests.servers.fake.kubernetes import FakeKubernetes, RefusedError
from toilfn.clusters.base import Batch, JobState, RunContext
from toilfn.clusters.kubernetes import connection, verdict
from toilfn.clusters.kubernetes.cluster import KubernetesCluster
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Accelerator, Resources

JOBS = "/apis/batch/v1/namespaces/default/jobs"
GONE = "The provided continue parameter is too old to display a consistent list result"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    (tmp_path / "fake").mkdir()
    with FakeKubernetes(tmp_path / "fake").running() as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig()))
        yield fake
    assert fake.complaints == []


@pytest.fixture
def cluster(fake, tmp_path):
    with opened(tmp_path) as cluster:
        yield cluster


def until(cluster, condition, limit=30):
    """Poll until a condition holds; return the updates, among which may be the ends of jobs."""
    end = time.monotonic() + limit
    updates = []
    while not condition():
        assert time.monotonic() < end
        updates += cluster.poll(0.1)
    return updates


def refusal(folder, **settings):
    with pytest.raises((ClusterError, InputError)) as caught, opened(folder, **settings):
        pass
    return str(caught.value)


# What the server has forgotten, and streams that end.


def test_a_list_whose_next_page_has_expired_is_read_again_as_a_whole(fake, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "_PAGE", 2)
    names = [f"wait-{i}" for i in range(5)]
    jobs = submit(cluster, *names)
    wait_running(cluster, jobs)

    def expire(method, path, query):
        if "continue" in query:
            raise RefusedError(410, GONE)

    fake.refuse = expire
    assert cluster.list(cluster._context.workflow) == {id_: name for name, id_ in jobs.items()}
    Path(tmp_path, "go").touch()
    assert all(update.cause is None for update in ends(cluster, jobs).values())


def test_410_for_any_request_is_tried_again(fake, tmp_path):
    tries = {}

    def once(method, path, query):
        tries[method, path] = tries.get((method, path), 0) + 1
        if tries[method, path] == 1 and "watch" not in query:
            raise RefusedError(410, GONE)

    fake.refuse = once
    with opened(tmp_path) as cluster:
        assert ends(cluster, submit(cluster, "ok"))["ok"].cause is None
        assert cluster.list("none") == {}


def reads(fake, kind):
    """Count the leader's requests; the nodes' are for all namespaces."""
    return sum(method == "GET" and path.endswith(f"/namespaces/default/{kind}") for method, path in fake.requests)


def wait_for_streams(cluster):
    """Wait until both watchers have a stream that `fake.cut` can end."""
    until(cluster, lambda: all(watcher._opened < float("inf") for watcher in cluster._watchers))


@pytest.mark.parametrize("code", [410, 500, 403, 429, None])
def test_streams_that_end_with_an_error_at_once_are_opened_again_after_longer_and_longer_pauses(fake, cluster, code):
    wait_for_streams(cluster)
    fake.stream_error = {"message": "too old resource version"} | ({"code": code} if code else {})
    fake.cut()
    watcher = cluster._watchers[1]
    until(cluster, lambda: watcher._pause >= 0.8)
    before = reads(fake, "pods")
    until(cluster, lambda: watcher._pause >= 3.2)
    assert reads(fake, "pods") - before <= 6  # two requests for each of at most three pauses
    fake.stream_error = None
    assert ends(cluster, submit(cluster, "ok"))["ok"].cause is None
    until(cluster, lambda: watcher.trouble() is None)


def test_streams_that_end_at_once_are_opened_again_after_longer_and_longer_pauses(fake, cluster):
    wait_for_streams(cluster)
    fake.changes = lambda kind, query: iter(())
    fake.cut()
    until(cluster, lambda: cluster._watchers[0]._pause >= 0.8)
    del fake.changes
    assert ends(cluster, submit(cluster, "ok"))["ok"].cause is None


# An API that is away.


def test_an_outage_is_reported_once_and_the_run_survives_it(fake, tmp_path, caplog):
    outages = []

    def away(method, path, query):
        raise RefusedError(503, "the server is currently unable to handle the request")

    with opened(tmp_path, outages.append) as cluster:
        jobs = submit(cluster, "wait")
        wait_running(cluster, jobs)
        wait_for_streams(cluster)
        fake.refuse = away
        fake.cut()
        until(cluster, lambda: outages)
        jobs |= submit(cluster, "later")
        until(cluster, lambda: cluster._watchers[0]._pause >= 1.6)
        fake.refuse = lambda method, path, query: None
        Path(tmp_path, "go").touch()
        assert {name: update.cause for name, update in ends(cluster, jobs).items()} == {"wait": None, "later": None}
        until(cluster, lambda: len(outages) == 2)
    assert "503" in outages[0]
    assert outages[1] == ""
    assert caplog.text.count("waiting for it for at most") == 1
    assert "Kubernetes is responding again" in caplog.text


@pytest.mark.parametrize(
    ("status", "words"),
    [(503, "is temporarily unavailable"), (401, "credentials are wrong or have expired"), (403, "role.yaml")],
)
def test_after_a_long_outage_the_run_ends_with_its_reason_and_leaves_the_jobs_alone(fake, tmp_path, status, words):
    def away(method, path, query):
        if method == "GET":
            raise RefusedError(status, 'pods is forbidden: User "u" cannot watch resource "pods"')

    with opened(tmp_path, patience=1) as cluster:
        wait_running(cluster, submit(cluster, "wait"))
        wait_for_streams(cluster)
        fake.refuse = away
        fake.cut()
        with pytest.raises(ClusterError, match=words) as caught:
            until(cluster, lambda: False)
    assert "the jobs keep running" in str(caught.value)
    assert [kind for kind, _ in fake.objects] == ["jobs", "pods"]
    assert not any(method == "DELETE" for method, _ in fake.requests)


def test_credentials_that_expire_are_waited_for_and_read_again(fake, tmp_path):
    with opened(tmp_path) as cluster:
        jobs = submit(cluster, "wait")
        wait_running(cluster, jobs)
        wait_for_streams(cluster)
        fake.token = "a new one"
        fake.cut()
        until(cluster, lambda: any(watcher.trouble() for watcher in cluster._watchers))
        fake.kubeconfig()
        Path(tmp_path, "go").touch()
        assert ends(cluster, jobs)["wait"].cause is None


# Rights.


@pytest.mark.parametrize("right", ["create jobs", "delete jobs", "list jobs", "watch jobs", "list pods", "watch pods"])
def test_a_right_that_is_missing_is_named_at_the_start(fake, tmp_path, right):
    fake.denied = {right}
    said = refusal(tmp_path)
    assert f"does not allow this user to {right} in the namespace 'default'" in said
    assert "examples/kubernetes/role.yaml" in said
    assert f"kubectl auth can-i {right} -n default" in said


def test_all_rights_that_are_missing_are_named_together(fake, tmp_path):
    fake.denied = {"watch jobs", "watch pods"}
    assert "watch jobs, watch pods" in refusal(tmp_path)


def test_a_right_that_only_helps_is_named_in_a_warning(fake, tmp_path, caplog):
    fake.denied = {"get pods/log", "list events", "delete pods"}
    with opened(tmp_path) as cluster:
        assert ends(cluster, submit(cluster, "fail"))["fail"].cause is Cause.ERROR
    for right, loss in {"get pods/log": "output of failed workers", "list events": "pods do not start"}.items():
        assert f"does not allow this user to {right}" in caplog.text
        assert loss in caplog.text


def test_a_server_that_does_not_answer_questions_about_rights_is_used_all_the_same(fake, tmp_path):
    def never(method, path, query):
        if "selfsubjectaccessreviews" in path:
            raise RefusedError(403, "selfsubjectaccessreviews is forbidden")

    fake.refuse = never
    with opened(tmp_path) as cluster:
        assert ends(cluster, submit(cluster, "ok"))["ok"].cause is None


# Quotas.


def quota(limit):
    def check(method, path, query):
        if (method, path) == ("POST", JOBS) and sum(kind == "jobs" for kind, _ in fake_jobs()) >= limit:
            raise RefusedError(
                403,
                f'jobs.batch "x" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, '
                f"used: count/jobs.batch={limit}, limited: count/jobs.batch={limit}",
            )

    fake_jobs = None

    def bound(fake):
        nonlocal fake_jobs
        fake_jobs = lambda: list(fake.objects)  # noqa: E731
        fake.refuse = check

    return bound


def test_a_quota_on_jobs_is_waited_for_like_one_on_pods(fake, tmp_path, caplog):
    with opened(tmp_path, max_array_size=1) as cluster:
        quota(2)(fake)
        jobs = submit(cluster, *(f"ok-{i}" for i in range(5)))
        assert all(update.cause is None for update in ends(cluster, jobs).values())
    assert caplog.text.count("jobs are waiting for the namespace's quota") == 1
    assert "role.yaml" not in caplog.text


def test_a_job_that_waits_for_the_quota_can_be_ended(fake, tmp_path):
    with opened(tmp_path, max_array_size=1) as cluster:
        quota(1)(fake)
        jobs = submit(cluster, "wait-0", "wait-1")
        wait_running(cluster, {"wait-0": jobs["wait-0"]})
        cluster.kill(jobs.values())
        assert {update.cause for update in ends(cluster, jobs).values()} == {Cause.LOST}
    assert not fake.objects or all("deletionTimestamp" in item["metadata"] for item in fake.objects.values())


def test_a_quota_without_room_for_one_job_ends_the_task_at_once(fake, cluster):
    quota(0)(fake)
    update = ends(cluster, submit(cluster, "ok"))["ok"]
    assert update.cause is Cause.INPUT
    assert verdict.QUOTA_TOO_SMALL in update.detail


# A slow API.


@pytest.fixture
def held(fake):
    """Let each request that makes a job take until the event is set."""
    go = threading.Event()

    def hold(method, path, query):
        if (method, path) == ("POST", JOBS):
            assert go.wait(60)

    yield lambda: setattr(fake, "refuse", hold) or go
    go.set()


def posts(fake):
    return sum(request == ("POST", JOBS) for request in fake.requests)


def test_the_leader_polls_while_the_api_takes_its_time(fake, cluster, held, tmp_path):
    first = submit(cluster, "wait-0")
    wait_running(cluster, first)
    go = held()
    others = submit(cluster, "ok-1", "ok-2")
    until(cluster, lambda: posts(fake) == 2)
    Path(tmp_path, "go").touch()
    assert ends(cluster, first)["wait-0"].cause is None
    assert len([kind for kind, _ in fake.objects if kind == "jobs"]) <= 1
    go.set()
    assert {update.cause for update in ends(cluster, others).values()} == {None}


@pytest.mark.parametrize("way", ["kill", "close"])
def test_a_job_that_is_killed_while_it_is_sent_is_deleted(fake, tmp_path, held, way):
    with opened(tmp_path) as cluster:
        go = held()
        jobs = submit(cluster, "wait-0")
        until(cluster, lambda: posts(fake) == 1)
        if way == "kill":
            cluster.kill(jobs.values())
        threading.Timer(0.2, go.set).start()  # the answer comes after the order to end it
        if way == "kill":
            assert ends(cluster, jobs)["wait-0"].cause is Cause.LOST
    assert not fake.objects or all("deletionTimestamp" in item["metadata"] for item in fake.objects.values())


def test_a_job_whose_answer_was_lost_is_deleted_when_it_is_ended(fake, tmp_path):
    """The API server creates the job, but its answer is lost."""

    def lose(method, path, query):
        if (method, path) == ("POST", JOBS):
            raise RefusedError(504, "the request has timed out")

    with opened(tmp_path) as cluster:
        fake.refuse_after = lose
        jobs = submit(cluster, "wait-0")
        until(cluster, lambda: fake.objects)
        cluster.kill(jobs.values())
        assert ends(cluster, jobs)["wait-0"].cause is Cause.LOST
    assert not fake.objects or all("deletionTimestamp" in item["metadata"] for item in fake.objects.values())


def pod_quota(amount, number):
    return (
        f'Error creating: pods "toilfn-x-{number}" is forbidden: exceeded quota: q, requested: {amount}, '
        f"used: requests.memory=0, limited: requests.memory=100Mi"
    )


def test_a_quota_without_room_for_one_pod_ends_the_task_after_the_timeout(fake, tmp_path):
    fake.quota = pod_quota("requests.memory=300Mi", "1")
    with opened(tmp_path, pod_timeout=0.2) as cluster:
        update = ends(cluster, submit(cluster, "ok"))["ok"]
    assert update.cause is Cause.INPUT
    assert "requests.memory=300Mi" in update.detail
    assert verdict.QUOTA_TOO_SMALL in update.detail


def test_pods_that_wait_for_a_quota_are_one_warning_whatever_their_names(fake, tmp_path, caplog):
    with opened(tmp_path, pod_timeout=0.1) as cluster:
        for number in range(5):
            fake.quota = pod_quota("requests.memory=60Mi", f"{number}abc")
            jobs = submit(cluster, f"ok-{number}")
            before = reads(fake, "events")
            until(cluster, lambda before=before: reads(fake, "events") > before + 1)
        assert all(job in cluster._live for job in jobs.values())
    assert caplog.text.count("the namespace's quota") == 1


@pytest.mark.parametrize(
    ("requested", "limited", "is_final"),
    [
        ("pods=1", "pods=2", False),
        ("pods=1", "pods=0", True),
        ("limits.cpu=1500m", "limits.cpu=1", True),
        ("limits.cpu=500m,limits.memory=1Gi", "limits.cpu=1,limits.memory=1000M", True),
        ("limits.memory=1Gi", "limits.memory=1.5Gi", False),
        ("limits.memory=1000000000", "limits.memory=1G", False),
        ("requests.nvidia.com/gpu=2", "requests.nvidia.com/gpu=1.", True),
        ("x=?", "x=1", False),
    ],
)
def test_whether_a_quota_can_ever_be_enough(requested, limited, is_final):
    used = ",".join(f"{pair.partition('=')[0]}=0" for pair in requested.split(","))
    said = f"exceeded quota: q, requested: {requested}, used: {used}, limited: {limited}"
    assert verdict.exceeds_whole_quota(said) is is_final
    assert not verdict.exceeds_whole_quota("exceeded quota")


# Refusals of one job, and what is wrong in settings.


def test_a_job_that_is_refused_fails_and_leaves_the_others_alone(fake, cluster, tmp_path):
    jobs = submit(cluster, "wait")
    wait_running(cluster, jobs)

    def policy(method, path, query):
        if (method, path) == ("POST", JOBS):
            raise RefusedError(403, "admission webhook denied the request: at most 1 core")

    fake.refuse = policy
    other = submit(cluster, "large")
    update = ends(cluster, other)["large"]
    assert update.cause is Cause.INPUT
    assert "at most 1 core" in update.detail
    assert "role.yaml" not in update.detail
    Path(tmp_path, "go").touch()
    assert ends(cluster, jobs)["wait"].cause is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pod_template": {"spec": {"nodeselector": {"a": "b"}}}}, ["nodeselector", "pod_template"]),
        ({"labels": {"team": 1.5}}, ["labels.team"]),
        ({"annotations": {"note": {}}}, ["annotations.note"]),
        ({"security_context": {"runAsUser": "me"}}, ["runAsUser", "security_context"]),
        ({"owner": "ada@lab.org"}, ["owner='ada@lab.org'", "63 letters"]),
        ({"owner": ""}, ["owner=''"]),
    ],
    ids=["template", "labels", "annotations", "security", "owner", "no owner"],
)
def test_a_setting_that_fits_no_job_is_named_at_the_start(fake, tmp_path, settings, words):
    said = refusal(tmp_path, **settings)
    assert all(word in said for word in words), said
    assert not fake.objects


@pytest.mark.parametrize(
    ("name", "label"), [("ada@lab.org", "ada-lab.org"), ("LAB\\ada", "LAB-ada"), ("_ada_", "ada"), ("é", "unknown")]
)
def test_any_login_name_becomes_a_label(fake, tmp_path, monkeypatch, name, label):
    monkeypatch.setenv("LOGNAME", name)
    with opened(tmp_path) as cluster:
        submit(cluster, "wait")
        until(cluster, lambda: fake.objects)
        (job,) = (item for (kind, _), item in fake.objects.items() if kind == "jobs")
        assert job["metadata"]["labels"]["toilfn/owner"] == label


@pytest.mark.parametrize(
    ("accelerator", "settings", "resource"),
    [
        (Accelerator(), {}, "nvidia.com/gpu"),
        (Accelerator(brand="NVIDIA"), {}, "nvidia.com/gpu"),
        (Accelerator(brand="AMD", kind="GPU"), {}, "amd.com/gpu"),
        (Accelerator(kind="tpu"), {}, "google.com/tpu"),
        (Accelerator(kind="TPU", brand="Google"), {}, "google.com/tpu"),
        (Accelerator(kind="neuron"), {}, "aws.amazon.com/neuron"),
        (Accelerator(brand="habana", kind="gaudi"), {}, "habana.ai/gaudi"),
        (Accelerator(brand="Habana"), {"accelerator_resources": {"habana": "habana.ai/gaudi"}}, "habana.ai/gaudi"),
        (Accelerator(), {"accelerator_resources": {"GPU": "nvidia.com/mig-1g.5gb"}}, "nvidia.com/mig-1g.5gb"),
    ],
)
def test_an_accelerator_is_asked_for_by_its_device_plugins_name(accelerator, settings, resource):
    cluster = KubernetesCluster(image="x", **settings)
    cluster._context = RunContext("file:///store", "w")
    batch = Batch("b", "b", Resources(accelerators=(accelerator,)))
    pod = cluster.manifest(_submission(batch))["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"][resource] == "1"
    assert {"key": resource, "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


def _submission(batch):
    from toilfn.clusters.common.settings import Submission

    return Submission("toilfn-w-1", (batch,), batch.resources, "")


def test_files_of_secrets_can_be_read_by_the_user_of_the_container(fake, cluster):
    cluster.settings["secrets"] = {"/etc/vault": "vault"}
    volumes = cluster.manifest()["spec"]["template"]["spec"]["volumes"]
    assert [volume["secret"]["defaultMode"] & 0o444 for volume in volumes if "secret" in volume] == [0o444]


def test_a_pod_is_never_taken_for_ended_because_of_an_unsent_job(fake, tmp_path):
    """A list that was read while the job was not sent yet says nothing about it."""
    with opened(tmp_path, max_array_size=1) as cluster:
        quota(1)(fake)
        jobs = submit(cluster, "wait-0", "wait-1")
        wait_running(cluster, {"wait-0": jobs["wait-0"]})
        fake.forget()
        seen = reads(fake, "jobs")
        updates = until(cluster, lambda: reads(fake, "jobs") > seen + 1)
        assert all(update.state is not JobState.ENDED for update in updates)
        Path(tmp_path, "go").touch()
        assert all(update.cause is None for update in ends(cluster, jobs).values())


# The "restricted" level of the Pod Security Standards.


def violations(pod):
    """List the violations of the level "restricted" of Kubernetes' Pod Security Standards."""
    containers = [*pod["containers"], *pod.get("initContainers", [])]
    volumes = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    whole = pod.get("securityContext", {})
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    found += [f"volume {volume['name']}" for volume in pod["volumes"] if not volumes & volume.keys()]
    for container in containers:
        own = {**whole, **container.get("securityContext", {})}
        capabilities = own.get("capabilities", {})
        rules = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "runAsNonRoot": own.get("runAsNonRoot") is True,
            "runAsUser": own.get("runAsUser") != 0,
            "seccompProfile": own.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "drop": "ALL" in capabilities.get("drop", ()),
            "add": set(capabilities.get("add", ())) <= {"NET_BIND_SERVICE"},
            "hostPort": not any(port.get("hostPort") for port in container.get("ports", ())),
        }
        found += [name for name, is_kept in rules.items() if not is_kept]
    return found


def test_the_example_makes_pods_for_the_restricted_level(fake, tmp_path):
    template = Path(__file__).parents[2] / "examples" / "kubernetes" / "restricted.yaml"
    with opened(tmp_path, pod_template=str(template), secrets={"/etc/vault": "vault"}) as cluster:
        restricted = cluster.manifest()["spec"]["template"]["spec"]
    assert violations(restricted) == []
    ordinary = KubernetesCluster(image="x", host_path="/data").manifest()["spec"]["template"]["spec"]
    assert {"runAsNonRoot", "seccompProfile", "drop", "volume toilfn-0"} <= set(violations(ordinary))
