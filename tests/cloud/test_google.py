"""Clusters on Google Cloud, against a strict fake: made, listed, grown and removed, with a failure at each call."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.servers.google import PROJECT, REGION, FakeGoogle, RefusalError
from tests.servers.machine import ServerMissingError, missing
from toilfn import cli
from toilfn.cloud import google_client
from toilfn.cloud.bootstrap import Secrets, controller_data, worker_data
from toilfn.cloud.clouds import GoogleProvider
from toilfn.cloud.description import Description, read, template
from toilfn.cloud.google import disk_of
from toilfn.cloud.google_client import Google
from toilfn.cloud.policy import google_controller_permissions, google_launcher_role
from toilfn.cloud.steps import Step, destroy, found, launch
from toilfn.cloud.toil_words import from_words
from toilfn.errors import ClusterError, InputError

TEXT = f"""\
name: NAME
cloud: google
kind: slurm
project: {PROJECT}
region: {REGION}
public_key: KEY
store: gs://bucket/prefix
tags: {{team: genomics}}
network: {{allow_from: [192.0.2.0/24]}}
pools:
  - name: cpu
    types: [n2-standard-4, c4-standard-8]
    disk: 60Gi
    disks: {{c4-standard-8: 100Gi}}
    max: 4
  - name: spot
    types: [n2d-standard-4]
    spot: true
"""
SECRETS = Secrets.fresh()
KINDS = ("slurm", "kubernetes")


@pytest.fixture
def google(monkeypatch) -> FakeGoogle:
    fake = FakeGoogle()
    monkeypatch.setattr(google_client, "open_session", lambda: (fake.session(), PROJECT))
    return fake


def described(name: str = "lab", kind: str = "slurm", *settings: str) -> Description:
    text = TEXT.replace("NAME", name).replace("KEY", SECRETS.host_public).replace("kind: slurm", f"kind: {kind}")
    return read(text, settings=settings)


def steps_for(kind: str = "slurm", name: str = "lab", *settings: str) -> tuple[GoogleProvider, list[Step], Description]:
    description = described(name, kind, *settings)
    cloud = GoogleProvider(name, REGION, Google(PROJECT), pause=lambda seconds: None)
    return cloud, cloud.steps(description, SECRETS), description


def quiet(line: str) -> None:
    pass


def everything(google: FakeGoogle, name: str = "lab") -> list[str]:
    """All that a cluster has in the fake: resources of each type, and its accounts in the project's policy."""
    google.settle()
    kinds = ("instances", "disks", "firewalls", "templates", "accounts", "roles", "clusters")
    left = [str(key) for kind in kinds for key in getattr(google, kind)]
    left += [member for binding in google.policy["bindings"] for member in binding["members"]]
    return [item for item in left if re.search(rf"toilfn[-_]{name}[-_]|toilfn-{name}$", item)]


def test_a_cluster_is_launched_listed_and_destroyed_without_a_trace(google):
    cloud, steps, description = steps_for()
    cloud.check(description)
    launch("lab", steps, quiet)
    (controller,) = cloud.machines()
    assert (controller.node, controller.type, controller.state) == ("controller", "e2-medium", "RUNNING")
    assert controller.host_key == SECRETS.host_public
    assert controller.address.startswith("198.51.100.")
    ((_, instance),) = google.instances.items()
    assert instance["labels"] == {"team": "genomics", "toilfn-cluster": "lab", "toilfn-node": "controller"}
    metadata = {item["key"]: item["value"] for item in instance["metadata"]["items"]}
    assert metadata["ssh-keys"] == f"admin:{SECRETS.host_public}"
    assert {item.partition(":")[0] for item in found(steps)} == {
        "service accounts", "roles", "permissions", "firewall rules", "instance templates", "disks", "machines",
    }  # fmt: skip
    (listed,) = cloud.clusters()
    assert (listed.name, listed.kind, listed.machines, listed.controller) == ("lab", "slurm", 1, True)
    destroy("lab", cloud.steps(), quiet)
    assert everything(google) == []
    destroy("lab", cloud.steps(), quiet)  # nothing to do


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_launch_is_refused(google, kind):
    cloud, steps, _ = steps_for(kind)
    launch("lab", steps, quiet)
    before = everything(google)
    with pytest.raises(ClusterError, match="already exists"):
        launch("lab", steps, quiet)
    assert everything(google) == before
    destroy("lab", cloud.steps(), quiet)
    assert everything(google) == []


