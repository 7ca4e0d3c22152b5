"""Machines of pools at Google, for the programs by which Slurm starts and ends its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.google import GoogleCloud, boot_disk, ignoring, last
from toilfn.cloud.google_client import CAPACITY, GoogleRefusalError
from toilfn.cloud.provider import Machines
from toilfn.cloud.scaler import round_half_up
from toilfn.errors import ClusterError

__all__ = ["GoogleMachines"]

_LIVING = ("PROVISIONING", "STAGING", "RUNNING", "REPAIRING")
_SPOT = {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE", "onHostMaintenance": "TERMINATE",
         "automaticRestart": False}  # fmt: skip
_ON_DEMAND = {"provisioningModel": "STANDARD"}


class GoogleMachines(Machines):
    """Machines of pools as Slurm names them: one bulk insert over types and zones for all that a pool is to get.

    Parameters
    ----------
    cloud : GoogleCloud
        Where.
    description : Description
        Whose pools.
    """

    def __init__(self, cloud: GoogleCloud, description: Description) -> None:
        self._cloud = cloud
        self._description = description

    def create(self, pool: PoolDescription, names: Sequence[str]) -> dict[str, str]:
        """Make machines; return the addresses of those that the cloud had, by name."""
        there = {self._cloud.node_of(instance): instance for instance in self._cloud.instances()}
        controller = there.get("controller")
        if controller is None:
            raise ClusterError(f"cluster {self._description.name}: it has no controller, so nothing is started")
        stopped = [there[name] for name in names if name in there and there[name]["status"] not in _LIVING]
        self._cloud.delete(stopped)  # their names are needed
        found = {name: _address(i) for name, i in there.items() if name in names and i not in stopped}
        wanted = [name for name in names if name not in found]
        if wanted:
            found |= self._insert(pool, wanted, controller, is_spot=pool.spot)
        missing = [name for name in names if name not in found]
        if pool.spot and missing:
            instead = round_half_up(self._description.scaling.compensation * len(missing))
            found |= self._insert(pool, missing[:instead], controller, is_spot=False) if instead else {}
        return found

    def _insert(
        self, pool: PoolDescription, names: Sequence[str], controller: dict[str, Any], *, is_spot: bool
    ) -> dict[str, str]:
        template = f"global/instanceTemplates/toilfn-{self._cloud.name}-{pool.name}"
        properties = self._cloud.compute("GET", template)["properties"]
        address = {"key": "toilfn-controller", "value": _address(controller)}
        overrides = {
            "metadata": {"items": [*properties["metadata"]["items"], address]},
            "scheduling": _SPOT if is_spot else _ON_DEMAND,
        }
        zones = {f"zones/{zone}": {"preference": "ALLOW"} for zone in self._description.zones}
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
            self._cloud.change("POST", f"regions/{self._description.region}/instances/bulkInsert", body)
        except GoogleRefusalError as error:
            refused = error
        found = {self._cloud.node_of(instance): instance for instance in self._cloud.instances()}
        made = {name: _address(found[name]) for name in names if name in found}
        if refused is not None and not made and refused.code not in CAPACITY:
            raise refused
        return made

    def _selections(self, pool: PoolDescription, properties: dict[str, Any]) -> dict[str, Any]:
        """Return the types that are equally welcome, each with a disk of its size and type."""
        parameters = properties["disks"][0]["initializeParams"]
        image, labels = parameters["sourceImage"], parameters["labels"]
        return {
            f"type-{index}": {"machineTypes": [kind], "disks": [boot_disk(kind, pool.disk_of(kind), image, labels)]}
            for index, kind in enumerate(pool.types)
        }

    def terminate(self, names: Sequence[str]) -> None:
        """Remove machines; it is not an error if one is gone already."""
        for instance in self._cloud.instances():
            if self._cloud.node_of(instance) in names:
                with ignoring(404):
                    self._cloud.compute("DELETE", f"zones/{last(instance['zone'])}/instances/{instance['name']}")


def _address(instance: dict[str, Any]) -> str:
    return str(instance["networkInterfaces"][0].get("networkIP", ""))
