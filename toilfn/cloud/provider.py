"""The interface between the commands and a cloud: one for AWS and Google."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toilfn.errors import InputError

if TYPE_CHECKING:
    from toilfn.cloud.bootstrap import Secrets
    from toilfn.cloud.description import Description, PoolDescription
    from toilfn.cloud.machines import MachineType
    from toilfn.cloud.steps import Step

__all__ = ["CONTROLLER", "Cluster", "Machine", "Machines", "Provider", "launcher_role", "open_provider"]

CONTROLLER = "controller"
"""The name of the machine that Slurm's controller runs on; each other machine has the name of its node in Slurm."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of a cluster.

    Attributes
    ----------
    id : str
        The cloud's name for it.
    node : str
        Slurm's name for it; empty as long as it has none.
    type, state : str
        In the cloud's words.
    address : str
        The public address, or the private one if there is no other.
    host_key : str
        The controller's public ssh host key, as the launch has stored it; empty for other machines.
    """

    id: str
    node: str
    type: str
    state: str
    address: str
    host_key: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster in a list of them.

    Attributes
    ----------
    name, kind : str
        As in its description.
    machines : int or None
        How many exist; None if the cloud manages them.
    controller : bool
        Whether the cluster has a controller, which it lacks while it is launched or destroyed.
    """

    name: str
    kind: str
    machines: int | None
    controller: bool


class Machines(ABC):
    """Machines of pools, by the names that Slurm gives them."""

    @abstractmethod
    def create(self, pool: PoolDescription, names: Sequence[str]) -> Mapping[str, str]:
        """Make machines; return the addresses of those that were available, by name."""

    @abstractmethod
    def terminate(self, names: Sequence[str]) -> None:
        """Remove machines; one that is gone already is passed over."""


class Provider(ABC):
    """A cloud, for one cluster.

    Attributes
    ----------
    name : str
        The cluster's name; it may be empty if only `clusters` is called.
    place : str
        Where clusters are looked for, for people: a region, or a project.
    """

    name: str
    place: str

    @abstractmethod
    def check(self, description: Description) -> None:
        """Check against the cloud what the description names, before anything is made.

        Raises
        ------
        InputError
            If the cloud does not have it.
        """

    @abstractmethod
    def with_types(self, description: Description, prices: Mapping[str, MachineType]) -> Description:
        """Return the description with the cheapest types for each pool that names sizes.

        Parameters
        ----------
        description : Description
            A cluster of kind slurm.
        prices : mapping
            Types with their prices on demand, as far as they are known.

        Raises
        ------
        InputError
            If no type is large enough, or each costs more than the pool's limit.
        """

    @abstractmethod
    def launched_types(self, pool: PoolDescription) -> PoolDescription:
        """Return a pool that names sizes with the types that were chosen when its cluster was launched.

        Raises
        ------
        InputError
            If the cluster has no such pool.
        """

    @abstractmethod
    def spot_prices(self, types: Iterable[str], zones: Sequence[str]) -> dict[str, float]:
        """Return what a spot machine of each type costs now for an hour, where it costs least.

        Parameters
        ----------
        types : iterable of str
            Machine types. Those that are not sold as spot machines are left out of the result.
        zones : sequence of str
            The zones that count; all if there are none.
        """

    @abstractmethod
    def steps(self, description: Description | None = None, secrets: Secrets | None = None) -> list[Step]:
        """Return the steps of a cluster, in the order of launching.

        Without a description, its kind is not known: the steps of all kinds find and remove it.
        """

    @abstractmethod
    def machines(self) -> list[Machine]:
        """Return the cluster's machines that are not gone."""

    @abstractmethod
    def pools(self, description: Description) -> Machines:
        """Return what creates and ends the machines of pools."""

    @abstractmethod
    def clusters(self) -> list[Cluster]:
        """Return all clusters there, whatever their names."""

    @abstractmethod
    def manifests(self, description: Description) -> str:
        """Return the YAML that makes a Kubernetes cluster ready for leaders and tasks."""

    @abstractmethod
    def kubernetes_access(self, description: Description) -> str:
        """Return the command by which kubectl reaches a cluster of kind kubernetes."""


def open_provider(cloud: str, name: str, region: str | None, project: str | None = None) -> Provider:
    """Return the cloud of a cluster.

    Parameters
    ----------
    cloud : str
        ``"aws"`` or ``"google"``.
    name : str
        The cluster's name.
    region : str, optional
        By default that of the environment.
    project : str, optional
        Google's project; by default that of the environment or the credentials.

    Raises
    ------
    InputError
        If no region is known at AWS.
    """
    if cloud == "google":
        from toilfn.cloud.google import GoogleCloud
        from toilfn.cloud.google_client import Google

        return GoogleCloud(name, region, Google(project))
    from toilfn.cloud.aws import AmazonCloud

    region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise InputError("no region is set; pass --region, or set AWS_DEFAULT_REGION")
    return AmazonCloud(name, region)


def launcher_role(cloud: str) -> dict[str, Any]:
    """Return the rights on a cloud that a person needs to launch and destroy clusters, and no more."""
    from toilfn.cloud.policy import google_launcher_role, launcher_policy

    return google_launcher_role() if cloud == "google" else launcher_policy()