def test_connections_come_from_named_addresses_and_from_the_cluster_alone(google):
    _, steps, _ = steps_for()
    launch("lab", steps, quiet)
    inner, ssh, closed = (google.firewalls[f"toilfn-lab-{name}"] for name in ("inner", "ssh", "closed"))
    assert inner["sourceTags"] == ["toilfn-lab"]
    assert ssh["sourceRanges"] == ["192.0.2.0/24"]
    assert closed["denied"] == [{"IPProtocol": "all"}]
    assert max(inner["priority"], ssh["priority"]) < closed["priority"]
    assert all(rule["targetTags"] == ["toilfn-lab"] for rule in (inner, ssh, closed))


def test_without_public_addresses_and_with_a_given_account_fewer_resources_are_made(google):
    cloud, steps, _ = steps_for("slurm", "lab", "network.private=true", f"profile=given@{PROJECT}.example.org")
    launch("lab", steps, quiet)
    ((_, instance),) = google.instances.items()
    assert instance["networkInterfaces"][0]["accessConfigs"] == []
    assert instance["serviceAccounts"][0]["email"].startswith("given@")
    assert not google.accounts
    assert not google.roles
    assert "compute.subnetworks.useExternalIp" not in google.needed
    assert cloud.machines()[0].address.startswith("10.")
    destroy("lab", cloud.steps(), quiet)
    assert everything(google) == []


def test_pools_grow_and_shrink_by_the_names_of_nodes(google):
    cloud, steps, description = steps_for()
    launch("lab", steps, quiet)
    machines = cloud.pools(description)
    first = machines.create(description.pool("cpu"), ["cpu-0", "cpu-1"])
    assert set(first) == {"cpu-0", "cpu-1"}
    again = machines.create(description.pool("cpu"), ["cpu-0", "cpu-2"])
    assert again["cpu-0"] == first["cpu-0"]
    assert set(machines.create(description.pool("spot"), ["spot-0"])) == {"spot-0"}
    there = {machine.node: machine for machine in cloud.machines()}
    assert set(there) == {"controller", "cpu-0", "cpu-1", "cpu-2", "spot-0"}
    assert {there["cpu-0"].type, there["cpu-1"].type} == {"n2-standard-4", "c4-standard-8"}
    by_name = {name: instance for (_, name), instance in google.instances.items()}
    spot = by_name["toilfn-lab-spot-0"]
    assert spot["scheduling"]["provisioningModel"] == "SPOT"
    assert spot["scheduling"]["instanceTerminationAction"] == "DELETE"
    metadata = {item["key"]: item["value"] for item in spot["metadata"]["items"]}
    assert metadata["toilfn-controller"] == by_name["toilfn-lab-controller"]["networkInterfaces"][0]["networkIP"]
    assert "user-data" in metadata
    disks = {i["disks"][0]["initializeParams"]["diskType"]: i["disks"][0]["initializeParams"]["diskSizeGb"]
             for i in by_name.values() if "cpu" in i["name"]}  # fmt: skip
    assert disks == {"pd-balanced": "60", "hyperdisk-balanced": "100"}
    machines.terminate(["cpu-0", "cpu-2", "cpu-3"])
    google.settle()
    assert {machine.node for machine in cloud.machines()} == {"controller", "cpu-1", "spot-0"}
    destroy("lab", cloud.steps(), quiet)
    assert everything(google) == []


def test_a_node_that_was_stopped_is_replaced(google):
    cloud, steps, description = steps_for()
    launch("lab", steps, quiet)
    machines = cloud.pools(description)
    first = machines.create(description.pool("spot"), ["spot-0"])
    next(i for i in google.instances.values() if "spot-0" in i["name"])["status"] = "TERMINATED"
    second = machines.create(description.pool("spot"), ["spot-0"])
    assert second["spot-0"] != first["spot-0"]


