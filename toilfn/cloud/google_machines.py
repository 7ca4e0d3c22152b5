"""Start and end the machines of pools on Google Cloud, for the programs that Slurm calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.google import GoogleCloud, boot_disk, ignoring, last
from toilfn.cloud.google_client import CAPACITY, GoogleRefusalError
from toilfn.cloud.provider import Machines

__all__ = ["GoogleMachines"]

_LIVING = ("PROVISIONING", "STAGING", "RUNNING", "REPAIRING")
_SPOT = {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE", "onHostMaintenance": "TERMINATE",
         "automaticRestart": False}  # fmt: skip
_ON_DEMAND = {"provisioningModel": "STANDARD"}


class GoogleMachines(Machines):
    """Starts and ends the machines of pools on Google Cloud.

    One bulk insert, with all types and zones of a pool, creates all its new machines.

    Parameters
    ----------
    cloud : GoogleCloud
    description : Description
        The cluster with the pools.
    """

    def __init__(self, cloud: GoogleCloud, description: Description) -> None:
        super().__init__(description)
        self._cloud = cloud

    def living(self, names: Sequence[str]) -> dict[str, str]:
        """Return the addresses of machines that are running or booting; delete stopped ones, to free their names."""
        there = {self._cloud.node_of(instance): instance for instance in self._cloud.instances()}
        stopped = [name for name in names if name in there and there[name]["status"] not in _LIVING]
        self._cloud.delete([there[name] for name in stopped])
        return {name: _address(instance) for name, instance in there.items() if name not in stopped}

    def start(self, pool: PoolDescription, names: Sequence[str], controller: str, *, is_spot: bool) -> dict[str, str]:
        """Create machines with these names."""
        template = f"global/instanceTemplates/toilfn-{self._cloud.name}-{pool.name}"
        properties = self._cloud.compute("GET", template)["properties"]
        address = {"key": "toilfn-controller", "value": controller}
        overrides = {
            "metadata": {"items": [*properties["metadata"]["items"], address]},
            "scheduling": _SPOT if is_spot else _ON_DEMAND,
        }
        zones = {f"zones/{zone}": {"preference": "ALLOW"} for zone in self.description.zones}
        body = {
            "count": str(len(names)),
            "minCount": "1",
            "sourceInstanceTemplate": f"projects/{self._cloud.project}/{template}",
            "perInstanceProperties": {f"toilfn-{self._cloud.name}-{name}": {} for name in names},
            "instanceProperties": overrides,
            "instanceFlexibilityPolicy": {"instanceSelections": self._selections(pool, properties)},
            "locationPolicy": {"targetShape": "ANY", **({"locations": zones} if zones else {})},
        }
        refused = None
        try:
            self._cloud.change("POST", f"regions/{self.description.region}/instances/bulkInsert", body)
        except GoogleRefusalError as error:
            refused = error
        found = {self._cloud.node_of(instance): instance for instance in self._cloud.instances()}
        made = {name: _address(found[name]) for name in names if name in found}
        if refused is not None and not made and refused.code not in CAPACITY:
            raise refused
        return made

    def _selections(self, pool: PoolDescription, properties: dict[str, Any]) -> dict[str, Any]:
        """Return the machine types of the pool, any of which may be used, each with its disk's size and type."""
        parameters = properties["disks"][0]["initializeParams"]
        image, labels = parameters["sourceImage"], parameters["labels"]
        return {
            f"type-{index}": {"machineTypes": [kind], "disks": [boot_disk(kind, pool.disk_of(kind), image, labels)]}
            for index, kind in enumerate(pool.types)
        }

    def terminate(self, names: Sequence[str]) -> None:
        """Delete machines; it is not an error if one no longer exists."""
        for instance in self._cloud.instances():
            if self._cloud.node_of(instance) in names:
                with ignoring(404):
                    self._cloud.begin("DELETE", f"zones/{last(instance['zone'])}/instances/{instance['name']}")


def _address(instance: dict[str, Any]) -> str:
    return str(instance["networkInterfaces"][0].get("networkIP", ""))
