"""Kubernetes clusters that a cloud manages: their creation and removal, and the account of leaders and tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from toilfn.cloud.steps import C, Step
from toilfn.errors import ClusterError

__all__ = ["SERVICE_ACCOUNT", "KubernetesStep", "account"]

SERVICE_ACCOUNT = "toilfn"
"""The service account of leaders and workers, in the namespace ``default``."""
_LIMIT = 3600.0
"""Maximum number of seconds to wait until a cluster is created or removed."""


class KubernetesStep(Step[C]):
    """The Kubernetes cluster itself.

    Attributes
    ----------
    ready, ending : str
        The cloud's names for the state of a cluster that can be used, and of one that is being removed.
    changing : tuple of str
        The cloud's names for the states of a cluster that is being created or changed, and so cannot be removed yet.
    """

    title = "Kubernetes clusters"
    ready: str
    ending: str
    changing: tuple[str, ...]

    @abstractmethod
    def find(self) -> dict[str, Any] | None:
        """Return the cluster, with its name and status; None if it does not exist."""

    @abstractmethod
    def create(self) -> None:
        """Ask the cloud to create the cluster."""

    @abstractmethod
    def delete(self, found: dict[str, Any]) -> None:
        """Ask the cloud to remove the cluster; it is not an error if it no longer exists."""

    def exists(self) -> list[str]:
        """Return the name and status of the cluster, if it exists."""
        found = self.find()
        return [f"{found['name']} ({found['status']})"] if found else []

    def make(self) -> None:
        """Create the cluster, and wait until it can be used."""
        if self.find() is None:
            self.create()
        status = self._wait_while(self.changing)
        if status != self.ready:
            raise ClusterError(f"Kubernetes cluster toilfn-{self.cloud.name}: creation ended as {status or 'gone'}")

    def remove(self) -> None:
        """Remove the cluster, and wait until it no longer exists."""
        self._wait_while(self.changing)
        found = self.find()
        if found is None:
            return
        if found["status"] != self.ending:
            self.delete(found)
        status = self._wait_while((self.ready, self.ending))
        if status is not None:
            raise ClusterError(f"Kubernetes cluster {found['name']}: not removed, because its status is {status}")

    def _wait_while(self, states: Sequence[str]) -> str | None:
        """Wait while the cluster has one of these states; return its next state, or None if it no longer exists."""
        waited = 0.0
        while (status := (self.find() or {}).get("status")) in states:
            if waited >= _LIMIT:
                raise ClusterError(f"Kubernetes cluster toilfn-{self.cloud.name}: still {status} after an hour")
            self.cloud.pause(15)
            waited += 15
        return status


def account(annotations: Mapping[str, str] | None = None) -> Sequence[dict[str, Any]]:
    """Return the Kubernetes objects for the service account of leaders and tasks, and for its permissions."""
    rights = [
        (["batch"], ["jobs"], ["create", "delete", "list", "watch"]),
        ([""], ["pods"], ["delete", "list", "watch"]),
        ([""], ["pods/log"], ["get"]),
        ([""], ["events"], ["list"]),
    ]
    group, name = "rbac.authorization.k8s.io", SERVICE_ACCOUNT
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": "default"}]
    nodes = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}
    rules = [{"apiGroups": groups, "resources": what, "verbs": verbs} for groups, what, verbs in rights]
    here = {"name": name, "namespace": "default"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount",
         "metadata": here | ({"annotations": dict(annotations)} if annotations else {})},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": here, "rules": rules},
        {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": here, "subjects": subjects,
         "roleRef": {"apiGroup": group, "kind": "Role", "name": name}},
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": f"{name}-nodes"}, "rules": [nodes]},
        {"apiVersion": f"{group}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": f"{name}-nodes"},
         "subjects": subjects, "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": f"{name}-nodes"}},
    ]  # fmt: skip
