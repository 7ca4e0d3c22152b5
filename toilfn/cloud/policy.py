"""The least rights on AWS that launching a cluster needs, and those of its machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toilfn.cloud.description import Description

__all__ = ["KIND", "TAG", "launcher_policy", "role_policy"]

TAG = "toilfn-cluster"
"""The tag of everything that belongs to a cluster; its value is the cluster's name."""
KIND = "toilfn-kind"
"""The tag of machines that are not those of a Slurm cluster."""

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
    """Return the rights that a person needs to launch and destroy clusters, and no more."""
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
    """Return the rights of a cluster's controller or of its workers; None if they need none."""
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
