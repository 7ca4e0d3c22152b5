"""Steps for identities on Google Cloud: service accounts, the controller's role, and bindings in project policies."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from toilfn.cloud.google import GoogleStep, ignoring
from toilfn.cloud.google_client import GoogleRefusalError
from toilfn.cloud.policy import google_controller_permissions, google_names_only, google_store_only
from toilfn.cloud.provider import CONTROLLER

__all__ = ["AccountStep", "PermissionStep", "RoleStep"]


class AccountStep(GoogleStep):
    """Service accounts. They are found by their names, and belong to the cluster if their description has its mark.

    Attributes
    ----------
    parts : tuple of str
        The parts of the cluster that use the accounts; the first letter of each is the suffix of the account's name.
    """

    title = "service accounts"
    parts: tuple[str, ...] = (CONTROLLER, "worker")

    def exists(self) -> list[str]:
        """Return the accounts that exist and belong to the cluster."""
        return [account for part in self.parts if self.state(account := self.cloud.account_of(part)) == "mine"]

    def state(self, account: str) -> str:
        """Return ``"mine"`` if an account is the cluster's, ``"other"`` if not, and ``"gone"`` if it does not exist."""
        try:
            found = self.cloud.google.ask("iam", "GET", self._path(account))
        except GoogleRefusalError as error:
            if error.status == 404:
                return "gone"
            raise
        return "mine" if found.get("description") == self.cloud.mark else "other"

    def _path(self, account: str) -> str:
        return f"projects/{self.cloud.project}/serviceAccounts/{account}"

    def make(self) -> None:
        """Create the accounts that are missing."""
        if self.description.profile:
            return
        there = self.exists()
        for part in self.parts:
            account = self.cloud.account_of(part)
            if account not in there:
                about = {"displayName": f"toilfn {self.cloud.name} {part}", "description": self.cloud.mark}
                body = {"accountId": account.partition("@")[0], "serviceAccount": about}
                self.cloud.google.ask("iam", "POST", f"projects/{self.cloud.project}/serviceAccounts", body)

    def remove(self) -> None:
        """Delete the accounts."""
        for account in self.exists():
            with ignoring(404):
                self.cloud.google.ask("iam", "DELETE", self._path(account))


class RoleStep(GoogleStep):
    """The role of the controller, which only permits it to start and end machines of this cluster."""

    title = "roles"

    def exists(self) -> list[str]:
        """Return the names of the cluster's roles."""
        roles = self.cloud.google.pages("iam", f"projects/{self.cloud.project}/roles", "roles")
        return [role["name"] for role in roles if role.get("title") == self.cloud.mark]

    def make(self) -> None:
        """Create the role."""
        if self.description.profile or self.exists():
            return
        # The name of a deleted role cannot be reused for weeks, so each name has a random part.
        name = f"toilfn_{self.cloud.name.replace('-', '_')}_{os.urandom(4).hex()}"
        role = {"title": self.cloud.mark, "description": "starts and ends the machines of a toilfn cluster",
                "includedPermissions": google_controller_permissions(), "stage": "GA"}  # fmt: skip
        self.cloud.google.ask("iam", "POST", f"projects/{self.cloud.project}/roles", {"roleId": name, "role": role})

    def remove(self) -> None:
        """Delete the role."""
        for name in self.exists():
            with ignoring(404):
                self.cloud.google.ask("iam", "DELETE", name)


