"""A cluster on AWS: its machines, and the requests that several kinds of resources need."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from toilfn.cloud.description import Description
from toilfn.cloud.machines import MachineType
from toilfn.cloud.policy import TAG
from toilfn.cloud.provider import CONTROLLER
from toilfn.cloud.steps import Step
from toilfn.clusters.awsbatch.aws import Amazon, AmazonRefusalError
from toilfn.errors import ClusterError, InputError
from toilfn.resources import Accelerator

__all__ = [
    "ADDRESS", "GONE", "HOST_KEY", "LIVING", "NODE", "POOL", "TYPES", "AmazonCloud", "AmazonStep", "RoleStep",
    "ignoring", "machine_type", "tags_of",
]  # fmt: skip

NODE, POOL, HOST_KEY = "toilfn-node", "toilfn-pool", "toilfn-host-key"
ADDRESS = "toilfn-controller"
"""The tag of a node with the address of the controller."""
TYPES = "toilfn-types"
"""The tag of a pool's launch template with the types of its machines."""

LIVING = ["pending", "running", "stopping", "stopped", "shutting-down"]
GONE = (
    "NoSuchEntity", "InvalidGroup.NotFound", "InvalidInstanceID.NotFound", "InvalidKeyPair.NotFound",
    "InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateName.NotFoundException", "InvalidVolume.NotFound",
    "InvalidGroupId.NotFound", "InvalidSpotInstanceRequestID.NotFound",
)  # fmt: skip
_IN_USE = ("DependencyViolation", "DeleteConflict", "ResourceInUse")
_DEBIAN = "136693071363"


@contextmanager
def ignoring(*codes: str) -> Iterator[None]:
    """Ignore refusals with these error codes."""
    try:
        yield
    except AmazonRefusalError as error:
        if error.code not in codes:
            raise


