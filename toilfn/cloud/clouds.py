"""The implementations of `Provider` for AWS and Google, which the commands and Slurm's programs use."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toilfn.cloud import aws_slurm, aws_types, eks, gke, google_slurm
from toilfn.cloud.aws import HOST_KEY as HOST_KEY_TAG
from toilfn.cloud.aws import LIVING, NODE, AmazonCloud, tags_of
from toilfn.cloud.aws_machines import AmazonMachines
from toilfn.cloud.bootstrap import Secrets
from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.google import HOST_KEY, GoogleCloud, last
from toilfn.cloud.google_client import Google
from toilfn.cloud.google_machines import GoogleMachines
from toilfn.cloud.machines import MachineType
from toilfn.cloud.policy import KIND, TAG, google_launcher_role, launcher_policy
from toilfn.cloud.provider import CONTROLLER, Cluster, Machine, Provider
from toilfn.cloud.steps import Step
from toilfn.errors import InputError

__all__ = ["AmazonProvider", "GoogleProvider", "launcher_role", "open_provider"]


class AmazonProvider(AmazonCloud, Provider):
    """AWS, for one cluster."""

    @property
    def place(self) -> str:  # type: ignore[override]
        """The region, for messages."""
        return self.region

    def with_types(self, description: Description, prices: Mapping[str, MachineType]) -> Description:
        """Return the description with types for pools with sizes only. See `Provider.with_types`."""
        return aws_types.with_types(self, description, prices)

    def launched_types(self, pool: PoolDescription) -> PoolDescription:
        """Return a pool with the types that were chosen at its launch. See `Provider.launched_types`."""
        return aws_types.launched_types(self, pool)

    def spot_prices(self, types: Iterable[str], zones: Sequence[str] = ()) -> dict[str, float]:
        """Return the current prices of spot machines. See `Provider.spot_prices`."""
        return aws_types.spot_prices(self, types, zones)

    def steps_of_kind(self, kind: str, description: Description | None, secrets: Secrets | None) -> list[Step[Any]]:
        """Return the steps of a cluster of a kind."""
        if kind == "slurm":
            return [*aws_slurm.steps_of(self, description, secrets)]
        return [*eks.steps_of(self, description)]

    def machines(self) -> list[Machine]:
        """Return this cluster's machines that are not terminated."""
        return [_amazon_machine(instance) for instance in self.instances()]

    def pools(self, description: Description) -> AmazonMachines:
        """Return the object that starts and ends the machines of pools."""
        return AmazonMachines(self, description)

    def clusters(self) -> list[Cluster]:
        """Return the clusters of the region."""
        filters = [{"Name": "tag-key", "Values": [TAG]}, {"Name": "instance-state-name", "Values": LIVING}]
        found: dict[str, list[dict[str, str]]] = {}
        for reservation in self.pages("describe_instances", "Reservations", Filters=filters):
            for tags in map(tags_of, reservation["Instances"]):
                found.setdefault(tags[TAG], []).append(tags)
        managed = [Cluster(name, "kubernetes", None, True) for name in eks.clusters(self.amazon)]
        return managed + [
            Cluster(
                name, machines[0].get(KIND, "slurm"), len(machines), any(t.get(NODE) == CONTROLLER for t in machines)
            )
            for name, machines in sorted(found.items())
        ]

    def manifests(self, description: Description) -> str:
        """Return the YAML of the node pools, the service account, and the permissions of leaders."""
        return eks.manifests(description)

    def kubernetes_access(self, description: Description) -> str:
        """Return the command by which kubectl reaches the cluster."""
        return f"aws eks update-kubeconfig --region {description.region} --name toilfn-{description.name}"


def _amazon_machine(instance: dict[str, Any]) -> Machine:
    tags = tags_of(instance)
    address = instance.get("PublicIpAddress") or instance.get("PrivateIpAddress", "")
    state, key = instance["State"]["Name"], tags.get(HOST_KEY_TAG, "")
    return Machine(instance["InstanceId"], tags.get(NODE, ""), instance["InstanceType"], state, address, key)


class GoogleProvider(GoogleCloud, Provider):
    """Google, for one cluster."""

    @property
    def place(self) -> str:  # type: ignore[override]
        """The project, for messages."""
        return f"project {self.project}"

    def with_types(self, description: Description, prices: Mapping[str, MachineType]) -> Description:
        """Return the description unchanged, since `check` refuses pools without types."""
        return description

    def spot_prices(self, types: Iterable[str], zones: Sequence[str] = ()) -> dict[str, float]:
        """Return no prices, since those of Google are not queried."""
        return {}

    def steps_of_kind(self, kind: str, description: Description | None, secrets: Secrets | None) -> list[Step[Any]]:
        """Return the steps of a cluster of a kind."""
        if kind == "slurm":
            return [*google_slurm.steps_of(self, description, secrets)]
        return [*gke.steps_of(self, description)]

    def machines(self) -> list[Machine]:
        """Return this cluster's machines."""
        return [self._machine(instance) for instance in self.instances()]

    def _machine(self, instance: dict[str, Any]) -> Machine:
        network = instance["networkInterfaces"][0]
        public = next((access["natIP"] for access in network.get("accessConfigs", []) if "natIP" in access), None)
        metadata = {item["key"]: item.get("value", "") for item in instance.get("metadata", {}).get("items", [])}
        node, kind, key = self.node_of(instance), last(instance["machineType"]), metadata.get(HOST_KEY, "")
        return Machine(instance["name"], node, kind, instance["status"], public or network.get("networkIP", ""), key)

    def pools(self, description: Description) -> GoogleMachines:
        """Return the object that starts and ends the machines of pools."""
        return GoogleMachines(self, description)

    def clusters(self) -> list[Cluster]:
        """Return the clusters of the project, in all regions."""
        managed = [Cluster(name, "kubernetes", None, True) for name in gke.clusters(self)]
        found: dict[tuple[str, str], list[str]] = {}
        for instance in self.instances(f"labels.{TAG}:*"):
            name, kind = instance["labels"][TAG], instance["labels"].get(KIND, "slurm")
            found.setdefault((name, kind), []).append(instance["name"].removeprefix(f"toilfn-{name}-"))
        own = [Cluster(name, kind, len(nodes), CONTROLLER in nodes) for (name, kind), nodes in sorted(found.items())]
        return managed + own

    def manifests(self, description: Description) -> str:
        """Return the YAML of the service account, and the permissions of leaders."""
        return gke.manifests(self, description)

    def kubernetes_access(self, description: Description) -> str:
        """Return the command by which kubectl reaches the cluster."""
        return (
            f"gcloud container clusters get-credentials toilfn-{description.name} --region {description.region} "
            f"--project {self.project}"
        )


def open_provider(cloud: str, name: str, region: str | None, project: str | None = None) -> Provider:
    """Return the provider for a cluster.

    Parameters
    ----------
    cloud : str
        ``"aws"`` or ``"google"``.
    name : str
        The cluster's name.
    region : str, optional
        The region. Default: that of the environment.
    project : str, optional
        The project of Google. Default: that of the environment or the credentials.

    Raises
    ------
    InputError
        If the cloud is AWS, and no region is set.
    """
    if cloud == "google":
        return GoogleProvider(name, region, Google(project))
    region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise InputError("no region is set", hint="pass --region, or set AWS_DEFAULT_REGION")
    return AmazonProvider(name, region)


def launcher_role(cloud: str) -> dict[str, Any]:
    """Return the minimum permissions that a user needs to launch and destroy clusters."""
    return google_launcher_role() if cloud == "google" else launcher_policy()
