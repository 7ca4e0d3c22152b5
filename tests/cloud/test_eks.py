"""Kubernetes on AWS, against moto: launched, found and removed, with a failure at each call."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

import moto
import pytest
import yaml
from botocore.session import get_session
from botocore.validate import validate_parameters

from toilfn import cli
from toilfn.cloud import eks
from toilfn.cloud.aws import AmazonCloud
from toilfn.cloud.description import read
from toilfn.cloud.policy import launcher_policy
from toilfn.cloud.steps import Step, destroy, found, launch
from toilfn.clusters.awsbatch.aws import Amazon, AmazonRefusalError
from toilfn.clusters.kubernetes.placement import PREEMPTIBLE_LABELS, tolerations
from toilfn.errors import ClusterError
from toilfn.resources import Resources

REGION = "eu-central-1"
TEXT = f"""\
name: NAME
kind: kubernetes
region: {REGION}
store: s3://bucket/prefix
tags: {{team: genomics}}
network: {{allow_from: [192.0.2.0/24]}}
pools:
  - name: cpu
    types: [c5.xlarge]
    max: 4
  - name: spot
    cores: 8
    memory: 32Gi
    spot: true
"""


class Recorded(Amazon):
    """Notes the calls, fails at one of them, and has the associations of pods, which moto lacks."""

    def __init__(self) -> None:
        super().__init__(REGION)
        self.calls: list[str] = []
        self.parameters: dict[str, dict] = {}
        self.fail_at: int | None = None
        self.is_sent = False
        self._associations: list[dict] = []
        self._model = get_session().get_service_model("eks")

    def ask(self, service, operation, **parameters):
        self.calls.append(f"{service}:{operation}")
        self.parameters[operation] = parameters
        if len(self.calls) - 1 != self.fail_at:
            return self._ask(service, operation, **parameters)
        if self.is_sent:
            with contextlib.suppress(AmazonRefusalError):
                self._ask(service, operation, **parameters)
        raise ClusterError("made to fail")

    def _ask(self, service, operation, **parameters):
        if "pod_identity" not in operation:
            answer = super().ask(service, operation, **parameters)
            if operation == "delete_cluster":
                self._associations = []
            return answer
        name = operation.title().replace("_", "")
        validate_parameters(parameters, self._model.operation_model(name).input_shape)
        super().ask("eks", "describe_cluster", name=parameters["clusterName"])
        own = [one for one in self._associations if one["clusterName"] == parameters["clusterName"]]
        if operation == "create_pod_identity_association":
            if own:
                raise AmazonRefusalError("it is there already", "ResourceInUseException")
            self._associations.append(parameters)
        return {"associations": own}


@pytest.fixture
def amazon():
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield Recorded()


def fresh(amazon: Recorded) -> tuple[AmazonCloud, list[Step]]:
    name = f"c{uuid.uuid4().hex[:12]}"
    cloud = AmazonCloud(name, REGION, amazon, pause=lambda seconds: None)
    return cloud, eks.steps_of(cloud, read(TEXT.replace("NAME", name)))


def quiet(line: str) -> None:
    pass


def everything(amazon: Recorded, name: str) -> list[str]:
    """All that carries a cluster's name, looked up without the code under test."""
    left = Amazon.ask(amazon, "eks", "list_clusters")["clusters"]
    left += [role["RoleName"] for role in Amazon.ask(amazon, "iam", "list_roles", PathPrefix="/toilfn/")["Roles"]]
    return [one for one in left if name in one]


def test_kubernetes_is_launched_found_and_destroyed_without_a_trace(amazon):
    cloud, steps = fresh(amazon)
    cloud.check(steps[0].description)
    launch(cloud.name, steps, quiet)
    assert eks.clusters(amazon) == [cloud.name]
    assert len(found(steps)) == 5  # three roles, the cluster, and the permissions of pods
    asked = amazon.parameters["create_cluster"]
    assert asked["computeConfig"]["enabled"]
    assert asked["resourcesVpcConfig"]["publicAccessCidrs"] == ["192.0.2.0/24"]
    assert asked["tags"] == {"team": "genomics", "toilfn-cluster": cloud.name}
    assert amazon.parameters["create_pod_identity_association"]["roleArn"].endswith("-tasks")
    with pytest.raises(ClusterError, match="already exists"):
        launch(cloud.name, steps, quiet)
    destroy(cloud.name, eks.steps_of(cloud), quiet)
    assert everything(amazon, cloud.name) == []
    destroy(cloud.name, eks.steps_of(cloud), quiet)