def test_missing_spot_machines_are_replaced_on_demand_in_part(google):
    cloud, steps, description = steps_for("slurm", "lab", "scaling.compensation=0.5")
    launch("lab", steps, quiet)
    google.full = {"SPOT"}
    found = cloud.pools(description).create(description.pool("spot"), [f"spot-{index}" for index in range(4)])
    assert set(found) == {"spot-0", "spot-1"}
    google.full = {"SPOT", *[f"{REGION}-{letter}" for letter in "abc"]}
    assert cloud.pools(description).create(description.pool("cpu"), ["cpu-0"]) == {}


def test_a_bulk_insert_that_fails_for_another_reason_than_capacity_says_so(google):
    cloud, steps, description = steps_for()
    launch("lab", steps, quiet)
    google.refused["compute.regionInstances.bulkInsert"] = RefusalError(403, "quotaExceeded", "Quota 'CPUS' exceeded")
    with pytest.raises(ClusterError, match="request a higher quota from Google"):
        cloud.pools(description).create(description.pool("cpu"), ["cpu-0"])


def test_the_controller_is_made_in_the_next_zone_if_one_has_no_machines(google):
    cloud, steps, _ = steps_for()
    google.full = {f"{REGION}-a"}
    launch("lab", steps, quiet)
    assert [zone for zone, _ in google.instances] == [f"{REGION}-b"]
    destroy("lab", cloud.steps(), quiet)
    assert everything(google) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_sent", [False, True])
def test_a_launch_that_fails_at_any_call_says_what_exists_and_can_be_destroyed_or_repeated(google, kind, is_sent):
    google.is_slow = True
    cloud, steps, _ = steps_for(kind)
    launch("lab", steps, quiet)
    calls = list(google.calls)
    assert len(calls) > 15
    destroy("lab", cloud.steps(), quiet)
    for call, method in enumerate(calls):
        google.fail_at, google.is_sent = len(google.calls) + call, is_sent
        with pytest.raises(ClusterError, match="made to fail"):
            launch("lab", steps, quiet)
        assert google.calls[google.fail_at] == method
        google.fail_at = None
        cloud.settle()
        if call % 2 and not steps[-1].exists():
            launch("lab", steps, quiet)
            assert steps[-1].exists()
        destroy("lab", cloud.steps(), quiet)
        assert everything(google) == [], f"call {call}: {method}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_destroy_that_fails_at_any_call_is_finished_by_the_next(google, kind):
    call, is_reached = 0, True
    while is_reached:
        cloud, steps, description = steps_for(kind)
        launch("lab", steps, quiet)
        if kind == "slurm":
            cloud.pools(description).create(description.pool("cpu"), ["cpu-0"])
        google.fail_at, google.is_sent = len(google.calls) + call, call % 3 > 0
        is_finished = False
        with contextlib.suppress(ClusterError):
            destroy("lab", cloud.steps(), quiet)
            is_finished = True
        is_reached = len(google.calls) > google.fail_at
        assert is_finished is not is_reached, f"call {call}"
        google.fail_at = None
        destroy("lab", cloud.steps(), quiet)
        assert everything(google) == [], f"call {call}"
        call += 1
    assert call > 20


@pytest.mark.parametrize("is_by_a_person", [False, True])
def test_machines_that_are_still_being_made_are_found_by_the_first_destroy(google, is_by_a_person):
    cloud, steps, description = steps_for()
    other, others, _ = steps_for("slurm", "other")
    launch("lab", steps, quiet)
    launch("other", others, quiet)
    google.is_slow = True
    if is_by_a_person:
        google.fail_at = len(google.calls) + 3  # the connection breaks when Google has the request
        google.is_sent = True
        with pytest.raises(ClusterError, match="made to fail"):
            cloud.pools(description).create(description.pool("cpu"), ["cpu-0", "cpu-1"])
        google.fail_at = None
        assert google.calls[-1] == "compute.regionInstances.bulkInsert"
    else:  # the controller asks for them at the moment when it is deleted
        delete = google._instances_delete

        def delete_late(values, body):
            google._instances_delete = delete
            with contextlib.suppress(ClusterError):
                google.fail_at, google.is_sent = len(google.calls) + 3, True
                cloud.pools(description).create(description.pool("cpu"), ["cpu-0", "cpu-1"])
            google.fail_at = None
            return delete(values, body)

        google._instances_delete = delete_late
    assert not any("cpu" in name for _, name in google.instances)
    destroy("lab", cloud.steps(), quiet)
    assert everything(google) == []
    destroy("other", other.steps(), quiet)


