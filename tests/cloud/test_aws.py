"""Clusters on AWS, against moto in this process: made, listed, grown and removed, with a failure at each call."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from dataclasses import astuple, replace

import moto
import pytest
from moto.ec2.models import ec2_backends, instance_types

from tests.servers.fixtures import *  # noqa: F403
from toilfn import cli
from toilfn.cloud.aws import tags_of
from toilfn.cloud.aws_machines import AmazonMachines
from toilfn.cloud.aws_slurm import steps_of
from toilfn.cloud.aws_types import spot_prices, with_types
from toilfn.cloud.bootstrap import Secrets
from toilfn.cloud.clouds import AmazonProvider
from toilfn.cloud.description import read
from toilfn.cloud.plan import price_notes
from toilfn.cloud.policy import launcher_policy, role_policy
from toilfn.cloud.steps import destroy, found, launch
from toilfn.clusters.awsbatch.aws import Amazon, AmazonRefusalError
from toilfn.errors import ClusterError, InputError
from toilfn.stores import open_store

REGION = "eu-central-1"
IMAGE = "ami-03cf127a"  # one of moto's
TEXT = f"""\
name: NAME
region: {REGION}
image: {IMAGE}
public_key: KEY
store: s3://bucket/prefix
tags: {{team: genomics}}
network: {{allow_from: [192.0.2.0/24]}}
pools:
  - name: cpu
    types: [c5.xlarge, c5.2xlarge]
    max: 4
  - name: spot
    types: [m5.large]
    spot: true
    max_price: 0.1
"""
SECRETS = Secrets.fresh()


class Recorded(Amazon):
    """Notes the calls, and fails at one of them: before it is sent, or after its answer came."""

    def __init__(self) -> None:
        super().__init__(REGION)
        self.calls: list[str] = []
        self.fail_at: int | None = None
        self.is_sent = False

    def ask(self, service, operation, **parameters):
        self.calls.append(f"{service}:{operation}")
        if len(self.calls) - 1 != self.fail_at:
            return super().ask(service, operation, **parameters)
        if self.is_sent:
            with contextlib.suppress(AmazonRefusalError):  # an answer that is lost may have been a refusal
                super().ask(service, operation, **parameters)
        raise ClusterError("made to fail")


@pytest.fixture
def amazon():
    with moto.mock_aws():
        yield Recorded()


def fresh(amazon) -> tuple[AmazonProvider, list]:
    name = f"c{uuid.uuid4().hex[:12]}"
    description = read(TEXT.replace("NAME", name).replace("KEY", SECRETS.host_public))
    cloud = AmazonProvider(name, REGION, amazon, pause=lambda seconds: None)
    return cloud, steps_of(cloud, description, SECRETS)


def quiet(line: str) -> None:
    pass


def everything(amazon, name: str) -> list[str]:
    """All that carries a cluster's tag or name, looked up without the code under test."""

    def ask(service, operation, **parameters):
        return Amazon.ask(amazon, service, operation, **parameters)

    own = [{"Name": "tag:toilfn-cluster", "Values": [name]}]
    left = [i["InstanceId"] for r in ask("ec2", "describe_instances", Filters=own)["Reservations"]
            for i in r["Instances"] if i["State"]["Name"] != "terminated"]  # fmt: skip
    left += [g["GroupId"] for g in ask("ec2", "describe_security_groups", Filters=own)["SecurityGroups"]]
    left += [v["VolumeId"] for v in ask("ec2", "describe_volumes", Filters=own)["Volumes"]]
    left += [k["KeyName"] for k in ask("ec2", "describe_key_pairs")["KeyPairs"] if name in k["KeyName"]]
    templates = ask("ec2", "describe_launch_templates")["LaunchTemplates"]
    left += [t["LaunchTemplateName"] for t in templates if name in t["LaunchTemplateName"]]
    left += [r["RoleName"] for r in ask("iam", "list_roles", PathPrefix="/toilfn/")["Roles"] if name in r["RoleName"]]
    profiles = ask("iam", "list_instance_profiles", PathPrefix="/toilfn/")["InstanceProfiles"]
    return left + [p["InstanceProfileName"] for p in profiles if name in p["InstanceProfileName"]]


