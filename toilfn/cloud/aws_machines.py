"""Machines of pools on AWS, for the programs by which Slurm starts and ends its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toilfn.cloud.aws import CONTROLLER, GONE, NODE, AmazonCloud, ignoring, tags_of
from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.provider import Machines
from toilfn.cloud.scaler import round_half_up
from toilfn.errors import ClusterError

__all__ = ["AmazonMachines"]


class AmazonMachines(Machines):
    """Machines of pools as Slurm names them: one fleet of type ``instant`` for all that a pool is to get.

    Parameters
    ----------
    cloud : AmazonCloud
        Where.
    description : Description
        Whose pools.
    """

    def __init__(self, cloud: AmazonCloud, description: Description) -> None:
        self._cloud = cloud
        self._description = description

    def create(self, pool: PoolDescription, names: Sequence[str]) -> dict[str, str]:
        """Make machines; return the addresses of those that the cloud had, by name."""
        controller = self._cloud.controller()
        if controller is None:
            raise ClusterError(f"cluster {self._description.name}: it has no controller, so nothing is started")
        there = {tags_of(i).get(NODE): i["PrivateIpAddress"] for i in self._cloud.instances("pending", "running")}
        addresses = {name: there[name] for name in names if name in there}
        wanted = [name for name in names if name not in there]
        found = self._fleet(pool, len(wanted), "spot" if pool.spot else "on-demand") if wanted else []
        if pool.spot and len(found) < len(wanted):
            instead = round_half_up(self._description.scaling.compensation * (len(wanted) - len(found)))
            found += self._fleet(pool, instead, "on-demand") if instead else []
        for name, instance in zip(wanted, found, strict=False):
            tags = {NODE: name, CONTROLLER: controller["PrivateIpAddress"], "Name": f"{self._cloud.name}-{name}"}
            self._cloud.ask("ec2", "create_tags", Resources=[instance["InstanceId"]],
                            Tags=[{"Key": key, "Value": value} for key, value in tags.items()])  # fmt: skip
            addresses[name] = instance["PrivateIpAddress"]
        return addresses

    def _fleet(self, pool: PoolDescription, count: int, kind: str) -> list[dict[str, Any]]:
        subnets = [subnet["SubnetId"] for subnet in self._cloud.subnets(self._description)]
        limit = {"MaxPrice": str(pool.max_price)} if pool.max_price is not None else {}
        overrides = [{"InstanceType": kind, "SubnetId": subnet, **limit} for kind in pool.types for subnet in subnets]
        template = {"LaunchTemplateName": f"toilfn-{self._cloud.name}-{pool.name}", "Version": "$Latest"}
        spot = {"SpotOptions": {"AllocationStrategy": "price-capacity-optimized"}} if kind == "spot" else {}
        answer = self._cloud.ask(
            "ec2", "create_fleet", Type="instant", **spot,
            LaunchTemplateConfigs=[{"LaunchTemplateSpecification": template, "Overrides": overrides}],
            TargetCapacitySpecification={"TotalTargetCapacity": count, "DefaultTargetCapacityType": kind},
        )  # fmt: skip
        ids = [id for made in answer.get("Instances", []) for id in made["InstanceIds"]]
        if not ids:
            return []
        found = self._cloud.pages("describe_instances", "Reservations", InstanceIds=ids)
        return [instance for reservation in found for instance in reservation["Instances"]]

    def terminate(self, names: Sequence[str]) -> None:
        """Remove machines; it is not an error if one is gone already."""
        ids = [i["InstanceId"] for i in self._cloud.instances() if tags_of(i).get(NODE) in names]
        if ids:
            with ignoring(*GONE):
                self._cloud.ask("ec2", "terminate_instances", InstanceIds=ids)