def test_a_change_that_fails_later_is_an_error_of_the_launch(google):
    cloud, steps, _ = steps_for()
    google.broken["compute.firewalls.insert"] = ("QUOTA_EXCEEDED", "Quota 'FIREWALLS' exceeded")
    with pytest.raises(ClusterError, match=r"firewall rules could not be created.*FIREWALLS"):
        launch("lab", steps, quiet)
    google.broken.clear()
    launch("lab", steps, quiet)
    destroy("lab", cloud.steps(), quiet)
    assert everything(google) == []


@pytest.mark.parametrize("kind", KINDS)
def test_resources_that_a_cluster_did_not_create_are_left_alone(google, kind):
    cloud, _, _ = steps_for(kind)
    other, others, _ = steps_for(kind, "other")
    part = "w" if kind == "slurm" else "n"
    account = f"toilfn-lab-{part}@{PROJECT}.iam.gserviceaccount.com"
    google.accounts[account] = {"email": account, "description": "of a person"}
    google.policy["bindings"].append({"role": "roles/viewer", "members": [f"serviceAccount:{account}"]})
    google.firewalls["toilfn-lab-ssh"] = {"name": "toilfn-lab-ssh", "description": "of a person"}
    launch("other", others, quiet)
    before, mine = everything(google, "other"), everything(google)
    destroy("lab", cloud.steps(), quiet)
    assert everything(google, "other") == before
    assert everything(google) == mine
    destroy("other", other.steps(), quiet)
    assert everything(google, "other") == []
    assert [binding["role"] for binding in google.policy["bindings"]] == ["roles/owner", "roles/viewer"]


def test_permissions_of_an_account_that_was_deleted_too_early_are_removed(google):
    cloud, steps, _ = steps_for()
    launch("lab", steps, quiet)
    account = cloud.account_of("worker")
    google._serviceAccounts_delete({"name": f"x/{account}"}, None)
    assert any(member.startswith("deleted:") for b in google.policy["bindings"] for member in b["members"])
    destroy("lab", cloud.steps(), quiet)
    assert everything(google) == []


def test_a_change_of_the_policy_that_comes_between_is_not_lost(google):
    cloud, steps, _ = steps_for()
    reads = 0
    answer = google._projects_getIamPolicy

    def read_and_change(values, body):
        nonlocal reads
        policy = answer(values, body)
        reads += 1
        if reads == 1:
            bindings = [*google.policy["bindings"], {"role": "roles/viewer", "members": ["user:a@example.org"]}]
            google.policy = {**google.policy, "bindings": bindings, "etag": "7"}
        return policy

    google._projects_getIamPolicy = read_and_change
    launch("lab", steps, quiet)
    assert "roles/viewer" in [binding["role"] for binding in google.policy["bindings"]]
    destroy("lab", cloud.steps(), quiet)
    assert [binding["role"] for binding in google.policy["bindings"]] == ["roles/owner", "roles/viewer"]


# Rights