def test_a_cluster_is_launched_listed_and_destroyed_without_a_trace(amazon):
    cloud, steps = fresh(amazon)
    launch(cloud.name, steps, quiet)
    controller = cloud.controller()
    assert controller["InstanceType"] == "t3.medium"
    assert tags_of(controller)["team"] == "genomics"
    assert tags_of(controller)["toilfn-host-key"] == SECRETS.host_public
    assert (cloud.name, "slurm", 1, True) in [astuple(cluster) for cluster in cloud.clusters()]
    assert {item.partition(":")[0] for item in found(steps)} >= {
        "roles", "instance profiles", "security groups", "key pairs", "launch templates", "machines",
    }  # fmt: skip
    destroy(cloud.name, steps_of(cloud), quiet)
    assert everything(amazon, cloud.name) == []
    destroy(cloud.name, steps_of(cloud), quiet)  # nothing to do


def test_a_second_launch_is_refused(amazon):
    cloud, steps = fresh(amazon)
    launch(cloud.name, steps, quiet)
    before = everything(amazon, cloud.name)
    with pytest.raises(ClusterError, match="already exists"):
        launch(cloud.name, steps, quiet)
    assert everything(amazon, cloud.name) == before
    destroy(cloud.name, steps, quiet)


def test_pools_grow_and_shrink_by_the_names_of_nodes(amazon):
    cloud, steps = fresh(amazon)
    launch(cloud.name, steps, quiet)
    description = steps[0].description
    machines = AmazonMachines(cloud, description)
    first = machines.create(description.pool("cpu"), ["cpu-0", "cpu-1"])
    assert set(first) == {"cpu-0", "cpu-1"}
    again = machines.create(description.pool("cpu"), ["cpu-0", "cpu-2"])
    assert again["cpu-0"] == first["cpu-0"]
    assert set(machines.create(description.pool("spot"), ["spot-0"])) == {"spot-0"}
    there = {tags_of(instance)["toilfn-node"]: instance for instance in cloud.instances()}
    assert set(there) == {"controller", "cpu-0", "cpu-1", "cpu-2", "spot-0"}
    assert there["cpu-0"]["InstanceType"] in ("c5.xlarge", "c5.2xlarge")
    assert tags_of(there["cpu-0"])["toilfn-controller"] == there["controller"]["PrivateIpAddress"]
    machines.terminate(["cpu-0", "cpu-2", "cpu-3"])
    assert {tags_of(i)["toilfn-node"] for i in cloud.instances("running")} == {"controller", "cpu-1", "spot-0"}
    destroy(cloud.name, steps, quiet)
    assert everything(amazon, cloud.name) == []


def forget_terminated() -> None:
    """Let moto forget machines that are gone, which it lists for ever: each answer would take longer than the last."""
    for backends in ec2_backends.values():
        for backend in backends.values():
            backend.reservations.clear()


@pytest.mark.slow
@pytest.mark.parametrize("is_sent", [False, True])
def test_a_launch_that_fails_at_any_call_says_what_exists_and_can_be_destroyed_or_repeated(amazon, is_sent):
    cloud, steps = fresh(amazon)
    launch(cloud.name, steps, quiet)
    calls = list(amazon.calls)
    assert len(calls) > 20
    destroy(cloud.name, steps, quiet)
    for call, operation in enumerate(calls):
        forget_terminated()
        cloud, steps = fresh(amazon)
        amazon.fail_at, amazon.is_sent = len(amazon.calls) + call, is_sent
        with pytest.raises(ClusterError, match="made to fail"):
            launch(cloud.name, steps, quiet)
        assert amazon.calls[amazon.fail_at] == operation
        amazon.fail_at = None
        if call % 2 and cloud.controller() is None:
            launch(cloud.name, steps, quiet)
            assert len(cloud.instances()) == 1
        destroy(cloud.name, steps_of(cloud), quiet)
        assert everything(amazon, cloud.name) == [], f"call {call}: {operation}"


