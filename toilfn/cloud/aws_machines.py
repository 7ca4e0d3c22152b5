"""Start and end the machines of pools on AWS, for the programs that Slurm calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toilfn.cloud.aws import ADDRESS, GONE, NODE, AmazonCloud, ignoring, tags_of
from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.provider import Machines

__all__ = ["AmazonMachines"]


class AmazonMachines(Machines):
    """Starts and ends the machines of pools on AWS. One fleet of type ``instant`` creates all new machines of a pool.

    Parameters
    ----------
    cloud : AmazonCloud
    description : Description
        The cluster with the pools.
    """

    def __init__(self, cloud: AmazonCloud, description: Description) -> None:
        super().__init__(description)
        self._cloud = cloud

    def living(self, names: Sequence[str]) -> dict[str, str]:
        """Return the addresses of machines that are running or booting.

        Nothing is removed, since names are only tags on AWS, and an old machine does not prevent a new one.
        """
        return {tags_of(i).get(NODE, ""): i["PrivateIpAddress"] for i in self._cloud.instances("pending", "running")}

    def start(self, pool: PoolDescription, names: Sequence[str], controller: str, *, is_spot: bool) -> dict[str, str]:
        """Create machines, and set their names, which are tags."""
        found = self._fleet(pool, len(names), "spot" if is_spot else "on-demand")
        made = dict(zip(names, found, strict=False))
        for name, instance in made.items():
            tags = {NODE: name, ADDRESS: controller, "Name": f"{self._cloud.name}-{name}"}
            self._cloud.ask("ec2", "create_tags", Resources=[instance["InstanceId"]],
                            Tags=[{"Key": key, "Value": value} for key, value in tags.items()])  # fmt: skip
        return {name: instance["PrivateIpAddress"] for name, instance in made.items()}

    def _fleet(self, pool: PoolDescription, count: int, kind: str) -> list[dict[str, Any]]:
        subnets = [subnet["SubnetId"] for subnet in self._cloud.subnets(self.description)]
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
        """Terminate machines; it is not an error if one no longer exists."""
        ids = [i["InstanceId"] for i in self._cloud.instances() if tags_of(i).get(NODE) in names]
        if ids:
            with ignoring(*GONE):
                self._cloud.ask("ec2", "terminate_instances", InstanceIds=ids)
