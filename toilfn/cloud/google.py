"""A cluster on Google Cloud: its machines, and the requests that several kinds of resources need."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.google_client import Google, GoogleRefusalError, refusal
from toilfn.cloud.machines import MachineType
from toilfn.cloud.policy import TAG
from toilfn.cloud.provider import CONTROLLER
from toilfn.cloud.steps import Step
from toilfn.errors import ClusterError, InputError
from toilfn.resources import Accelerator

__all__ = ["HOST_KEY", "GoogleCloud", "GoogleStep", "boot_disk", "disk_of", "ignoring", "last"]

HOST_KEY = "toilfn-host-key"
_IMAGE = ("ubuntu-os-cloud", "ubuntu-2404-lts-amd64")
"""The project and the family of the default image. It is Ubuntu, since Google's images of Debian lack cloud-init."""
_MANAGED = "goog-gke-node"
"""The label of machines of a managed Kubernetes cluster. They also have the labels of that cluster."""
_GIB = 2**30


@contextmanager
def ignoring(*codes: int | str) -> Iterator[None]:
    """Ignore refusals with these HTTP statuses or error codes."""
    try:
        yield
    except GoogleRefusalError as error:
        if error.status not in codes and error.code not in codes:
            raise


def last(url: str) -> str:
    """Return the last part of a resource's URL, which is the resource's name."""
    return url.rpartition("/")[2]