@pytest.mark.slow
def test_a_destroy_that_fails_at_any_call_is_finished_by_the_next(amazon):
    call, is_reached = 0, True
    while is_reached:
        forget_terminated()
        cloud, steps = fresh(amazon)
        launch(cloud.name, steps, quiet)
        first = len(amazon.calls)
        amazon.fail_at, amazon.is_sent = first + call, call % 3 > 0
        is_finished = False
        with contextlib.suppress(ClusterError):
            destroy(cloud.name, steps_of(cloud), quiet)
            is_finished = True
        # How often it looks whether machines are gone differs, so a destroy that ends well says how many calls it had.
        is_reached = len(amazon.calls) > amazon.fail_at
        assert is_finished is not is_reached, f"call {call}: {amazon.calls[first:]}"
        amazon.fail_at = None
        destroy(cloud.name, steps_of(cloud), quiet)
        assert everything(amazon, cloud.name) == [], f"call {call}"
        call += 1
    assert call > 30


def test_resources_that_a_cluster_did_not_create_are_left_alone(amazon):
    cloud, steps = fresh(amazon)
    other, others = fresh(amazon)
    name = f"toilfn-{cloud.name}-{REGION}-worker"
    amazon.ask("iam", "create_role", RoleName=name, AssumeRolePolicyDocument="{}")
    launch(other.name, others, quiet)
    before = everything(amazon, other.name)
    destroy(cloud.name, steps, quiet)
    assert everything(amazon, other.name) == before
    assert amazon.ask("iam", "get_role", RoleName=name)
    destroy(other.name, others, quiet)
    amazon.ask("iam", "delete_role", RoleName=name)


def actions(calls) -> set[str]:
    return {f"{call.partition(':')[0]}:{call.partition(':')[2].title().replace('_', '')}" for call in calls}


def allowed(policy) -> set[str]:
    return {action for statement in policy["Statement"] for action in statement["Action"]}


def test_every_call_is_within_the_printed_policy_and_the_policy_has_no_more(amazon, capsys):
    cloud, steps = fresh(amazon)
    description = steps[0].description
    cloud.check(replace(description, image=IMAGE))
    spot_prices(cloud, description.pool("spot").types)
    launch(cloud.name, steps, quiet)
    destroy(cloud.name, steps, quiet)
    assert cli.main(["cluster", "policy"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == launcher_policy()
    never_by_name = {"ec2:CreateTags", "iam:TagRole", "iam:TagInstanceProfile", "iam:PassRole", "ec2:CreateFleet",
                     "ec2:DescribeImages", "ec2:DeleteVolume"}  # fmt: skip
    for_kubernetes = {action for action in allowed(printed) if action.startswith("eks:")}  # of test_eks.py
    for_kubernetes |= {"iam:AttachRolePolicy", "iam:DetachRolePolicy"}
    assert actions(amazon.calls) <= allowed(printed)
    assert allowed(printed) - actions(amazon.calls) <= never_by_name | for_kubernetes


def test_the_controller_calls_only_what_its_role_may(amazon):
    cloud, steps = fresh(amazon)
    launch(cloud.name, steps, quiet)
    description, before = steps[0].description, len(amazon.calls)
    machines = AmazonMachines(cloud, description)
    machines.create(description.pool("spot"), ["spot-0"])
    machines.terminate(["spot-0"])
    assert actions(amazon.calls[before:]) <= allowed(role_policy(description, controller=True))
    workers = role_policy(description, controller=False)
    assert {action.partition(":")[0] for action in allowed(workers)} == {"s3"}
    destroy(cloud.name, steps, quiet)


# Bad input


def refused(amazon, code: str, at: str):
    """Let an operation be refused for a reason, as AWS words it."""
    ask = amazon.ask

    def refuse(service, operation, **parameters):
        if operation == at:
            from toilfn.clusters.awsbatch.aws import _refusal

            raise _refusal(service, {"Error": {"Code": code, "Message": "no"}})
        return ask(service, operation, **parameters)

    amazon.ask = refuse


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("VcpuLimitExceeded", "request a higher quota from AWS"),
        ("ExpiredToken", "provide credentials with access to this service"),
        ("AuthFailure", "provide credentials with access to this service"),
        ("RequestExpired", "set this machine's clock"),
        ("UnauthorizedOperation", "grant this user or role the permission"),
        ("InsufficientInstanceCapacity", "what exists now: roles: "),
    ],
)
def test_a_refusal_at_the_last_step_says_why_and_leaves_nothing_behind_after_destroy(amazon, code, said):
    cloud, steps = fresh(amazon)
    ask = amazon.ask
    refused(amazon, code, "run_instances")
    with pytest.raises(ClusterError, match=re.escape(said)):
        launch(cloud.name, steps, quiet)
    amazon.ask = ask
    destroy(cloud.name, steps, quiet)
    assert everything(amazon, cloud.name) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("c5.xlarge", "c5.enormous", "lacks one of the machine types"),
        ("tags:", "zones: [eu-central-1z]\ntags:", "no subnet to use in zone 'eu-central-1z'"),
    ],
)
def test_settings_that_the_cloud_does_not_have_are_refused_before_anything_is_created(amazon, old, new, said):
    cloud, _ = fresh(amazon)
    text = TEXT.replace("NAME", cloud.name).replace("KEY", SECRETS.host_public).replace(old, new)
    with pytest.raises(InputError, match=re.escape(said)):
        cloud.check(read(text))
    assert everything(amazon, cloud.name) == []


