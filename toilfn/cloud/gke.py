"""Kubernetes on Google Cloud: a GKE cluster with node pools, whose sizes Google adapts.

A node pool of GKE has only one machine type, so a pool with several types becomes several node pools.
"""

from __future__ import annotations

from typing import Any

import yaml

from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.google import GoogleCloud, disk_of, ignoring, last
from toilfn.cloud.google_client import DISABLED, GoogleRefusalError
from toilfn.cloud.google_identity import AccountStep, PermissionStep
from toilfn.cloud.kubernetes import SERVICE_ACCOUNT, KubernetesStep, account
from toilfn.cloud.policy import TAG
from toilfn.cloud.steps import Step
from toilfn.clusters.kubernetes.placement import PREEMPTIBLE_LABELS

__all__ = ["clusters", "manifests", "steps_of"]

_SPOT = "cloud.google.com/gke-spot"
_NODE_ROLE = "roles/container.defaultNodeServiceAccount"
_IDENTITY_ROLE = "roles/iam.workloadIdentityUser"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_GIB = 2**30


def _all(cloud: GoogleCloud) -> list[dict[str, Any]]:
    """Return the project's GKE clusters; none if GKE is not enabled in the project."""
    try:
        answer = cloud.google.ask("container", "GET", f"projects/{cloud.project}/locations/-/clusters")
    except GoogleRefusalError as error:
        if error.code in DISABLED:
            return []
        raise
    return list(answer.get("clusters", []))


def _found(cloud: GoogleCloud) -> dict[str, Any] | None:
    """Return the GKE cluster with this cluster's label; None if there is none."""
    return next((one for one in _all(cloud) if one.get("resourceLabels", {}).get(TAG) == cloud.name), None)


def clusters(cloud: GoogleCloud) -> list[str]:
    """Return the names of the project's clusters of the kind kubernetes."""
    labels = [one.get("resourceLabels", {}) for one in _all(cloud)]
    return [own[TAG] for own in labels if TAG in own]


class _Accounts(AccountStep):
    """The service accounts of nodes and of tasks, which may access the store."""

    title = "service accounts of Kubernetes"
    parts = ("nodes", "tasks")


class _Permissions(PermissionStep):
    """The minimum permissions of GKE's nodes, and access to the store for tasks."""

    title = "permissions of Kubernetes"
    accounts = _Accounts

    def bindings(self) -> list[dict[str, Any]]:
        nodes, tasks = (f"serviceAccount:{self.cloud.account_of(part)}" for part in _Accounts.parts)
        return [{"role": _NODE_ROLE, "members": [nodes]}, *self.store_bindings([tasks])]

    def trust(self) -> None:
        """Do nothing, since the account of pods can only be set once the GKE cluster exists."""