@pytest.mark.slow
def test_a_launch_or_a_destroy_that_fails_at_any_call_is_finished_by_the_next(amazon):
    cloud, steps = fresh(amazon)
    launch(cloud.name, steps, quiet)
    launched = len(amazon.calls)
    destroy(cloud.name, steps, quiet)
    for call in range(len(amazon.calls)):  # those of both, one after the other
        cloud, steps = fresh(amazon)
        amazon.fail_at, amazon.is_sent = len(amazon.calls) + call, call % 3 > 0
        with contextlib.suppress(ClusterError):
            launch(cloud.name, steps, quiet)
            destroy(cloud.name, eks.steps_of(cloud), quiet)
        amazon.fail_at = None
        if call < launched and call % 2:
            with contextlib.suppress(ClusterError):  # the last call of a launch may have arrived
                launch(cloud.name, steps, quiet)
            assert eks.clusters(amazon) == [cloud.name]
        destroy(cloud.name, eks.steps_of(cloud), quiet)
        assert everything(amazon, cloud.name) == [], f"call {call}"


def test_a_kubernetes_cluster_of_others_is_left_alone(amazon):
    cloud, _ = fresh(amazon)
    role = "arn:aws:iam::123456789012:role/x"
    amazon.ask("eks", "create_cluster", name=f"toilfn-{cloud.name}", roleArn=role, resourcesVpcConfig={})
    assert found(eks.steps_of(cloud)) == []
    destroy(cloud.name, eks.steps_of(cloud), quiet)
    assert everything(amazon, cloud.name) == [f"toilfn-{cloud.name}"]


def test_every_call_is_within_the_printed_policy_and_its_rights_on_eks_are_used(amazon):
    cloud, steps = fresh(amazon)
    cloud.check(steps[0].description)
    launch(cloud.name, steps, quiet)
    eks.clusters(amazon)
    destroy(cloud.name, steps, quiet)
    calls = {f"{call.partition(':')[0]}:{call.partition(':')[2].title().replace('_', '')}" for call in amazon.calls}
    allowed = {action for statement in launcher_policy()["Statement"] for action in statement["Action"]}
    assert calls <= allowed
    assert {action for action in allowed if action.startswith("eks:")} - calls == {"eks:TagResource"}


def test_pools_become_node_pools_that_tasks_reach(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text(TEXT.replace("NAME", "lab"))
    assert cli.main(["cluster", "manifests", "lab"]) == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    cpu, spot = (document["spec"] for document in documents if document["kind"] == "NodePool")
    sizes = {one["key"]: one["values"] for one in cpu["template"]["spec"]["requirements"]}
    assert sizes["node.kubernetes.io/instance-type"] == ["c5.xlarge"]
    assert cpu["limits"]["nodes"] == "4"
    assert "taints" not in cpu["template"]["spec"]
    sizes = {one["key"]: one["values"] for one in spot["template"]["spec"]["requirements"]}
    assert sizes["karpenter.sh/capacity-type"] == ["spot"]
    assert sizes["eks.amazonaws.com/instance-cpu"] == ["7"]  # more than seven
    assert sizes["eks.amazonaws.com/instance-memory"] == [str(32 * 1024 - 1)]
    (taint,) = spot["template"]["spec"]["taints"]
    tolerated = tolerations(Resources(preemptible=True), PREEMPTIBLE_LABELS, {})
    assert {"operator": "Equal", **taint} in tolerated


def test_the_rights_of_a_leader_are_the_role_of_the_examples():
    examples = Path(__file__).parents[2] / "examples" / "kubernetes" / "role.yaml"
    (wanted,) = [one["rules"] for one in yaml.safe_load_all(examples.read_text()) if one["kind"] == "Role"]
    written = yaml.safe_load_all(eks.manifests(read(TEXT.replace("NAME", "lab"))))
    (rules,) = [document["rules"] for document in written if document["kind"] == "Role"]
    assert rules == wanted