# Types and prices


@pytest.fixture
def few_types(monkeypatch):
    """A region with some types only: moto needs half a minute to describe all of them on a busy machine."""
    backend = instance_types.InstanceTypeBackend
    families = ("c5a.", "c6g.", "c6i.", "g4dn.", "t3.")
    few = [kind for kind in backend.instance_types if kind["InstanceType"].startswith(families)]
    monkeypatch.setattr(backend, "instance_types", few)


def sized(amazon, text: str):
    cloud = AmazonProvider(f"c{uuid.uuid4().hex[:12]}", REGION, amazon, pause=lambda seconds: None)
    return cloud, with_types(cloud, read(text.replace("NAME", cloud.name)), {})


SIZED = f"""\
name: NAME
region: {REGION}
image: {IMAGE}
pools:
  - name: cpu
    cores: 14
    memory: 30Gi
"""


def test_a_pool_of_sizes_gets_the_smallest_types_that_are_large_enough(amazon, few_types):
    cloud, description = sized(amazon, SIZED)
    types = cloud.machine_types(description.pool("cpu").types)
    assert len(types) > 1
    assert all(kind.cores >= 14 and kind.memory >= 30 * 2**30 and not kind.accelerators for kind in types.values())
    assert {(kind.cores, kind.memory) for kind in types.values()} <= {(16, 30 * 2**30), (16, 32 * 2**30)}
    assert not any(name.startswith(("t", "c6g", "c7g")) for name in types)


def test_known_prices_decide_which_types_a_pool_of_sizes_gets(amazon, few_types):
    text = SIZED + "machines:\n  c6i.4xlarge: {cores: 16, memory: 32Gi, price: 0.5}\n"
    _, description = sized(amazon, text + "  c5a.12xlarge: {cores: 48, memory: 96Gi, price: 0.6}\n")
    assert description.pool("cpu").types == ("c6i.4xlarge", "c5a.12xlarge")


def test_sizes_that_no_type_has_name_the_nearest(amazon, few_types):
    with pytest.raises(InputError, match=r"pool cpu: no machine type has 5000 cores and 30 GiB of memory") as caught:
        sized(amazon, SIZED.replace("14", "5000"))
    assert "cores and" in caught.value.hint


