"""The resources of a Slurm cluster on Google Cloud, as steps: created in order, and removed in reverse order.

They are found by their labels, or by their descriptions if they cannot have labels.
"""

from __future__ import annotations

from typing import Any

from toilfn.cloud.bootstrap import Secrets, controller_data, worker_data
from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.google import HOST_KEY, GoogleCloud, GoogleStep, boot_disk, ignoring, last
from toilfn.cloud.google_client import CAPACITY, GoogleRefusalError
from toilfn.cloud.google_identity import AccountStep, PermissionStep, RoleStep
from toilfn.cloud.policy import TAG
from toilfn.cloud.provider import CONTROLLER
from toilfn.cloud.steps import Step

__all__ = ["steps_of"]

NODE, POOL = "toilfn-node", "toilfn-pool"
_CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"


class _Firewall(GoogleStep):
    """The firewall, which allows connections among the machines, and ssh from outside, and nothing else."""

    title = "firewall rules"

    def exists(self) -> list[str]:
        rules = self.cloud.google.pages("compute", f"projects/{self.cloud.project}/global/firewalls", "items")
        return [rule["name"] for rule in rules if rule.get("description") == self.cloud.mark]

    def make(self) -> None:
        there, name = self.exists(), f"toilfn-{self.cloud.name}"
        common = {"network": self.cloud.subnet(self.description)["network"], "direction": "INGRESS",
                  "description": self.cloud.mark, "targetTags": [name]}  # fmt: skip
        people = list(self.description.network.allow_from)
        ssh = {"priority": 900, "sourceRanges": people, "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}]}
        rules: dict[str, dict[str, Any]] = {
            f"{name}-inner": {"priority": 900, "sourceTags": [name], "allowed": [{"IPProtocol": "all"}]},
            **({f"{name}-ssh": ssh} if people else {}),
            # The default network allows ssh from everywhere.
            f"{name}-closed": {"priority": 950, "sourceRanges": ["0.0.0.0/0"], "denied": [{"IPProtocol": "all"}]},
        }
        for rule, content in rules.items():
            if rule not in there:
                self.cloud.change("POST", "global/firewalls", {"name": rule, **common, **content})

    def remove(self) -> None:
        for name in self.exists():
            with ignoring(404):
                self.cloud.change("DELETE", f"global/firewalls/{name}")


class _MachineStep(GoogleStep):
    """The base class of steps that need the properties of machines."""

    def properties(self, pool: PoolDescription | None, user_data: str, zone: str = "") -> dict[str, Any]:
        """Return the properties of a pool's machines, or of the controller in a zone."""
        description, private = self.description, self.description.network.private
        kind = pool.types[0] if pool else description.controller
        size = pool.disk_of(kind) if pool else description.controller_disk
        metadata = {"user-data": user_data, "block-project-ssh-keys": "TRUE", "enable-oslogin": "FALSE"}
        if description.public_key:
            metadata["ssh-keys"] = f"admin:{description.public_key}"
        if pool is None:
            metadata[HOST_KEY] = self.secrets.host_public
        more = {POOL: pool.name} if pool else {NODE: CONTROLLER}
        labels = self.cloud.labels(description, **more)
        at = f"zones/{zone}/" if zone else ""
        public = [] if private else [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}]
        return {
            "machineType": f"{at}machineTypes/{kind}" if zone else kind,
            "labels": labels,
            "tags": {"items": [f"toilfn-{self.cloud.name}", *description.network.security_groups]},
            "metadata": {"items": [{"key": key, "value": value} for key, value in metadata.items()]},
            "disks": [boot_disk(kind, size, self.cloud.image(description), labels, at)],
            "networkInterfaces": [
                {"subnetwork": self.cloud.subnet(description)["selfLink"], "accessConfigs": public}
            ],
            "serviceAccounts": [
                {"email": self.cloud.account(description, "worker" if pool else CONTROLLER),
                 "scopes": [_CLOUD_PLATFORM]}
            ],
        }  # fmt: skip


class _Templates(_MachineStep):
    """The instance templates of each pool's machines."""

    title = "instance templates"

    def exists(self) -> list[str]:
        path = f"projects/{self.cloud.project}/global/instanceTemplates"
        found = self.cloud.google.pages("compute", path, "items")
        return [t["name"] for t in found if t["properties"].get("labels", {}).get(TAG) == self.cloud.name]

    def make(self) -> None:
        self.remove()  # templates of an earlier attempt contain different secrets
        for pool in self.description.pools:
            properties = self.properties(pool, worker_data(self.description, self.secrets))
            body = {"name": f"toilfn-{self.cloud.name}-{pool.name}", "properties": properties}
            self.cloud.change("POST", "global/instanceTemplates", body)

    def remove(self) -> None:
        for name in self.exists():
            with ignoring(404):
                self.cloud.change("DELETE", f"global/instanceTemplates/{name}")


class _Disks(GoogleStep):
    """Disks that remain after their machine was deleted."""

    title = "disks"

    def _all(self) -> list[dict[str, Any]]:
        return list(self.cloud.scattered("disks", f"labels.{TAG}={self.cloud.name}"))

    def exists(self) -> list[str]:
        return [disk["name"] for disk in self._all()]

    def make(self) -> None:
        """Create nothing, since disks are created with their machines."""

    def remove(self) -> None:
        for disk in self._all():
            with ignoring(404):
                self.cloud.change("DELETE", f"zones/{last(disk['zone'])}/disks/{disk['name']}")


class _Machines(_MachineStep):
    """All machines. `make` starts only the controller, which starts the others."""

    title = "machines"

    def exists(self) -> list[str]:
        return [f"{instance['name']} ({instance['status']})" for instance in self.cloud.instances()]

    def make(self) -> None:
        description = self.description
        types = [kind for pool in description.pools for kind in pool.types]
        sizes = self.cloud.machine_types(description, [*types, description.controller])
        data = controller_data(description, sizes, self.secrets, "google,gcs")
        zones = self.cloud.zones(description)
        for zone in zones:
            body = {"name": f"toilfn-{self.cloud.name}-{CONTROLLER}", **self.properties(None, data, zone)}
            try:
                self.cloud.change("POST", f"zones/{zone}/instances", body)
                return
            except GoogleRefusalError as error:
                if error.code not in CAPACITY or zone == zones[-1]:
                    raise

    def settle(self) -> None:
        self.cloud.settle()

    def remove(self) -> None:
        first = self.cloud.controller()
        self.cloud.delete([first] if first else [])  # the controller first, since it starts others
        self.cloud.settle()  # the controller may have requested machines that do not exist yet
        self.cloud.delete(self.cloud.instances())


def steps_of(
    cloud: GoogleCloud, description: Description | None = None, secrets: Secrets | None = None
) -> list[Step[GoogleCloud]]:
    """Return the steps of a Slurm cluster, in the order of launching.

    Parameters
    ----------
    cloud : GoogleCloud
    description : Description, optional
        The cluster to launch; not needed to destroy one.
    secrets : Secrets, optional
        The keys of the cluster to launch.
    """
    kinds: list[type[GoogleStep]] = [
        AccountStep, RoleStep, PermissionStep, _Firewall, _Templates, _Disks, _Machines,
    ]  # fmt: skip
    return [kind(cloud, description, secrets) for kind in kinds]
