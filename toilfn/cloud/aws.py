"""The resources of a cluster on AWS: found by tag, made in order, removed in reverse."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from toilfn.cloud.bootstrap import Secrets, controller_data, worker_data
from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.machines import MachineType
from toilfn.cloud.policy import KIND, TAG, role_policy
from toilfn.cloud.provider import Cluster, Machine, Machines, Provider
from toilfn.cloud.steps import Step
from toilfn.clusters.awsbatch.aws import Amazon, AmazonRefusalError
from toilfn.errors import ClusterError, InputError

__all__ = ["AmazonCloud", "AmazonStep", "RoleStep", "clusters", "ignoring", "steps_of", "tags_of"]

NODE, POOL, CONTROLLER, HOST_KEY = "toilfn-node", "toilfn-pool", "toilfn-controller", "toilfn-host-key"
TYPES = "toilfn-types"
"""Tag of a pool's launch template: the types of its machines."""

_LIVING = ["pending", "running", "stopping", "stopped", "shutting-down"]
GONE = (
    "NoSuchEntity", "InvalidGroup.NotFound", "InvalidInstanceID.NotFound", "InvalidKeyPair.NotFound",
    "InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateName.NotFoundException", "InvalidVolume.NotFound",
    "InvalidGroupId.NotFound", "InvalidSpotInstanceRequestID.NotFound",
)  # fmt: skip
_THERE = ("EntityAlreadyExists", "InvalidPermission.Duplicate", "InvalidGroup.Duplicate", "InvalidKeyPair.Duplicate")
_IN_USE = ("DependencyViolation", "DeleteConflict", "ResourceInUse")
_DEBIAN = "136693071363"
_GIB = 2**30


@contextmanager
def ignoring(*codes: str) -> Iterator[None]:
    """Pass over refusals for these reasons."""
    try:
        yield
    except AmazonRefusalError as error:
        if error.code not in codes:
            raise


