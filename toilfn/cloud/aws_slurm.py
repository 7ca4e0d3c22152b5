"""The resources of a Slurm cluster on AWS, as steps: created in order, found by tag, and removed in reverse order."""

from __future__ import annotations

import base64
import json
from typing import Any

from toilfn.cloud.aws import GONE, HOST_KEY, NODE, POOL, TYPES, AmazonCloud, AmazonStep, RoleStep, ignoring, tags_of
from toilfn.cloud.bootstrap import Secrets, controller_data, worker_data
from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.policy import TAG, role_policy
from toilfn.cloud.provider import CONTROLLER
from toilfn.cloud.steps import Step
from toilfn.clusters.awsbatch.aws import AmazonRefusalError

__all__ = ["steps_of"]

_THERE = ("EntityAlreadyExists", "InvalidPermission.Duplicate", "InvalidGroup.Duplicate", "InvalidKeyPair.Duplicate")
_GIB = 2**30


class _Role(RoleStep):
    """The roles with the permissions of the controller and the workers, such as access to the store."""

    title = "roles"
    parts = (CONTROLLER, "worker")

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
            if policy := role_policy(self.description, controller=name.endswith(CONTROLLER)):
                self.cloud.ask("iam", "put_role_policy", RoleName=name, PolicyName="toilfn",
                               PolicyDocument=json.dumps(policy))  # fmt: skip


class _Profile(_Role):
    """The instance profiles, through which machines get the roles."""

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
    """The security group, which allows connections among the machines, and ssh from outside."""

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
    """The key pair with the public key of the user who launches the cluster."""

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
    """The launch templates of the controller and of each pool's machines."""

    title = "launch templates"

    def exists(self) -> list[str]:
        return [t["LaunchTemplateName"] for t in self.cloud.mine("describe_launch_templates", "LaunchTemplates")]

    def make(self) -> None:
        self.remove()  # templates of an earlier attempt contain different secrets
        image = self.cloud.image(self.description)
        types = [kind for pool in self.description.pools for kind in pool.types]
        sizes = self.cloud.machine_types([*types, self.description.controller])
        self._make(CONTROLLER, self._data(image, None, controller_data(self.description, sizes, self.secrets)))
        for pool in self.description.pools:
            data = self._data(image, pool, worker_data(self.description, self.secrets))
            self._make(pool.name, data, **{TYPES: " ".join(pool.types)})

    def _make(self, name: str, data: dict[str, Any], **more: str) -> None:
        tags = self.cloud.tags(self.description, "launch-template", **{POOL: name}, **more)
        self.cloud.ask("ec2", "create_launch_template", LaunchTemplateName=f"toilfn-{self.cloud.name}-{name}",
                       LaunchTemplateData=data, TagSpecifications=tags)  # fmt: skip

    def _data(self, image: str, pool: PoolDescription | None, user_data: str) -> dict[str, Any]:
        description = self.description
        part = "worker" if pool else CONTROLLER
        profile = description.profile or f"toilfn-{self.cloud.name}-{self.cloud.region}-{part}"
        disk = pool.disk if pool else description.controller_disk
        groups = [*_Group(self.cloud, description).exists(), *description.network.security_groups]
        key = description.key or (f"toilfn-{self.cloud.name}" if description.public_key else None)
        more = {POOL: pool.name} if pool else {NODE: CONTROLLER, HOST_KEY: self.secrets.host_public}
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

    def remove(self) -> None:
        for name in self.exists():
            with ignoring(*GONE):
                self.cloud.ask("ec2", "delete_launch_template", LaunchTemplateName=name)


class _Machines(AmazonStep):
    """All machines. `make` starts only the controller, which starts the others."""

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
        self.cloud.terminate([first["InstanceId"]] if first else [])  # the controller first, since it starts others
        self.cloud.terminate([instance["InstanceId"] for instance in self.cloud.instances()])


class _Volumes(AmazonStep):
    """Volumes that remain after their machine was terminated."""

    title = "volumes"

    def exists(self) -> list[str]:
        return [volume["VolumeId"] for volume in self.cloud.mine("describe_volumes", "Volumes")]

    def make(self) -> None:
        """Create nothing, since volumes are created with their machines."""

    def remove(self) -> None:
        for volume in self.exists():
            self.cloud.insistently(lambda volume=volume: self.cloud.ask("ec2", "delete_volume", VolumeId=volume))  # type: ignore[misc]


def steps_of(
    cloud: AmazonCloud, description: Description | None = None, secrets: Secrets | None = None
) -> list[Step[AmazonCloud]]:
    """Return the steps of a Slurm cluster, in the order of launching.

    Parameters
    ----------
    cloud : AmazonCloud
    description : Description, optional
        The cluster to launch; not needed to destroy one.
    secrets : Secrets, optional
        The keys of the cluster to launch.
    """
    kinds: list[type[AmazonStep]] = [_Role, _Profile, _Group, _KeyPair, _Templates, _Volumes, _Machines]
    return [kind(cloud, description, secrets) for kind in kinds]
