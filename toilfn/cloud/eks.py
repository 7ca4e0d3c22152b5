"""Kubernetes on AWS: an EKS cluster in Auto Mode, where AWS creates and removes nodes as pods need them.

The pools of the description become objects in Kubernetes; `manifests` returns their YAML for kubectl.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from toilfn.cloud.aws import AmazonCloud, AmazonStep, RoleStep, ignoring
from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.kubernetes import SERVICE_ACCOUNT, KubernetesStep, account
from toilfn.cloud.policy import TAG, role_policy
from toilfn.cloud.steps import Step
from toilfn.clusters.awsbatch.aws import Amazon, AmazonRefusalError
from toilfn.clusters.kubernetes.placement import PREEMPTIBLE_LABELS

__all__ = ["clusters", "manifests", "steps_of"]

_GONE = ("ResourceNotFoundException", "NotFoundException")
_SPOT = "karpenter.sh/capacity-type"
_POLICIES = {
    "cluster": (
        "AmazonEKSClusterPolicy", "AmazonEKSComputePolicy", "AmazonEKSBlockStoragePolicy",
        "AmazonEKSLoadBalancingPolicy", "AmazonEKSNetworkingPolicy",
    ),
    "node": ("AmazonEKSWorkerNodeMinimalPolicy", "AmazonEC2ContainerRegistryPullOnly"),
    "tasks": (),
}  # fmt: skip
"""AWS's policies with the permissions that EKS and its nodes need. Tasks get access to the store only."""
_TRUSTED = {
    "cluster": ("eks.amazonaws.com", ["sts:AssumeRole", "sts:TagSession"]),
    "node": ("ec2.amazonaws.com", ["sts:AssumeRole"]),
    "tasks": ("pods.eks.amazonaws.com", ["sts:AssumeRole", "sts:TagSession"]),
}


def _found(cloud: AmazonCloud) -> dict[str, Any] | None:
    """Return the EKS cluster with this cluster's tag; None if there is none."""
    try:
        found: dict[str, Any] = cloud.ask("eks", "describe_cluster", name=f"toilfn-{cloud.name}")["cluster"]
    except AmazonRefusalError as error:
        if error.code in _GONE:
            return None
        raise
    return found if found.get("tags", {}).get(TAG) == cloud.name else None


class _Roles(RoleStep):
    """The roles of EKS, of its nodes, and of tasks, which may access the store."""

    title = "roles of Kubernetes"
    parts = tuple(_POLICIES)

    def make(self) -> None:
        there = self.exists()
        tags = self.cloud.tags(self.description, "role")[0]["Tags"]
        for name, part in zip(self.names(), self.parts, strict=True):
            service, actions = _TRUSTED[part]
            trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": actions}
            if name not in there:
                document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
                self.cloud.ask("iam", "create_role", RoleName=name, Path="/toilfn/", Tags=tags,
                               AssumeRolePolicyDocument=document)  # fmt: skip
            for policy in _POLICIES[part]:
                self.cloud.ask(
                    "iam", "attach_role_policy", RoleName=name, PolicyArn=f"arn:aws:iam::aws:policy/{policy}"
                )
            rights = role_policy(self.description, controller=False) if part == "tasks" else None
            if rights:
                self.cloud.ask("iam", "put_role_policy", RoleName=name, PolicyName="toilfn",
                               PolicyDocument=json.dumps(rights))  # fmt: skip

    def remove(self) -> None:
        for name, part in zip(self.names(), self.parts, strict=True):
            if self.is_mine(name):
                for policy in _POLICIES[part]:
                    with ignoring("NoSuchEntity"):
                        self.cloud.ask("iam", "detach_role_policy", RoleName=name,
                                       PolicyArn=f"arn:aws:iam::aws:policy/{policy}")  # fmt: skip
        super().remove()


class _Control(KubernetesStep[AmazonCloud]):
    """The EKS cluster."""

    ready, ending, changing = "ACTIVE", "DELETING", ("CREATING", "PENDING", "UPDATING")

    def find(self) -> dict[str, Any] | None:
        return _found(self.cloud)

    def create(self) -> None:
        description, network = self.description, self.description.network
        account = _Roles(self.cloud, description)
        arns = {part: self.cloud.ask("iam", "get_role", RoleName=name)["Role"]["Arn"]
                for name, part in zip(account.names(), account.parts, strict=True)}  # fmt: skip
        public = not network.private
        access: dict[str, Any] = (
            {"publicAccessCidrs": list(network.allow_from)} if public and network.allow_from else {}
        )
        self.cloud.ask(
            "eks", "create_cluster", name=f"toilfn-{self.cloud.name}", roleArn=arns["cluster"],
            resourcesVpcConfig={
                "subnetIds": [subnet["SubnetId"] for subnet in self.cloud.subnets(description)],
                "securityGroupIds": list(network.security_groups),
                "endpointPublicAccess": public, "endpointPrivateAccess": True, **access,
            },
            accessConfig={"authenticationMode": "API", "bootstrapClusterCreatorAdminPermissions": True},
            computeConfig={"enabled": True, "nodePools": ["system"], "nodeRoleArn": arns["node"]},
            kubernetesNetworkConfig={"elasticLoadBalancing": {"enabled": True}},
            storageConfig={"blockStorage": {"enabled": True}}, bootstrapSelfManagedAddons=False,
            tags={**description.tags, TAG: self.cloud.name},
        )  # fmt: skip

    def delete(self, found: dict[str, Any]) -> None:
        with ignoring(*_GONE):
            self.cloud.ask("eks", "delete_cluster", name=found["name"])