class AmazonCloud:
    """The access to AWS for one cluster.

    Parameters
    ----------
    name, region : str
        The cluster's name and region.
    amazon : Amazon, optional
        The client that sends requests. Default: one with the credentials that botocore finds.
    pause : callable, optional
        A function that waits for a number of seconds.
    """

    name: str
    pause: Callable[[float], None]

    def __init__(
        self, name: str, region: str, amazon: Amazon | None = None, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.name = name
        self.region = region
        self.pause = pause
        self.amazon = amazon or Amazon(region)

    def ask(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation of a service."""
        return self.amazon.ask(service, operation, **parameters)

    def pages(self, operation: str, items: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield the items of all pages of an EC2 response."""
        token: dict[str, str] = {}
        while True:
            answer = self.ask("ec2", operation, **parameters, **token)
            yield from answer[items]
            if not answer.get("NextToken"):
                return
            token = {"NextToken": answer["NextToken"]}

    def mine(self, operation: str, items: str, *filters: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the items with this cluster's tag."""
        own = {"Name": f"tag:{TAG}", "Values": [self.name]}
        return list(self.pages(operation, items, Filters=[own, *filters]))

    def instances(self, *states: str) -> list[dict[str, Any]]:
        """Return this cluster's instances in these states; by default, all that are not terminated."""
        state = {"Name": "instance-state-name", "Values": list(states) or LIVING}
        return [
            i
            for reservation in self.mine("describe_instances", "Reservations", state)
            for i in reservation["Instances"]
        ]

    def controller(self) -> dict[str, Any] | None:
        """Return the controller's instance; None if there is none that is starting or running."""
        return next((i for i in self.instances() if tags_of(i).get(NODE) == CONTROLLER), None)

    def terminate(self, ids: Sequence[str], limit: float = 600.0) -> None:
        """Terminate instances, and wait until they are terminated.

        Raises
        ------
        ClusterError
            If that takes longer than the limit, in seconds.
        """
        if not ids:
            return
        with ignoring(*GONE):
            self.ask("ec2", "terminate_instances", InstanceIds=list(ids))
        waited = 0.0
        while left := [i["InstanceId"] for i in self.instances() if i["InstanceId"] in ids]:
            if waited >= limit:
                raise ClusterError(
                    f"{', '.join(left)}: their termination was requested, but they still exist after {limit:g} seconds"
                )
            self.pause(5)
            waited += 5

    def insistently(self, act: Callable[[], Any], limit: float = 300.0) -> None:
        """Remove a resource, and retry while another resource still uses it, for at most `limit` seconds.

        It is not an error if the resource no longer exists.
        """
        waited = 0.0
        while True:
            try:
                with ignoring(*GONE):
                    act()
                return
            except AmazonRefusalError as error:
                if error.code not in _IN_USE or waited >= limit:
                    raise
            self.pause(5)
            waited += 5

    def machine_types(self, names: Sequence[str]) -> dict[str, MachineType]:
        """Return the sizes of machine types.

        Raises
        ------
        InputError
            If the region does not have one of the types.
        """
        try:
            found = list(self.pages("describe_instance_types", "InstanceTypes", InstanceTypes=sorted(set(names))))
        except AmazonRefusalError as error:
            if error.code == "InvalidInstanceType":
                raise InputError(
                    f"cluster {self.name}: region {self.region} lacks one of the machine types: {error.message}",
                    hint=f"list its types: aws ec2 describe-instance-type-offerings --region {self.region}",
                ) from None
            raise
        return {kind["InstanceType"]: machine_type(kind) for kind in found}

    def subnets(self, description: Description) -> list[dict[str, Any]]:
        """Return the subnets for the machines.

        Raises
        ------
        InputError
            If one of the description's zones has no subnet.
        """
        if description.network.subnets:
            chosen = list(self.pages("describe_subnets", "Subnets", SubnetIds=list(description.network.subnets)))
        else:
            default = [{"Name": "default-for-az", "Values": ["true"]}]
            chosen = list(self.pages("describe_subnets", "Subnets", Filters=default))
        there = sorted({subnet["AvailabilityZone"] for subnet in chosen})
        if wrong := [zone for zone in description.zones if zone not in there]:
            raise InputError(
                f"cluster {self.name}: region {self.region} has no subnet to use in zone {wrong[0]!r}",
                hint=f"choose from the zones with a subnet ({', '.join(there) or 'none'}), or list subnets under "
                "network: subnets",
            )
        if not chosen:
            raise InputError(
                f"cluster {self.name}: region {self.region} has no subnet to use",
                hint="list some under network: subnets",
            )
        return [subnet for subnet in chosen if not description.zones or subnet["AvailabilityZone"] in description.zones]

    def image(self, description: Description) -> str:
        """Return the id of the machine image: that of the description, or the newest image of Debian 12.

        Raises
        ------
        InputError
            If the region has no image of Debian 12.
        """
        if description.image:
            return description.image
        filters = [{"Name": "name", "Values": ["debian-12-amd64-*"]}, {"Name": "state", "Values": ["available"]}]
        found = self.ask("ec2", "describe_images", Owners=[_DEBIAN], Filters=filters)["Images"]
        if not found:
            raise InputError(f"region {self.region} has no image of Debian 12", hint="set one as image: ami-...")
        return str(max(found, key=lambda image: image["CreationDate"])["ImageId"])

    def check(self, description: Description) -> None:
        """Check that the cloud has everything that the description names, before anything is created.

        Raises
        ------
        InputError
            If a machine type, zone, subnet or image does not exist.
        """
        types = [kind for pool in description.pools for kind in pool.types]
        is_slurm = description.kind == "slurm"
        if is_slurm:
            types.append(description.controller)
        if types:
            self.machine_types(types)
        networks = {subnet["VpcId"] for subnet in self.subnets(description)}
        if len(networks) > 1:
            raise InputError(f"cluster {self.name}: its subnets are in several networks: {', '.join(sorted(networks))}")
        if is_slurm:
            self.image(description)

    def tags(self, description: Description, *kinds: str, **more: str) -> list[dict[str, Any]]:
        """Return the tags for new resources, once for each kind of resource."""
        values = {**description.tags, "Name": f"toilfn-{self.name}", TAG: self.name, **more}
        tags = [{"Key": key, "Value": value} for key, value in values.items()]
        return [{"ResourceType": kind, "Tags": tags} for kind in kinds]


def tags_of(item: dict[str, Any]) -> dict[str, str]:
    """Return the tags of a resource."""
    return {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}


def machine_type(kind: dict[str, Any]) -> MachineType:
    """Convert EC2's description of a machine type."""
    devices = tuple(
        Accelerator(gpu["Count"], "gpu", gpu["Name"].lower(), gpu["Manufacturer"].lower())
        for gpu in kind.get("GpuInfo", {}).get("Gpus", [])
    )
    cores, memory = kind["VCpuInfo"]["DefaultVCpus"], kind["MemoryInfo"]["SizeInMiB"] * 2**20
    return MachineType(kind["InstanceType"], cores, memory, 0, None, devices)


class AmazonStep(Step[AmazonCloud]):
    """A step that creates and removes resources of AWS."""


class RoleStep(AmazonStep):
    """Roles. They are found by their names, and belong to the cluster if they have its tag.

    Attributes
    ----------
    parts : tuple of str
        The suffixes of the names.
    """

    parts: tuple[str, ...]

    def names(self) -> list[str]:
        """Return the names of all roles that a cluster may have."""
        return [f"toilfn-{self.cloud.name}-{self.cloud.region}-{part}" for part in self.parts]

    def exists(self) -> list[str]:
        """Return the names of the roles that exist and have the cluster's tag."""
        return [name for name in self.names() if self.is_mine(name)]

    def is_mine(self, name: str) -> bool:
        """Return whether the role exists and has the cluster's tag."""
        try:
            role = self.cloud.ask("iam", "get_role", RoleName=name)["Role"]
        except AmazonRefusalError as error:
            if error.code in GONE:
                return False
            raise
        return tags_of(role).get(TAG) == self.cloud.name

    def remove(self) -> None:
        """Remove the roles with their permissions."""
        for name in self.exists():
            with ignoring(*GONE):
                self.cloud.ask("iam", "delete_role_policy", RoleName=name, PolicyName="toilfn")
            self.cloud.insistently(lambda name=name: self.cloud.ask("iam", "delete_role", RoleName=name))  # type: ignore[misc]