class PermissionStep(GoogleStep):
    """The permissions of the service accounts: bindings in the project's policy."""

    title = "permissions"
    accounts = AccountStep

    def bindings(self) -> list[dict[str, Any]]:
        """Return the bindings that the cluster needs in the project's policy."""
        (role,) = RoleStep(self.cloud, None).exists()
        controller, worker = (self._member(part) for part in AccountStep.parts)
        condition = {"title": self.cloud.mark, "expression": google_names_only(self.cloud.name)}
        starts = {"role": role, "members": [controller], "condition": condition}
        return [starts, *self.store_bindings([controller, worker])]

    def store_bindings(self, members: list[str]) -> list[dict[str, Any]]:
        """Return the bindings that give members access to the store."""
        store = self.description.store
        if not store or not store.startswith("gs://"):
            return []
        condition = {"title": self.cloud.mark, "expression": google_store_only(store)}
        return [{"role": "roles/storage.objectUser", "members": members, "condition": condition}]

    def trust(self) -> None:
        """Permit the controller to start machines that use the account of workers."""
        controller, worker = (self.cloud.account_of(part) for part in AccountStep.parts)
        self.allow(worker, "roles/iam.serviceAccountUser", f"serviceAccount:{controller}")

    def allow(self, account: str, role: str, member: str) -> None:
        """Permit a member to use a service account. The permission is removed with the account."""
        policy = {"version": 1, "bindings": [{"role": role, "members": [member]}]}
        path = f"projects/{self.cloud.project}/serviceAccounts/{account}:setIamPolicy"
        self._insistently(lambda: self.cloud.google.ask("iam", "POST", path, {"policy": policy}))

    def _member(self, part: str) -> str:
        return f"serviceAccount:{self.cloud.account_of(part)}"

    def _policy(self) -> dict[str, Any]:
        body = {"options": {"requestedPolicyVersion": 3}}
        path = f"projects/{self.cloud.project}:getIamPolicy"
        found: dict[str, Any] = self.cloud.google.ask("projects", "POST", path, body)
        return found

    def _set(self, policy: dict[str, Any], bindings: list[dict[str, Any]]) -> None:
        # With the etag, Google refuses the change if another process has changed the policy since it was read.
        changed = {**policy, "version": 3, "bindings": bindings}
        path = f"projects/{self.cloud.project}:setIamPolicy"
        self.cloud.google.ask("projects", "POST", path, {"policy": changed})

    def _insistently(self, act: Callable[[], Any], limit: float = 120.0) -> None:
        """Send a change, and retry while Google does not know a new account yet, or another process made a change."""
        waited = 0.0
        while True:
            try:
                act()
                return
            except GoogleRefusalError as error:
                is_new = error.status == 404 or (error.status == 400 and "does not exist" in str(error))
                if not (is_new or error.status == 409) or waited >= limit:
                    raise
            self.cloud.pause(5)
            waited += 5

    def _mine(self, member: str, mine: set[str]) -> bool:
        """Return whether a member is an account of the cluster, even one that was deleted before its bindings."""
        return member in mine or any(member.startswith(f"deleted:{own}?uid=") for own in mine)

    def _owned(self) -> set[str]:
        accounts = self.accounts(self.cloud, None)
        named = [self.cloud.account_of(part) for part in accounts.parts]
        return {f"serviceAccount:{account}" for account in named if accounts.state(account) != "other"}

    def exists(self) -> list[str]:
        """Return the roles of the project's policy that the cluster's accounts have."""
        owned = self._owned()
        return [
            f"{binding['role']} of {member.rpartition(':')[2]}"
            for binding in self._policy().get("bindings", [])
            for member in binding["members"]
            if self._mine(member, owned)
        ]

    def make(self) -> None:
        """Add the cluster's bindings to the project's policy."""
        if self.description.profile:
            return
        self.trust()
        wanted = self.bindings()
        if wanted:
            self._insistently(lambda: self._replace(wanted))

    def _replace(self, wanted: list[dict[str, Any]]) -> None:
        """Replace all bindings of the cluster in the project's policy."""
        policy, owned = self._policy(), self._owned()
        kept = []
        for binding in policy.get("bindings", []):
            members = [member for member in binding["members"] if not self._mine(member, owned)]
            if members:
                kept.append({**binding, "members": members})
        if (after := kept + wanted) != policy.get("bindings", []):
            self._set(policy, after)

    def remove(self) -> None:
        """Remove the cluster's bindings from the project's policy."""
        if self.exists():
            self._insistently(lambda: self._replace([]))