def test_a_cluster_of_sizes_is_launched_and_grows_by_the_types_of_its_launch(
    amazon, few_types, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    name = f"c{uuid.uuid4().hex[:12]}"
    (tmp_path / "cluster.yaml").write_text(SIZED.replace("NAME", name))
    assert cli.main(["cluster", "launch", name]) == 0
    (types,) = re.findall("pool cpu: chose the machine types (.*)", capsys.readouterr().out)
    assert cli.main(["cluster", "grow", name, "cpu", "1", "--set", "cpu.cores=1"]) == 0
    capsys.readouterr()
    assert cli.main(["cluster", "show", name, "--json"]) == 0
    (machine,) = [m for m in json.loads(capsys.readouterr().out)["machines"] if m["node"] == "cpu-0"]
    assert machine["type"] in types.split(", ")


def test_the_lowest_current_price_of_the_zones_counts(amazon):
    cloud, _ = fresh(amazon)
    assert spot_prices(cloud, ["m5.large", "m5.xlarge"]) == {"m5.large": 0.00001, "m5.xlarge": 0.00001}
    assert spot_prices(cloud, []) == {}
    when = {"InstanceType": "m5.large"}
    answer = [
        when | {"AvailabilityZone": "a", "SpotPrice": "0.05"},
        when | {"AvailabilityZone": "b", "SpotPrice": "0.04"},
    ]
    amazon.ask = lambda service, operation, **parameters: {"SpotPriceHistory": answer}
    assert spot_prices(cloud, ["m5.large"]) == {"m5.large": 0.04}
    assert spot_prices(cloud, ["m5.large"], ["a"]) == {"m5.large": 0.05}


def test_a_limit_below_the_current_prices_is_mentioned(amazon):
    _, steps = fresh(amazon)
    description = steps[0].description  # its pool of spot machines has max_price 0.1
    assert price_notes(description, {"m5.large": 0.1}) == []
    (note,) = price_notes(description, {"m5.large": 0.12})
    assert note.startswith("pool spot: every type costs more than max_price 0.1 now")
    assert "m5.large (0.12)" in note


def test_without_credentials_one_line_says_so(monkeypatch, capsys, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert cli.main(["cluster", "list", "--region", REGION]) == 1
    assert "Unable to locate credentials" in capsys.readouterr().err


def test_a_run_from_launch_to_destroy_on_the_command_line(moto_server, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.url)
    monkeypatch.chdir(tmp_path)
    name = f"c{uuid.uuid4().hex[:12]}"
    (tmp_path / "key.pub").write_text(SECRETS.host_public)
    (tmp_path / "cluster.yaml").write_text(TEXT.replace("NAME", "other").replace("KEY", str(tmp_path / "key.pub")))
    assert cli.main(["cluster", "launch", name, "--set", "cpu.max=3"]) == 0
    assert cli.main(["cluster", "launch", name]) == 1
    assert cli.main(["cluster", "grow", name, "cpu", "2"]) == 0
    assert cli.main(["cluster", "grow", name, "cpu", "5"]) == 2
    capsys.readouterr()
    assert cli.main(["cluster", "show", name, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {machine["node"] for machine in shown["machines"]} == {"controller", "cpu-0", "cpu-1"}
    assert cli.main(["cluster", "list", "--json"]) == 0
    assert {"name": name, "kind": "slurm", "machines": 3, "controller": True} in json.loads(capsys.readouterr().out)
    assert cli.main(["cluster", "destroy", name]) == 0
    assert cli.main(["cluster", "show", name]) == 2
    assert f"cluster {name!r} not found" in capsys.readouterr().err


def test_a_store_is_removed_with_its_cluster_and_nothing_beside_it(moto_server, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.url)
    name = f"c{uuid.uuid4().hex[:12]}"
    beside = tmp_path / "place" / "mine.txt"
    beside.parent.mkdir()
    beside.write_text("mine")
    command = ["cluster", "destroy", name, "--region", REGION, "--store"]
    amazon = Amazon(REGION)
    own = [{"ResourceType": "volume", "Tags": [{"Key": "toilfn-cluster", "Value": name}]}]
    amazon.ask("ec2", "create_volume", AvailabilityZone=f"{REGION}a", Size=1, TagSpecifications=own)
    assert cli.main([*command, str(beside.parent)]) != 0  # this is not a store, and so the cluster stays, too
    assert len(everything(amazon, name)) == 1
    assert beside.exists()
    open_store(tmp_path / "place" / "store")
    assert cli.main([*command, str(tmp_path / "place" / "store")]) == 0
    assert everything(amazon, name) == []
    assert list(beside.parent.iterdir()) == [beside]