def test_every_call_is_within_the_printed_role_and_the_role_has_no_more(google, capsys):
    assert cli.main(["cluster", "policy", "--cloud", "google"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == google_launcher_role()
    google.granted = set(printed["includedPermissions"])
    for kind in KINDS:
        cloud, steps, description = steps_for(kind)
        cloud.check(description)
        launch("lab", steps, quiet)
        if kind == "slurm":
            cloud.pools(description).create(description.pool("cpu"), ["cpu-0"])
            google.disks[f"{REGION}-a", "left"] = {
                "name": "left", "zone": f"{REGION}-a", "labels": {"toilfn-cluster": "lab"}
            }  # fmt: skip
        cloud.clusters()
        assert found(cloud.steps())
        destroy("lab", cloud.steps(), quiet)
        assert everything(google) == []
    of_public_images = {"compute.images.getFromFamily", "compute.images.useReadOnly"}
    assert google.granted - google.needed == of_public_images


def test_a_missing_permission_is_named(google):
    _, steps, _ = steps_for()
    google.granted = set(google_launcher_role()["includedPermissions"]) - {"compute.firewalls.create"}
    with pytest.raises(ClusterError, match=r"(?s)compute\.firewalls\.create.*toilfn cluster policy --cloud google"):
        launch("lab", steps, quiet)


def test_the_controller_calls_only_what_its_role_may_and_only_about_its_own_machines(google):
    cloud, steps, description = steps_for()
    launch("lab", steps, quiet)
    (role,) = google.roles.values()
    trusted = google.account_policies[cloud.account_of("worker")]["bindings"]
    assert trusted == [
        {"role": "roles/iam.serviceAccountUser", "members": [f"serviceAccount:{cloud.account_of('controller')}"]}
    ]
    google.granted = {*role["includedPermissions"], "iam.serviceAccounts.actAs"}
    google.needed.clear()
    machines = cloud.pools(description)
    machines.create(description.pool("spot"), ["spot-0"])
    next(i for i in google.instances.values() if "spot-0" in i["name"])["status"] = "TERMINATED"
    machines.create(description.pool("spot"), ["spot-0"])
    machines.terminate(["spot-0"])
    assert set(google_controller_permissions()) - google.needed == {"compute.images.useReadOnly"}
    conditions = {b["role"]: b.get("condition", {}).get("expression", "") for b in google.policy["bindings"]}
    assert 'startsWith("toilfn-lab-")' in conditions[role["name"]]
    assert 'startsWith("projects/_/buckets/bucket/objects/prefix")' in conditions["roles/storage.objectUser"]


# Bad input


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (RefusalError(403, "quotaExceeded", "Quota 'CPUS' exceeded"), "request a higher quota from Google"),
        (RefusalError(401, "authError", "Invalid Credentials"), "gcloud auth application-default login"),
        (RefusalError(403, "accessNotConfigured", "API has not been used"), "enable this API in the project"),
        (RefusalError(409, "alreadyExists", "The resource already exists"), "alreadyExists"),
        (RefusalError(503, "backendError", "try again"), "what exists now: service accounts: "),
    ],
)
def test_a_refusal_at_the_last_step_says_why_and_leaves_nothing_behind_after_destroy(google, refusal, said):
    cloud, steps, _ = steps_for()
    google.refused["compute.instances.insert"] = refusal
    with pytest.raises(ClusterError, match=re.escape(said)):
        launch("lab", steps, quiet)
    destroy("lab", cloud.steps(), quiet)
    assert everything(google) == []


def test_no_capacity_in_any_zone_says_what_to_do(google):
    _, steps, _ = steps_for()
    google.full = {f"{REGION}-{letter}" for letter in "abc"}
    with pytest.raises(ClusterError, match="add zones or machine types"):
        launch("lab", steps, quiet)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("region=mars", "Google has no region 'mars'"),
        (f"zones=[{REGION}-z]", f"has no zone '{REGION}-z'; choose from its zones: {REGION}-a"),
        ("cpu.types=[n2-standard-9]", "has the machine type n2-standard-9"),
        ("network.subnets=[nowhere]", "has no subnet 'nowhere'"),
        ("pools=[{name: big, cores: 4}]", "pool big: on Google Cloud, pools need types"),
    ],
)
def test_settings_that_the_cloud_does_not_have_are_refused_before_anything_is_created(google, setting, said):
    settings = [setting] if setting.startswith("pools") else [setting, "cpu.disks={}"]
    cloud, _, description = steps_for("slurm", "lab", *settings)
    with pytest.raises(InputError, match=re.escape(said)):
        cloud.check(description)
    assert everything(google) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["name=a-name-of-many-letters"], "name: on Google Cloud, the name of a cluster has at most 20 characters"),
        (["spot.max_price=1"], "pools[1].max_price: Google has no price limits"),
        (["key=mine"], "key: Google has no key pairs"),
        (["tags.Team=x"], "tags.Team: use only lower-case letters"),
        (["project=x"], "project: 'x' is not the id of a project"),
        (["cloud=aws"], "project: only Google has projects"),
        (["network.subnets=[a, b]"], "network.subnets: list one subnet"),
        (["cpu.name=controller"], "pools[0].name: the name 'controller' is reserved"),
    ],
)
def test_a_value_that_google_does_not_allow_is_named_with_its_place(settings, said):
    with pytest.raises(InputError) as caught:
        described("lab", "slurm", *settings)
    assert said in str(caught.value)