class _Access(AmazonStep):
    """The association of the service account with the role of tasks, so that their pods can access the store.

    It is removed with the EKS cluster.
    """

    title = "permissions of pods"

    def exists(self) -> list[str]:
        found = _found(self.cloud)
        if found is None or found["status"] != "ACTIVE":
            return []
        asked = {"clusterName": found["name"], "namespace": "default", "serviceAccount": SERVICE_ACCOUNT}
        try:
            there = self.cloud.ask("eks", "list_pod_identity_associations", **asked)["associations"]
        except AmazonRefusalError as error:
            if error.code in _GONE:
                return []
            raise
        return [f"service account default/{one['serviceAccount']}" for one in there]

    def make(self) -> None:
        name = next(name for name in _Roles(self.cloud, None).names() if name.endswith("-tasks"))
        role = self.cloud.ask("iam", "get_role", RoleName=name)["Role"]["Arn"]
        self.cloud.ask("eks", "create_pod_identity_association", clusterName=f"toilfn-{self.cloud.name}",
                       namespace="default", serviceAccount=SERVICE_ACCOUNT, roleArn=role,
                       tags={TAG: self.cloud.name})  # fmt: skip

    def remove(self) -> None:
        """Remove nothing, since the association is removed with the EKS cluster."""


def steps_of(cloud: AmazonCloud, description: Description | None = None) -> list[Step[AmazonCloud]]:
    """Return the steps of a Kubernetes cluster, in the order of launching."""
    return [_Roles(cloud, description), _Control(cloud, description), _Access(cloud, description)]


def clusters(amazon: Amazon) -> list[str]:
    """Return the names of the region's clusters of the kind kubernetes."""
    found: list[str] = []
    token: dict[str, str] = {}
    while True:
        answer = amazon.ask("eks", "list_clusters", **token)
        for name in answer["clusters"]:
            described = amazon.ask("eks", "describe_cluster", name=name)["cluster"]
            if own := described.get("tags", {}).get(TAG):
                found.append(own)
        if not answer.get("nextToken"):
            return found
        token = {"nextToken": answer["nextToken"]}


# The objects in Kubernetes


def manifests(description: Description) -> str:
    """Return YAML for `kubectl apply`: the node pools, the service account, and the permissions of leaders."""
    documents = [*map(_node_pool, description.pools), *account()]
    return yaml.safe_dump_all(documents, sort_keys=False)


def _node_pool(pool: PoolDescription) -> dict[str, Any]:
    requirements = [
        {"key": _SPOT, "operator": "In", "values": ["spot" if pool.spot else "on-demand"]},
        {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
        *_sizes(pool),
    ]
    value = PREEMPTIBLE_LABELS[_SPOT]
    taints = {"taints": [{"key": _SPOT, "value": value, "effect": "NoSchedule"}]} if pool.spot else {}
    reference = {"group": "eks.amazonaws.com", "kind": "NodeClass", "name": "default"}
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": pool.name},
        "spec": {
            "template": {
                "metadata": {"labels": {"toilfn-pool": pool.name}},
                "spec": {"nodeClassRef": reference, "requirements": requirements, **taints},
            },
            "disruption": {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "5m"},
            "limits": {"nodes": str(pool.max)},
        },
    }


def _sizes(pool: PoolDescription) -> list[dict[str, Any]]:
    if pool.types:
        return [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": list(pool.types)}]
    wanted = {"eks.amazonaws.com/instance-cpu": pool.cores, "eks.amazonaws.com/instance-memory": pool.memory}
    least = {"eks.amazonaws.com/instance-cpu": 1, "eks.amazonaws.com/instance-memory": 2**20}
    return [{"key": key, "operator": "Gt", "values": [str(int(amount / least[key]) - 1)]}
            for key, amount in wanted.items() if amount]  # fmt: skip
