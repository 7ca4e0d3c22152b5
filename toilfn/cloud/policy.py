"""The minimum permissions, on AWS and on Google Cloud, for launching a cluster, and those of the cluster's machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toilfn.cloud.description import Description

__all__ = [
    "KIND", "TAG", "google_controller_permissions", "google_launcher_role", "google_names_only", "google_store_only",
    "launcher_policy", "role_policy",
]  # fmt: skip

TAG = "toilfn-cluster"
"""The tag of all resources of a cluster. Its value is the cluster's name."""
KIND = "toilfn-kind"
"""The tag with the kind of the cluster, for machines that do not belong to a Slurm cluster."""

_DESCRIBE = (
    "DescribeInstances", "DescribeInstanceTypes", "DescribeSubnets", "DescribeImages", "DescribeSecurityGroups",
    "DescribeKeyPairs", "DescribeLaunchTemplates", "DescribeVolumes", "DescribeSpotPriceHistory",
)  # fmt: skip
_MAKE = (
    "CreateSecurityGroup", "AuthorizeSecurityGroupIngress", "ImportKeyPair", "CreateLaunchTemplate", "RunInstances",
    "CreateFleet", "CreateTags",
)  # fmt: skip
_REMOVE = ("TerminateInstances", "DeleteSecurityGroup", "DeleteKeyPair", "DeleteLaunchTemplate", "DeleteVolume")
_ROLES = (
    "GetRole", "CreateRole", "TagRole", "PutRolePolicy", "DeleteRolePolicy", "DeleteRole", "PassRole",
    "GetInstanceProfile", "CreateInstanceProfile", "TagInstanceProfile", "AddRoleToInstanceProfile",
    "RemoveRoleFromInstanceProfile", "DeleteInstanceProfile", "AttachRolePolicy", "DetachRolePolicy",
)  # fmt: skip
_KUBERNETES = (
    "ListClusters", "DescribeCluster", "CreateCluster", "DeleteCluster", "TagResource",
    "ListPodIdentityAssociations", "CreatePodIdentityAssociation",
)  # fmt: skip


def _allow(
    service: str, actions: Sequence[str], resource: str = "*", condition: dict[str, Any] | None = None
) -> dict[str, Any]:
    statement: dict[str, Any] = {"Effect": "Allow", "Action": [f"{service}:{a}" for a in actions], "Resource": resource}
    return statement | ({"Condition": condition} if condition else {})


def launcher_policy() -> dict[str, Any]:
    """Return the policy with the minimum permissions that a user needs to launch and destroy clusters on AWS."""
    tagged = {"Null": {f"aws:ResourceTag/{TAG}": "false"}}
    return {
        "Version": "2012-10-17",
        "Statement": [
            _allow("ec2", _DESCRIBE),
            _allow("ec2", _MAKE),
            _allow("ec2", _REMOVE, condition=tagged),
            _allow("eks", _KUBERNETES),
            _allow("iam", [a for a in _ROLES if "Profile" not in a], "arn:aws:iam::*:role/toilfn/*"),
            _allow("iam", [a for a in _ROLES if "Profile" in a], "arn:aws:iam::*:instance-profile/toilfn/*"),
            _allow(
                "iam", ["AddRoleToInstanceProfile", "RemoveRoleFromInstanceProfile"], "arn:aws:iam::*:role/toilfn/*"
            ),
        ],
    }


def role_policy(description: Description, *, controller: bool) -> dict[str, Any] | None:
    """Return the policy for a cluster's controller, or for its workers; None if they need no permissions."""
    statements = []
    if controller:
        own = {"StringEquals": {f"aws:ResourceTag/{TAG}": description.name}}
        statements += [
            _allow(
                "ec2", ["DescribeInstances", "DescribeSubnets", "DescribeInstanceTypes", "CreateFleet", "RunInstances"]
            ),
            _allow("ec2", ["TerminateInstances", "CreateTags"], condition=own),
            _allow("ec2", ["CreateTags"], condition={"StringEquals": {"ec2:CreateAction": "RunInstances"}}),
            _allow("iam", ["PassRole"], f"arn:aws:iam::*:role/toilfn/toilfn-{description.name}-*"),
        ]
    if description.store and description.store.startswith("s3://"):
        bucket, _, prefix = description.store.removeprefix("s3://").partition("/")
        objects = ["GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploadParts"]
        statements += [
            _allow("s3", objects, f"arn:aws:s3:::{bucket}/{prefix}*"),
            _allow("s3", ["ListBucket", "GetBucketLocation"], f"arn:aws:s3:::{bucket}"),
        ]
    return {"Version": "2012-10-17", "Statement": statements} if statements else None