def test_a_mistake_for_google_is_named_with_its_line():
    with pytest.raises(InputError, match=r"cluster\.yaml:19: pools\[1\]\.max_price"):
        read(TEXT.replace("NAME", "lab").replace("KEY", "key.pub") + "    max_price: 1\n")


def test_the_template_is_a_description_at_google():
    description = read(template("lab", cloud="google"))
    assert (description.cloud, description.region, description.controller) == ("google", "us-central1", "e2-medium")


def test_spot_machines_without_a_bid_are_written_with_an_empty_one():
    assert from_words("n2-standard-4:", None) == [{"name": "pool1", "types": ["n2-standard-4"], "spot": True}]


@pytest.mark.parametrize(
    ("kind", "disk"),
    [("n2-standard-4", "pd-balanced"), ("c4-standard-8", "hyperdisk-balanced"), ("f1-micro", "pd-balanced")],
)
def test_newer_machines_have_newer_disks(kind, disk):
    assert disk_of(kind) == disk


def test_without_credentials_one_line_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    assert cli.main(["cluster", "list", "--cloud", "google", "--project", PROJECT]) == 1
    said = capsys.readouterr().err
    assert "none.json" in said
    assert "gcloud auth application-default login" in said


def test_credentials_that_have_expired_are_one_line(google, monkeypatch, capsys):
    from google.auth.exceptions import RefreshError

    def expired(*args, **more):
        raise RefreshError("invalid_grant: Token has been expired or revoked.")

    session = google.session()
    monkeypatch.setattr(session, "request", expired)
    monkeypatch.setattr(google_client, "open_session", lambda: (session, PROJECT))
    assert cli.main(["cluster", "list", "--cloud", "google"]) == 1
    assert "Token has been expired or revoked" in capsys.readouterr().err


# Kubernetes


def test_pools_become_node_pools_and_spot_machines_have_a_taint(google):
    cloud, steps, description = steps_for("kubernetes")
    cloud.check(description)
    launch("lab", steps, quiet)
    assert [cluster.kind for cluster in cloud.clusters()] == ["kubernetes"]
    (cluster,) = google.clusters.values()
    pools = {pool["name"]: pool for pool in cluster["nodePools"]}
    assert set(pools) == {"system", "cpu-0", "cpu-1", "spot"}
    assert pools["cpu-0"]["autoscaling"]["totalMaxNodeCount"] == 4
    assert [pools[name]["config"]["diskSizeGb"] for name in ("cpu-0", "cpu-1")] == [60, 100]
    (taint,) = pools["spot"]["config"]["taints"]
    assert taint == {"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NO_SCHEDULE"}
    assert cluster["masterAuthorizedNetworksConfig"]["cidrBlocks"] == [{"cidrBlock": "192.0.2.0/24"}]
    roles = {binding["role"]: binding["members"] for binding in google.policy["bindings"]}
    assert roles["roles/container.defaultNodeServiceAccount"] == [f"serviceAccount:{cloud.account_of('nodes')}"]
    assert roles["roles/storage.objectUser"] == [f"serviceAccount:{cloud.account_of('tasks')}"]
    account, *_ = yaml.safe_load_all(cloud.manifests(description))
    assert account["metadata"]["annotations"] == {"iam.gke.io/gcp-service-account": cloud.account_of("tasks")}
    (binding,) = google.account_policies[cloud.account_of("tasks")]["bindings"]
    assert binding["members"] == [f"serviceAccount:{PROJECT}.svc.id.goog[default/toilfn]"]
    destroy("lab", cloud.steps(), quiet)
    assert everything(google) == []


def test_a_cluster_that_is_still_being_created_is_destroyed_when_it_is_ready(google):
    cloud, steps, _ = steps_for("kubernetes")
    launch("lab", steps, quiet)
    google.clusters["toilfn-lab"]["status"] = "PROVISIONING"
    destroy("lab", cloud.steps(), quiet)
    assert everything(google) == []


def test_machines_of_a_managed_kubernetes_are_not_those_of_slurm(google):
    cloud, steps, _ = steps_for("kubernetes")
    launch("lab", steps, quiet)
    labels = {"toilfn-cluster": "lab", "goog-gke-node": ""}
    google.instances[f"{REGION}-a", "gke-1"] = {"name": "gke-1", "labels": labels, "zone": f"{REGION}-a"}
    assert cloud.machines() == []
    assert [cluster.kind for cluster in cloud.clusters()] == ["kubernetes"]