class AmazonCloud(Provider):
    """AWS for one cluster.

    Parameters
    ----------
    name, region : str
        The cluster's name and region.
    amazon : Amazon, optional
        The session that sends requests; credentials are those that botocore finds.
    pause : callable, optional
        Waits for some seconds.
    """

    def __init__(
        self, name: str, region: str, amazon: Amazon | None = None, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.name = name
        self.region = self.place = region
        self.pause = pause
        self._amazon = amazon or Amazon(region)

    def ask(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation of a service."""
        return self._amazon.ask(service, operation, **parameters)

    def pages(self, operation: str, items: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield the items of all pages of an answer of EC2."""
        token: dict[str, str] = {}
        while True:
            answer = self.ask("ec2", operation, **parameters, **token)
            yield from answer[items]
            if not answer.get("NextToken"):
                return
            token = {"NextToken": answer["NextToken"]}

    def mine(self, operation: str, items: str, *filters: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the items that carry this cluster's tag."""
        own = {"Name": f"tag:{TAG}", "Values": [self.name]}
        return list(self.pages(operation, items, Filters=[own, *filters]))

    def instances(self, *states: str) -> list[dict[str, Any]]:
        """Return this cluster's instances in these states; by default all that are not gone."""
        state = {"Name": "instance-state-name", "Values": list(states) or _LIVING}
        return [
            i
            for reservation in self.mine("describe_instances", "Reservations", state)
            for i in reservation["Instances"]
        ]

    def controller(self) -> dict[str, Any] | None:
        """Return the controller's instance, if there is one that lives."""
        return next((i for i in self.instances() if tags_of(i).get(NODE) == "controller"), None)

    def terminate(self, ids: Sequence[str], limit: float = 600.0) -> None:
        """Terminate instances and wait until they are gone.

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
        """Remove something that others may still use for a while; it is not an error if it is gone."""
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
        """Return the sizes of types.

        Raises
        ------
        InputError
            If the region does not have one of them.
        """
        from toilfn.cloud.aws_types import machine_type

        try:
            found = list(self.pages("describe_instance_types", "InstanceTypes", InstanceTypes=sorted(set(names))))
        except AmazonRefusalError as error:
            if error.code == "InvalidInstanceType":
                raise InputError(
                    f"cluster {self.name}: region {self.region} does not have one of the types: {error}"
                ) from None
            raise
        return {kind["InstanceType"]: machine_type(kind) for kind in found}

    def subnets(self, description: Description) -> list[dict[str, Any]]:
        """Return the subnets that machines may be in.

        Raises
        ------
        InputError
            If there is none in the zones that are named.
        """
        if description.network.subnets:
            chosen = list(self.pages("describe_subnets", "Subnets", SubnetIds=list(description.network.subnets)))
        else:
            default = [{"Name": "default-for-az", "Values": ["true"]}]
            chosen = list(self.pages("describe_subnets", "Subnets", Filters=default))
        zones = description.zones
        chosen = [subnet for subnet in chosen if not zones or subnet["AvailabilityZone"] in zones]
        if not chosen:
            where = f"zones {', '.join(zones)}" if zones else f"region {self.region}"
            raise InputError(f"cluster {self.name}: {where} has no subnet to use; name some under network: subnets")
        return chosen

    def image(self, description: Description) -> str:
        """Return the machine image: the one that is named, or the newest of Debian 12.

        Raises
        ------
        InputError
            If there is none.
        """
        if description.image:
            return description.image
        filters = [{"Name": "name", "Values": ["debian-12-amd64-*"]}, {"Name": "state", "Values": ["available"]}]
        found = self.ask("ec2", "describe_images", Owners=[_DEBIAN], Filters=filters)["Images"]
        if not found:
            raise InputError(f"region {self.region} has no image of Debian 12; name one as image: ami-...")
        return str(max(found, key=lambda image: image["CreationDate"])["ImageId"])

    def check(self, description: Description) -> None:
        """Check against the cloud what the description names, before anything is made.

        Raises
        ------
        InputError
            If types, zones, subnets or images are not there.
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

    def with_types(self, description: Description, prices: Mapping[str, MachineType]) -> Description:
        """Return the description with types for pools that name sizes."""
        from toilfn.cloud.aws_types import with_types

        return with_types(self, description, prices)

    def launched_types(self, pool: PoolDescription) -> PoolDescription:
        """Return a pool with the types of its launch."""
        from toilfn.cloud.aws_types import launched_types

        return launched_types(self, pool)

    def spot_prices(self, types: Iterable[str], zones: Sequence[str] = ()) -> dict[str, float]:
        """Return current prices of spot machines."""
        from toilfn.cloud.aws_types import spot_prices

        return spot_prices(self, types, zones)

    def steps(self, description: Description | None = None, secrets: Secrets | None = None) -> list[Step]:
        """Return the steps of a cluster of the description's kind, or of all kinds."""
        from toilfn.cloud import eks

        of_kind = {
            "slurm": lambda: steps_of(self, description, secrets),
            "kubernetes": lambda: eks.steps_of(self, description),
        }
        kinds = [description.kind] if description else list(of_kind)
        return [step for kind in kinds for step in of_kind[kind]()]

    def machines(self) -> list[Machine]:
        """Return this cluster's machines that are not gone."""
        return [_machine(instance) for instance in self.instances()]

    def pools(self, description: Description) -> Machines:
        """Return what creates and ends the machines of pools."""
        from toilfn.cloud.aws_machines import AmazonMachines

        return AmazonMachines(self, description)

    def clusters(self) -> list[Cluster]:
        """Return the clusters of the region."""
        from toilfn.cloud import eks

        managed = [Cluster(name, "kubernetes", None, True) for name in eks.clusters(self._amazon)]
        return managed + [
            Cluster(
                name, _kind(instances), len(instances), any(tags_of(i).get(NODE) == "controller" for i in instances)
            )
            for name, instances in sorted(clusters(self._amazon).items())
        ]

    def manifests(self, description: Description) -> str:
        """Return the YAML of node pools, the service account and what a leader may do."""
        from toilfn.cloud import eks

        return eks.manifests(description)

    def kubernetes_access(self, description: Description) -> str:
        """Return the command by which kubectl reaches the cluster."""
        return f"aws eks update-kubeconfig --region {description.region} --name toilfn-{description.name}"

    def tags(self, description: Description, *kinds: str, **more: str) -> list[dict[str, Any]]:
        """Return the tags of what is made, for each kind of resource."""
        values = {**description.tags, "Name": f"toilfn-{self.name}", TAG: self.name, **more}
        tags = [{"Key": key, "Value": value} for key, value in values.items()]
        return [{"ResourceType": kind, "Tags": tags} for kind in kinds]


def tags_of(item: dict[str, Any]) -> dict[str, str]:
    """Return the tags of a resource."""
    return {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}


def _machine(instance: dict[str, Any]) -> Machine:
    tags = tags_of(instance)
    address = instance.get("PublicIpAddress") or instance.get("PrivateIpAddress", "")
    state, key = instance["State"]["Name"], tags.get(HOST_KEY, "")
    return Machine(instance["InstanceId"], tags.get(NODE, ""), instance["InstanceType"], state, address, key)


def _kind(instances: Sequence[dict[str, Any]]) -> str:
    return tags_of(instances[0]).get(KIND, "slurm")


def clusters(amazon: Amazon) -> dict[str, list[dict[str, Any]]]:
    """Return the instances of all clusters of a region, by the clusters' names."""
    cloud = AmazonCloud("", "", amazon)
    filters = [{"Name": "tag-key", "Values": [TAG]}, {"Name": "instance-state-name", "Values": _LIVING}]
    found: dict[str, list[dict[str, Any]]] = {}
    for reservation in cloud.pages("describe_instances", "Reservations", Filters=filters):
        for instance in reservation["Instances"]:
            found.setdefault(tags_of(instance)[TAG], []).append(instance)
    return found


class AmazonStep(Step):
    """A step on AWS.

    Parameters
    ----------
    cloud : AmazonCloud
        Where.
    description : Description, optional
        What to make; it is not needed to find and to remove.
    """

    def __init__(self, cloud: AmazonCloud, description: Description | None) -> None:
        self.cloud = cloud
        self._description = description

    @property
    def description(self) -> Description:
        """The description of the cluster to create."""
        assert self._description is not None  # only `make` asks, and `launch` has one
        return self._description


class RoleStep(AmazonStep):
    """Roles, which are found by their names and must have the tag.

    Attributes
    ----------
    parts : tuple of str
        The ends of their names.
    """

    parts: tuple[str, ...]

    def names(self) -> list[str]:
        """Return the names of all roles that a cluster may have."""
        return [f"toilfn-{self.cloud.name}-{self.cloud.region}-{part}" for part in self.parts]

    def exists(self) -> list[str]:
        """Return the names of those that exist and carry the tag."""
        return [name for name in self.names() if self.is_mine(name)]

    def is_mine(self, name: str) -> bool:
        """Return whether one exists and carries the tag."""
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


class _Role(RoleStep):
    """The permissions of the controller, and of workers: to reach the store."""

    title = "roles"
    parts = ("controller", "worker")

    def make(self) -> None:
        if self.description.profile:
            return
        trusted = {"Service": "ec2.amazonaws.com"}
        trust = {"Version": "2012-10-17",
                 "Statement": [{"Effect": "Allow", "Principal": trusted, "Action": "sts:AssumeRole"}]}  # fmt: skip
        tags = self.cloud.tags(self.description, "role")[0]["Tags"]
        there = self.exists()
        for name in self.names():
            if name not in there:
                self.cloud.ask("iam", "create_role", RoleName=name, Path="/toilfn/",
                               AssumeRolePolicyDocument=json.dumps(trust), Tags=tags)  # fmt: skip
            if policy := role_policy(self.description, controller=name.endswith("controller")):
                self.cloud.ask("iam", "put_role_policy", RoleName=name, PolicyName="toilfn",
                               PolicyDocument=json.dumps(policy))  # fmt: skip


class _Profile(_Role):
    """The instance profiles, which give the roles to machines."""

    title = "instance profiles"

    def is_mine(self, name: str) -> bool:
        return self._profile(name) is not None

    def _profile(self, name: str) -> dict[str, Any] | None:
        try:
            profile = self.cloud.ask("iam", "get_instance_profile", InstanceProfileName=name)["InstanceProfile"]
        except AmazonRefusalError as error:
            if error.code in GONE:
                return None
            raise
        return profile if tags_of(profile).get(TAG) == self.cloud.name else None

    def make(self) -> None:
        if self.description.profile:
            return
        tags = self.cloud.tags(self.description, "role")[0]["Tags"]
        for name in self.names():
            profile = self._profile(name)
            if profile is None:
                self.cloud.ask("iam", "create_instance_profile", InstanceProfileName=name, Path="/toilfn/", Tags=tags)
            if not (profile or {}).get("Roles"):
                self.cloud.ask("iam", "add_role_to_instance_profile", InstanceProfileName=name, RoleName=name)

    def remove(self) -> None:
        for name in self.exists():
            for role in (self._profile(name) or {}).get("Roles", []):
                with ignoring(*GONE):
                    self.cloud.ask("iam", "remove_role_from_instance_profile", InstanceProfileName=name,
                                   RoleName=role["RoleName"])  # fmt: skip
            with ignoring(*GONE):
                self.cloud.ask("iam", "delete_instance_profile", InstanceProfileName=name)


class _Group(AmazonStep):
    """The permitted connections: among the machines, and by ssh from outside."""

    title = "security groups"

    def exists(self) -> list[str]:
        return [group["GroupId"] for group in self.cloud.mine("describe_security_groups", "SecurityGroups")]

    def make(self) -> None:
        (network,) = {subnet["VpcId"] for subnet in self.cloud.subnets(self.description)}
        there = self.exists()
        group = there[0] if there else self.cloud.ask(
            "ec2", "create_security_group", GroupName=f"toilfn-{self.cloud.name}", VpcId=network,
            Description=f"machines of the toilfn cluster {self.cloud.name}",
            TagSpecifications=self.cloud.tags(self.description, "security-group"),
        )["GroupId"]  # fmt: skip
        among = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
        people = self.description.network.allow_from
        ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22,
               "IpRanges": [{"CidrIp": addresses} for addresses in people if ":" not in addresses],
               "Ipv6Ranges": [{"CidrIpv6": addresses} for addresses in people if ":" in addresses]}  # fmt: skip
        for rule in (among, *([ssh] if people else [])):
            with ignoring(*_THERE):
                self.cloud.ask("ec2", "authorize_security_group_ingress", GroupId=group, IpPermissions=[rule])

    def remove(self) -> None:
        for group in self.exists():
            self.cloud.insistently(lambda group=group: self.cloud.ask("ec2", "delete_security_group", GroupId=group))  # type: ignore[misc]


class _KeyPair(AmazonStep):
    """The public key of the person who launches."""

    title = "key pairs"

    def exists(self) -> list[str]:
        own = [{"Name": f"tag:{TAG}", "Values": [self.cloud.name]}]
        return [pair["KeyName"] for pair in self.cloud.ask("ec2", "describe_key_pairs", Filters=own)["KeyPairs"]]

    def make(self) -> None:
        if self.description.public_key and not self.exists():
            self.cloud.ask(
                "ec2", "import_key_pair", KeyName=f"toilfn-{self.cloud.name}",
                PublicKeyMaterial=self.description.public_key.encode(),
                TagSpecifications=self.cloud.tags(self.description, "key-pair"),
            )  # fmt: skip

    def remove(self) -> None:
        for name in self.exists():
            with ignoring(*GONE):
                self.cloud.ask("ec2", "delete_key_pair", KeyName=name)


class _Templates(AmazonStep):
    """How the machines of each pool, and the controller, are made."""

    title = "launch templates"

    def __init__(self, cloud: AmazonCloud, description: Description | None, secrets: Secrets | None) -> None:
        super().__init__(cloud, description)
        self._secrets = secrets

    def exists(self) -> list[str]:
        return [t["LaunchTemplateName"] for t in self.cloud.mine("describe_launch_templates", "LaunchTemplates")]

    def make(self) -> None:
        assert self._secrets is not None
        self.remove()  # one of an earlier attempt holds other secrets
        image = self.cloud.image(self.description)
        types = [kind for pool in self.description.pools for kind in pool.types]
        sizes = self.cloud.machine_types([*types, self.description.controller])
        self._make("controller", self._data(image, None, controller_data(self.description, sizes, self._secrets)))
        for pool in self.description.pools:
            data = self._data(image, pool, worker_data(self.description, self._secrets))
            self._make(pool.name, data, **{TYPES: " ".join(pool.types)})

    def _make(self, name: str, data: dict[str, Any], **more: str) -> None:
        tags = self.cloud.tags(self.description, "launch-template", **{POOL: name}, **more)
        self.cloud.ask("ec2", "create_launch_template", LaunchTemplateName=f"toilfn-{self.cloud.name}-{name}",
                       LaunchTemplateData=data, TagSpecifications=tags)  # fmt: skip

    def _data(self, image: str, pool: PoolDescription | None, user_data: str) -> dict[str, Any]:
        description = self.description
        part = "worker" if pool else "controller"
        profile = description.profile or f"toilfn-{self.cloud.name}-{self.cloud.region}-{part}"
        disk = pool.disk if pool else description.controller_disk
        groups = [*_Group(self.cloud, description).exists(), *description.network.security_groups]
        key = description.key or (f"toilfn-{self.cloud.name}" if description.public_key else None)
        more = {POOL: pool.name} if pool else {NODE: "controller", HOST_KEY: self._secrets_or_fail().host_public}
        return {
            "ImageId": image,
            "UserData": base64.b64encode(user_data.encode()).decode(),
            "IamInstanceProfile": {"Arn": profile} if profile.startswith("arn:") else {"Name": profile},
            "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {
                "VolumeSize": -(-disk // _GIB), "VolumeType": "gp3", "DeleteOnTermination": True}}],
            "NetworkInterfaces": [{"DeviceIndex": 0, "Groups": groups, "DeleteOnTermination": True,
                                   "AssociatePublicIpAddress": not description.network.private}],
            "MetadataOptions": {"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
            "TagSpecifications": self.cloud.tags(description, "instance", "volume", **more),
            **({"KeyName": key} if key else {}),
        }  # fmt: skip

    def _secrets_or_fail(self) -> Secrets:
        assert self._secrets is not None
        return self._secrets

    def remove(self) -> None:
        for name in self.exists():
            with ignoring(*GONE):
                self.cloud.ask("ec2", "delete_launch_template", LaunchTemplateName=name)


class _Machines(AmazonStep):
    """All machines; making them means to start the controller, which starts the others."""

    title = "machines"

    def exists(self) -> list[str]:
        return [
            f"{instance['InstanceId']} ({tags_of(instance).get(NODE, 'new')})" for instance in self.cloud.instances()
        ]

    def make(self) -> None:
        subnet = self.cloud.subnets(self.description)[0]
        template = {"LaunchTemplateName": f"toilfn-{self.cloud.name}-controller", "Version": "$Latest"}
        self.cloud.ask(
            "ec2", "run_instances", LaunchTemplate=template, MinCount=1, MaxCount=1,
            InstanceType=self.description.controller, SubnetId=subnet["SubnetId"],
        )  # fmt: skip

    def remove(self) -> None:
        first = self.cloud.controller()
        self.cloud.terminate([first["InstanceId"]] if first else [])  # or it would start others
        self.cloud.terminate([instance["InstanceId"] for instance in self.cloud.instances()])


class _Volumes(AmazonStep):
    """Disks that a machine has left behind."""

    title = "volumes"

    def exists(self) -> list[str]:
        return [volume["VolumeId"] for volume in self.cloud.mine("describe_volumes", "Volumes")]

    def make(self) -> None:
        """Make nothing: machines bring theirs."""

    def remove(self) -> None:
        for volume in self.exists():
            self.cloud.insistently(lambda volume=volume: self.cloud.ask("ec2", "delete_volume", VolumeId=volume))  # type: ignore[misc]


def steps_of(cloud: AmazonCloud, description: Description | None = None, secrets: Secrets | None = None) -> list[Step]:
    """Return the steps of a cluster with Slurm, in the order of launching.

    Parameters
    ----------
    cloud : AmazonCloud
        Where.
    description : Description, optional
        What `launch` makes; `destroy` needs none.
    secrets : Secrets, optional
        The keys of a cluster that is made.
    """
    kinds: list[Callable[[AmazonCloud, Description | None], Step]] = [_Role, _Profile, _Group, _KeyPair]
    before = [kind(cloud, description) for kind in kinds]
    return [
        *before,
        _Templates(cloud, description, secrets),
        _Volumes(cloud, description),
        _Machines(cloud, description),
    ]
