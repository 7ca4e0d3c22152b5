"""Kubernetes that a cloud manages: its creation and removal, and the account of leaders and tasks in it."""

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
"""Seconds after which a cluster that is still being made or removed is an error."""


class KubernetesStep(Step[C]):
    """Kubernetes itself.

    Attributes
    ----------
    ready, ending : str
        The cloud's words for a cluster that can be used, and for one that is being removed.
    changing : tuple of str
        Those for a cluster that is being made or changed, which cannot be removed yet.
    """

    title = "Kubernetes clusters"
    ready: str
    ending: str
    changing: tuple[str, ...]

    @abstractmethod
    def find(self) -> dict[str, Any] | None:
        """Return the cluster with its name and status, if there is one that belongs to this description."""

    @abstractmethod
    def create(self) -> None:
        """Ask the cloud to make it."""

    @abstractmethod
    def delete(self, found: dict[str, Any]) -> None:
        """Ask the cloud to remove it; it is not an error if it is gone."""

    def exists(self) -> list[str]:
        """Return its name and status, if it exists."""
        found = self.find()
        return [f"{found['name']} ({found['status']})"] if found else []

    def make(self) -> None:
        """Create it, and wait until it can be used."""
        if self.find() is None:
            self.create()
        status = self._wait_while(self.changing)
        if status != self.ready:
            raise ClusterError(f"Kubernetes cluster toilfn-{self.cloud.name}: it is {status or 'gone'}")

    def remove(self) -> None:
        """Remove it, and wait until it is gone."""
        self._wait_while(self.changing)
        found = self.find()
        if found is None:
            return
        if found["status"] != self.ending:
            self.delete(found)
        status = self._wait_while((self.ready, self.ending))
        if status is not None:
            raise ClusterError(f"Kubernetes cluster {found['name']}: it is {status}, so it was not removed")

    def _wait_while(self, states: Sequence[str]) -> str | None:
        """Wait until it has no state of these; return its state then, or None if it is gone."""
        waited = 0.0
        while (status := (self.find() or {}).get("status")) in states:
            if waited >= _LIMIT:
                raise ClusterError(f"Kubernetes cluster toilfn-{self.cloud.name}: it is still {status} after an hour")
            self.cloud.pause(15)
            waited += 15
        return status


def account(annotations: Mapping[str, str] | None = None) -> Sequence[dict[str, Any]]:
    """Return the objects of the service account of leaders and tasks, and of what it may do."""
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