# Google

_GOOGLE_LOOK = (
    "compute.disks.list", "compute.firewalls.list", "compute.globalOperations.get", "compute.globalOperations.list",
    "compute.images.getFromFamily", "compute.instanceTemplates.get", "compute.instanceTemplates.list",
    "compute.instances.list", "compute.machineTypes.list", "compute.regionOperations.get",
    "compute.regionOperations.list", "compute.regions.get", "compute.subnetworks.get", "compute.zoneOperations.get",
    "compute.zoneOperations.list", "container.clusters.list", "iam.roles.list", "iam.serviceAccounts.get",
    "iam.serviceAccounts.getIamPolicy", "resourcemanager.projects.getIamPolicy",
)  # fmt: skip
_GOOGLE_MAKE = (
    "compute.disks.create", "compute.disks.setLabels", "compute.firewalls.create", "compute.images.useReadOnly",
    "compute.instanceTemplates.create", "compute.instanceTemplates.useReadOnly", "compute.instances.create",
    "compute.instances.setLabels", "compute.instances.setMetadata", "compute.instances.setServiceAccount",
    "compute.instances.setTags", "compute.networks.updatePolicy", "compute.subnetworks.use",
    "compute.subnetworks.useExternalIp", "container.clusters.create", "iam.roles.create", "iam.serviceAccounts.actAs",
    "iam.serviceAccounts.create", "iam.serviceAccounts.setIamPolicy", "resourcemanager.projects.setIamPolicy",
)  # fmt: skip
_GOOGLE_REMOVE = (
    "compute.disks.delete", "compute.firewalls.delete", "compute.instanceTemplates.delete", "compute.instances.delete",
    "container.clusters.delete", "iam.roles.delete", "iam.serviceAccounts.delete",
)  # fmt: skip
_GOOGLE_CONTROLLER = (
    "compute.disks.create", "compute.disks.setLabels", "compute.images.useReadOnly", "compute.instanceTemplates.get",
    "compute.instanceTemplates.useReadOnly", "compute.instances.create", "compute.instances.delete",
    "compute.instances.list", "compute.instances.setLabels", "compute.instances.setMetadata",
    "compute.instances.setServiceAccount", "compute.instances.setTags", "compute.regionOperations.get",
    "compute.subnetworks.use", "compute.subnetworks.useExternalIp", "compute.zoneOperations.get",
)  # fmt: skip


def google_launcher_role() -> dict[str, Any]:
    """Return the role with the minimum permissions that a user needs to launch and destroy clusters on Google Cloud.

    It is in the form that `gcloud iam roles create --file` accepts.
    """
    return {
        "title": "toilfn launcher",
        "description": "launches and destroys toilfn clusters",
        "stage": "GA",
        "includedPermissions": sorted({*_GOOGLE_LOOK, *_GOOGLE_MAKE, *_GOOGLE_REMOVE}),
    }


def google_controller_permissions() -> list[str]:
    """Return the permissions of a cluster's controller on Google Cloud, which `google_names_only` restricts."""
    return list(_GOOGLE_CONTROLLER)


def google_names_only(cluster: str) -> str:
    """Return the condition that restricts a role to the instances and disks of a cluster."""
    kinds = {"instances": "compute.googleapis.com/Instance", "disks": "compute.googleapis.com/Disk"}
    return " && ".join(
        f'(resource.type != "{kind}" || resource.name.extract("/{part}/{{name}}").startsWith("toilfn-{cluster}-"))'
        for part, kind in kinds.items()
    )


def google_store_only(store: str) -> str:
    """Return the condition that restricts a role to the bucket of a store, and to the store's objects in it."""
    bucket, _, prefix = store.removeprefix("gs://").partition("/")
    path = f"projects/_/buckets/{bucket}"
    return f'resource.name == "{path}" || resource.name.startsWith("{path}/objects/{prefix}")'