class GoogleCloud:
    """The access to Google for one cluster.

    Parameters
    ----------
    name : str
        The cluster's name, which is unique in the project.
    region : str, optional
        The region for new resources. Existing resources are found in all regions.
    google : Google, optional
        The client that sends requests for the project.
    pause : callable, optional
        A function that waits for a number of seconds.
    """

    name: str
    pause: Callable[[float], None]

    def __init__(
        self, name: str, region: str | None, google: Google | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.name = name
        self.region = region
        self.pause = pause
        self.google = google or Google()

    @property
    def project(self) -> str:
        """The id of the project."""
        return self.google.project

    @property
    def mark(self) -> str:
        """The text that marks resources without labels as the cluster's, in their descriptions."""
        return f"{TAG}={self.name}"

    def compute(self, verb: str, path: str, body: dict[str, Any] | None = None, **query: Any) -> Any:
        """Send a request about the project's machines or networks."""
        return self.google.ask("compute", verb, f"projects/{self.project}/{path}", body, **query)

    def begin(self, verb: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Request a change, and return the operation with which Google makes it.

        The id of the request begins with a mark of this cluster, so that `settle` can find the operation.
        """
        identity = uuid.UUID(bytes=self._mark_of_requests() + os.urandom(8), version=4)
        operation: dict[str, Any] = self.compute(verb, path, body, requestId=str(identity))
        return operation

    def _mark_of_requests(self) -> bytes:
        return hashlib.sha256(f"{self.project}/{self.name}".encode()).digest()[:8]

    def finish(self, operation: dict[str, Any], subject: str) -> None:
        """Wait until an operation has finished.

        Parameters
        ----------
        operation : dict
            The operation from `begin`.
        subject : str
            The change, for messages.

        Raises
        ------
        GoogleRefusalError
            If the change fails.
        """
        operation = self._wait(operation, subject)
        for error in operation.get("error", {}).get("errors", [])[:1]:
            raise refusal(f"{subject} failed", error["code"], error.get("message", ""))

    def _wait(self, operation: dict[str, Any], subject: str) -> dict[str, Any]:
        scope = next((f"{kind}s/{last(operation[kind])}" for kind in ("zone", "region") if kind in operation), "global")
        for _ in range(30):  # each request waits until the operation has finished, at most two minutes
            if operation["status"] == "DONE":
                return operation
            operation = self.compute("POST", f"{scope}/operations/{operation['name']}/wait")
        raise ClusterError(f"{subject}: Google has not finished after an hour")

    def change(self, verb: str, path: str, body: dict[str, Any] | None = None) -> None:
        """Request a change, and wait until Google has made it.

        Raises
        ------
        GoogleRefusalError
            If Google refuses the request, or the change fails later.
        """
        self.finish(self.begin(verb, path, body), f"{verb} {path}")

    def settle(self) -> None:
        """Wait for all unfinished changes of this cluster, no matter which process requested them.

        A launch that was interrupted, or a controller that is gone, may have requested resources that do not exist yet,
        so that a search would not find them.
        """
        mark = str(uuid.UUID(bytes=self._mark_of_requests() + bytes(8), version=4))[:18]
        for operation in self.scattered("operations", "status != DONE"):
            is_about = last(operation.get("targetLink", "")).startswith(f"toilfn-{self.name}-")
            if is_about or operation.get("clientOperationId", "").startswith(mark):
                with ignoring(404):  # Google deletes operations some time after they have finished
                    self._wait(operation, f"operation {operation['name']}")

    def scattered(self, kind: str, wanted: str) -> Iterator[dict[str, Any]]:
        """Yield the resources of all zones that match a filter."""
        path = f"projects/{self.project}/aggregated/{kind}"
        for zone in self.google.pages("compute", path, "items", filter=wanted):
            yield from zone.get(kind, [])

    def instances(self, wanted: str | None = None) -> list[dict[str, Any]]:
        """Return the cluster's instances, except those of a managed Kubernetes cluster."""
        found = self.scattered("instances", wanted or f"labels.{TAG}={self.name}")
        return [instance for instance in found if _MANAGED not in instance["labels"]]

    def node_of(self, instance: dict[str, Any]) -> str:
        """Return an instance's name in Slurm."""
        return str(instance["name"]).removeprefix(f"toilfn-{self.name}-")

    def controller(self) -> dict[str, Any] | None:
        """Return the controller's instance; None if it does not exist."""
        return next((i for i in self.instances() if self.node_of(i) == CONTROLLER), None)

    def delete(self, instances: Sequence[dict[str, Any]]) -> None:
        """Delete instances, and wait until they no longer exist; a missing instance is ignored."""
        begun = []
        for instance in instances:
            path = f"zones/{last(instance['zone'])}/instances/{instance['name']}"
            with ignoring(404):
                begun.append((self.begin("DELETE", path), f"DELETE {path}"))
        for operation, subject in begun:
            with ignoring(404):
                self.finish(operation, subject)

    def zones(self, description: Description) -> list[str]:
        """Return the zones for the machines.

        Raises
        ------
        InputError
            If the region or a zone does not exist.
        """
        region = description.region
        try:
            there = [last(zone) for zone in self.compute("GET", f"regions/{region}")["zones"]]
        except GoogleRefusalError as error:
            if error.status == 404:
                raise InputError(
                    f"cluster {self.name}: Google has no region {region!r}",
                    hint="list the regions: gcloud compute regions list",
                ) from None
            raise
        if wrong := [zone for zone in description.zones if zone not in there]:
            raise InputError(
                f"cluster {self.name}: region {region} has no zone {wrong[0]!r}",
                hint=f"choose from its zones: {', '.join(there)}",
            )
        return list(description.zones) or there

    def machine_types(self, description: Description, names: Sequence[str]) -> dict[str, MachineType]:
        """Return the sizes of machine types.

        Raises
        ------
        InputError
            If one of the types is in none of the zones.
        """
        zones, wanted = self.zones(description), sorted(set(names))
        chosen = " OR ".join(f'(name = "{name}")' for name in wanted)
        found = {
            kind["name"]: _machine_type(kind)
            for kind in self.scattered("machineTypes", chosen)
            if last(kind["zone"]) in zones
        }
        if missing := [name for name in wanted if name not in found]:
            raise InputError(
                f"cluster {self.name}: none of the zones {', '.join(zones)} has the machine type {', '.join(missing)}",
                hint=f"list their types: gcloud compute machine-types list --zones {','.join(zones)}",
            )
        return found

    def subnet(self, description: Description) -> dict[str, Any]:
        """Return the subnet for the machines.

        Raises
        ------
        InputError
            If the region does not have the subnet.
        """
        (name,) = description.network.subnets or ("default",)
        try:
            found: dict[str, Any] = self.compute("GET", f"regions/{description.region}/subnetworks/{name}")
        except GoogleRefusalError as error:
            if error.status == 404:
                raise InputError(
                    f"cluster {self.name}: region {description.region} has no subnet {name!r}",
                    hint="list one under network: subnets",
                ) from None
            raise
        return found

    def image(self, description: Description) -> str:
        """Return the URL of the machine image: that of the description, or the newest image of Ubuntu 24.04."""
        if description.image:
            return description.image
        project, family = _IMAGE
        found = self.google.ask("compute", "GET", f"projects/{project}/global/images/family/{family}")
        return f"projects/{project}/global/images/{found['name']}"

    def account(self, description: Description, part: str) -> str:
        """Return the address of the service account for a part of the cluster: an existing one, or a new one."""
        return description.profile or self.account_of(part)

    def account_of(self, part: str) -> str:
        """Return the address of the service account that is created for a part of the cluster."""
        return f"toilfn-{self.name}-{part[0]}@{self.project}.iam.gserviceaccount.com"

    def labels(self, description: Description, **more: str) -> dict[str, str]:
        """Return the labels for new resources."""
        return {**description.tags, TAG: self.name, **more}

    def check(self, description: Description) -> None:
        """Check that the cloud has everything that the description names, before anything is created."""
        for pool in description.pools:
            if not pool.types:
                self.launched_types(pool)
        types = [kind for pool in description.pools for kind in pool.types]
        self.machine_types(description, [*types, description.controller])
        self.subnet(description)
        if description.kind == "slurm":
            self.image(description)

    def launched_types(self, pool: PoolDescription) -> PoolDescription:
        """Raise `InputError`, since a pool on Google Cloud must have types."""
        raise InputError(
            f"pool {pool.name}: on Google Cloud, pools need types; sizes alone only work with `toilfn cluster plan`"
        )


def _machine_type(kind: dict[str, Any]) -> MachineType:
    devices = tuple(
        Accelerator(one["guestAcceleratorCount"], "gpu", one["guestAcceleratorType"], "nvidia")
        for one in kind.get("accelerators", [])
        if one["guestAcceleratorType"].startswith("nvidia")
    )
    return MachineType(kind["name"], kind["guestCpus"], kind["memoryMb"] * 2**20, 0, None, devices)


def disk_of(kind: str) -> str:
    """Return the type of disk for a machine type: machines of the fourth generation or later need Hyperdisk."""
    generation = re.match(r"[a-z]+(\d+)", kind)
    return "hyperdisk-balanced" if generation and int(generation[1]) >= 4 else "pd-balanced"


def boot_disk(kind: str, size: int, image: str | None, labels: dict[str, str], at: str = "") -> dict[str, Any]:
    """Return the boot disk for a machine of a type. It is deleted with the machine."""
    disk = f"{at}diskTypes/{disk_of(kind)}" if at else disk_of(kind)
    parameters = {"diskSizeGb": str(-(-size // _GIB)), "diskType": disk, "sourceImage": image, "labels": labels}
    return {"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": parameters}


class GoogleStep(Step[GoogleCloud]):
    """A step that creates and removes resources on Google Cloud."""