class _Control(KubernetesStep[GoogleCloud]):
    """The GKE cluster with its node pools."""

    ready, ending, changing = "RUNNING", "STOPPING", ("PROVISIONING", "RECONCILING")

    def find(self) -> dict[str, Any] | None:
        return _found(self.cloud)

    def create(self) -> None:
        place = f"projects/{self.cloud.project}/locations/{self.description.region}"
        self.cloud.google.ask("container", "POST", f"{place}/clusters", {"cluster": self._cluster()})

    def _cluster(self) -> dict[str, Any]:
        description, network = self.description, self.description.network
        subnet, zones = self.cloud.subnet(description), self.cloud.zones(description)
        labels = self.cloud.labels(description)
        system = {"name": "system", "initialNodeCount": 1, "locations": zones[:1],
                  "config": self._node(description.controller, description.controller_disk)}  # fmt: skip
        pools = [pool for described in description.pools for pool in self._pools(described, zones)]
        people = [{"cidrBlock": addresses} for addresses in network.allow_from]
        optional: dict[str, Any] = {}
        if people:
            optional["masterAuthorizedNetworksConfig"] = {"enabled": True, "cidrBlocks": people}
        if network.private:
            optional["privateClusterConfig"] = {"enablePrivateNodes": True, "enablePrivateEndpoint": False}
        return {
            "name": f"toilfn-{self.cloud.name}",
            "resourceLabels": labels,
            "network": last(subnet["network"]),
            "subnetwork": last(subnet["selfLink"]),
            "locations": zones,
            "ipAllocationPolicy": {"useIpAliases": True},
            "releaseChannel": {"channel": "REGULAR"},
            "workloadIdentityConfig": {"workloadPool": f"{self.cloud.project}.svc.id.goog"},
            "autoscaling": {"autoscalingProfile": "OPTIMIZE_UTILIZATION"},
            "nodePools": [system, *pools],
            **optional,
        }

    def _pools(self, pool: PoolDescription, zones: list[str]) -> list[dict[str, Any]]:
        several = len(pool.types) > 1
        scaling = {"enabled": True, "totalMinNodeCount": pool.min, "totalMaxNodeCount": pool.max,
                   "locationPolicy": "ANY"}  # fmt: skip
        return [
            {"name": f"{pool.name}-{index}" if several else pool.name, "initialNodeCount": 0, "locations": zones,
             "autoscaling": scaling | ({"totalMinNodeCount": 0} if index else {}),
             "config": self._node(kind, pool.disk_of(kind), pool)}
            for index, kind in enumerate(pool.types)
        ]  # fmt: skip

    def _node(self, kind: str, disk: int, pool: PoolDescription | None = None) -> dict[str, Any]:
        spot: dict[str, Any] = {}
        if pool and pool.spot:
            taint = {"key": _SPOT, "value": PREEMPTIBLE_LABELS[_SPOT], "effect": "NO_SCHEDULE"}
            spot = {"spot": True, "taints": [taint]}
        return {
            "machineType": kind,
            "diskSizeGb": -(-disk // _GIB),
            "diskType": disk_of(kind),
            "serviceAccount": self.cloud.account(self.description, "nodes"),
            "oauthScopes": [_SCOPE],
            "metadata": {"disable-legacy-endpoints": "true"},
            "workloadMetadataConfig": {"mode": "GKE_METADATA"},
            "labels": {"toilfn-pool": pool.name} if pool else {},
            "tags": list(self.description.network.security_groups),
            **spot,
        }

    def delete(self, found: dict[str, Any]) -> None:
        path = f"projects/{self.cloud.project}/locations/{found['location']}/clusters/{found['name']}"
        with ignoring(404):
            self.cloud.google.ask("container", "DELETE", path)


class _Access(PermissionStep):
    """The permission of Kubernetes' service account to use that of Google, so that pods can access the store.

    It is removed with Google's service account.
    """

    title = "permissions of pods"
    accounts = _Accounts

    def exists(self) -> list[str]:
        if _found(self.cloud) is None:
            return []
        path = f"projects/{self.cloud.project}/serviceAccounts/{self.cloud.account_of('tasks')}:getIamPolicy"
        try:
            policy = self.cloud.google.ask("iam", "POST", path)
        except GoogleRefusalError as error:
            if error.status == 404:
                return []
            raise
        return [f"service account default/{SERVICE_ACCOUNT}" for binding in policy.get("bindings", [])
                if binding["role"] == _IDENTITY_ROLE]  # fmt: skip

    def make(self) -> None:
        if not self.description.profile:
            member = f"serviceAccount:{self.cloud.project}.svc.id.goog[default/{SERVICE_ACCOUNT}]"
            self.allow(self.cloud.account_of("tasks"), _IDENTITY_ROLE, member)

    def remove(self) -> None:
        """Remove nothing, since the permission is removed with Google's service account."""


def steps_of(cloud: GoogleCloud, description: Description | None = None) -> list[Step[GoogleCloud]]:
    """Return the steps of a Kubernetes cluster, in the order of launching."""
    kinds: list[type[Step[GoogleCloud]]] = [_Accounts, _Permissions, _Access, _Control]
    return [kind(cloud, description) for kind in kinds]


def manifests(cloud: GoogleCloud, description: Description) -> str:
    """Return YAML for `kubectl apply`: the service account, mapped to Google's, and the permissions of leaders."""
    identity = {"iam.gke.io/gcp-service-account": cloud.account(description, "tasks")}
    return yaml.safe_dump_all(account(identity), sort_keys=False)