def test_a_project_without_kubernetes_is_one_without_clusters_of_it(google):
    google.refused["container.projects.locations.clusters.list"] = RefusalError(
        403, "accessNotConfigured", "not enabled"
    )
    cloud, steps, _ = steps_for()
    launch("lab", steps, quiet)
    assert [cluster.name for cluster in cloud.clusters()] == ["lab"]
    destroy("lab", cloud.steps(), quiet)
    assert everything(google) == []


# The command line and the machines' boot data


def test_a_run_from_launch_to_destroy_on_the_command_line(google, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.pub").write_text(SECRETS.host_public)
    (tmp_path / "cluster.yaml").write_text(TEXT.replace("NAME", "other").replace("KEY", str(tmp_path / "key.pub")))
    assert cli.main(["cluster", "launch", "lab", "--set", "cpu.max=3", "--dry-run"]) == 0
    assert everything(google) == []
    assert cli.main(["cluster", "launch", "lab", "--set", "cpu.max=3"]) == 0
    assert cli.main(["cluster", "launch", "lab"]) == 1
    assert cli.main(["cluster", "grow", "lab", "cpu", "2"]) == 0
    assert cli.main(["cluster", "grow", "lab", "cpu", "5"]) == 2
    capsys.readouterr()
    assert cli.main(["cluster", "show", "lab", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {machine["node"] for machine in shown["machines"]} == {"controller", "cpu-0", "cpu-1"}
    assert cli.main(["cluster", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "lab", "kind": "slurm", "machines": 3, "controller": True}]
    asked = []
    monkeypatch.setattr("toilfn.cloud.ssh.ssh", lambda host, words, identity: asked.append((host, words)) or 0)
    assert cli.main(["cluster", "ssh", "lab", "--", "sinfo"]) == 0
    ((host, words),) = asked
    ((_, controller),) = [one for one in google.instances.items() if "controller" in one[0][1]]
    metadata = {item["key"]: item["value"] for item in controller["metadata"]["items"]}
    assert (host.key, words) == (metadata["toilfn-host-key"], ["sinfo"])
    (tmp_path / "cluster.yaml").unlink()  # destroy needs no description
    assert cli.main(["cluster", "destroy", "lab", "--cloud", "google"]) == 0
    assert everything(google) == []
    assert cli.main(["cluster", "show", "lab", "--cloud", "google"]) == 2
    assert "cluster 'lab' not found in project" in capsys.readouterr().err


@pytest.mark.parametrize("container", [None, "registry.example.org/lab/tools:1"])
@pytest.mark.parametrize("part", ["controller", "worker"])
def test_cloud_init_and_shellcheck_accept_what_machines_boot_with(google, tmp_path, part, container):
    settings = [f"container={container}"] if container else []
    cloud, _, description = steps_for("slurm", "lab", *settings)
    sizes = cloud.machine_types(description, ["n2-standard-4", "c4-standard-8", "n2d-standard-4"])
    data = controller_data(description, sizes, SECRETS) if part == "controller" else worker_data(description, SECRETS)
    file = tmp_path / "user-data"
    file.write_text(data)
    commands = [["cloud-init", "schema", "--config-file", str(file)]]
    for written in yaml.safe_load(data)["write_files"]:
        content = base64.b64decode(written["content"])
        if content.startswith(b"#!/bin/sh"):
            script = tmp_path / Path(written["path"]).name
            script.write_bytes(content)
            commands.append(["shellcheck", str(script)])
    assert len(commands) > 2
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            missing(ServerMissingError(f"{command[0]} is not installed"))
        assert done.returncode == 0, done.stdout + done.stderr
    boot = (tmp_path / "boot").read_text()
    assert ("/opt/image" in boot) is bool(container)
    if part == "controller":
        assert (f"podman create --quiet {container}" in boot) is bool(container)
        assert f"ln -sf /opt/{'image' if container else 'toilfn'}/bin/toilfn /usr/local/bin/toilfn" in boot
    else:
        assert "node=${node#toilfn-lab-}" in boot
