"""The interface that the commands use for every cloud."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toilfn.cloud.scaler import round_half_up
from toilfn.errors import ClusterError

if TYPE_CHECKING:
    from toilfn.cloud.bootstrap import Secrets
    from toilfn.cloud.description import Description, PoolDescription
    from toilfn.cloud.machines import MachineType
    from toilfn.cloud.steps import Step

__all__ = ["CONTROLLER", "Cluster", "Machine", "Machines", "Provider"]

CONTROLLER = "controller"
"""The name of the machine with Slurm's controller. Every other machine has the name of its node in Slurm."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of a cluster.

    Attributes
    ----------
    id : str
        The cloud's id of the machine.
    node : str
        The name of the machine in Slurm; empty if it has none yet.
    type, state : str
        The machine type, and the state in the cloud's terms.
    address : str
        The public address, or the private one if there is no other.
    host_key : str
        The controller's public ssh host key, which was stored when the cluster was launched; empty for other machines.
    """

    id: str
    node: str
    type: str
    state: str
    address: str
    host_key: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster in a list of clusters.

    Attributes
    ----------
    name, kind : str
        The name and kind from its description.
    machines : int or None
        The number of machines; None if the cloud manages them.
    controller : bool
        Whether the cluster has a controller. It has none while it is being launched or destroyed.
    """

    name: str
    kind: str
    machines: int | None
    controller: bool


class Machines(ABC):
    """Starts and ends the machines of pools, by the names of their nodes in Slurm.

    Parameters
    ----------
    description : Description
        The cluster with the pools.
    """

    def __init__(self, description: Description) -> None:
        self.description = description

    def create(self, pool: PoolDescription, names: Sequence[str]) -> dict[str, str]:
        """Create the missing machines of these names; return the addresses of those that exist then, by name.

        If the cloud lacks spot machines, a share of them (``scaling.compensation``) is created as on-demand machines.

        Raises
        ------
        ClusterError
            If the cluster has no controller, or the cloud refuses for a reason other than lack of capacity.
        """
        there = self.living(names)
        if CONTROLLER not in there:
            raise ClusterError(f"cluster {self.description.name}: cannot start machines without a controller")
        found = {name: there[name] for name in names if name in there}
        wanted = [name for name in names if name not in there]
        if wanted:
            found |= self.start(pool, wanted, there[CONTROLLER], is_spot=pool.spot)
        missing = [name for name in wanted if name not in found]
        instead = round_half_up(self.description.scaling.compensation * len(missing)) if pool.spot else 0
        if instead:
            found |= self.start(pool, missing[:instead], there[CONTROLLER], is_spot=False)
        return found

    @abstractmethod
    def living(self, names: Sequence[str]) -> dict[str, str]:
        """Return the addresses of the controller and of all machines that are running or booting, by name.

        Remove other machines with the names `names`, if they would prevent the creation of new ones.
        """

    @abstractmethod
    def start(self, pool: PoolDescription, names: Sequence[str], controller: str, *, is_spot: bool) -> dict[str, str]:
        """Create machines with the address of the controller; return the addresses of those that were available."""

    @abstractmethod
    def terminate(self, names: Sequence[str]) -> None:
        """Remove machines; it is not an error if one no longer exists."""


class Provider(ABC):
    """A cloud, for one cluster.

    Attributes
    ----------
    name : str
        The cluster's name; it may be empty if only `clusters` is called.
    place : str
        The region or project in which clusters are searched, for messages.
    """

    name: str
    place: str

    @abstractmethod
    def check(self, description: Description) -> None:
        """Check that the cloud has everything that the description names, before anything is created.

        Raises
        ------
        InputError
            If the cloud does not have a machine type, zone, subnet or image.
        """

    @abstractmethod
    def with_types(self, description: Description, prices: Mapping[str, MachineType]) -> Description:
        """Return the description with the cheapest suitable types for each pool with sizes only.

        Parameters
        ----------
        description : Description
            A cluster of the kind slurm.
        prices : mapping
            On-demand prices, as far as they are known: machine types by name.

        Raises
        ------
        InputError
            If no type is large enough, or all cost more than the pool's limit.
        """

    @abstractmethod
    def launched_types(self, pool: PoolDescription) -> PoolDescription:
        """Return a pool with sizes only with the types that were chosen when its cluster was launched.

        Raises
        ------
        InputError
            If the cluster has no such pool.
        """

    @abstractmethod
    def spot_prices(self, types: Iterable[str], zones: Sequence[str]) -> dict[str, float]:
        """Return the current price of a spot machine of each type, per hour, in the cheapest zone.

        Parameters
        ----------
        types : iterable of str
            Machine types. Types without spot machines are left out of the result.
        zones : sequence of str
            The zones to consider; if empty, all.
        """

    @abstractmethod
    def steps_of_kind(self, kind: str, description: Description | None, secrets: Secrets | None) -> list[Step[Any]]:
        """Return the steps of a cluster of the kind slurm or kubernetes, in the order of launching."""

    def steps(self, description: Description | None = None, secrets: Secrets | None = None) -> list[Step[Any]]:
        """Return the steps of a cluster, in the order of launching.

        Without a description, the kind is unknown. The result then has the steps of all kinds, to find and remove the
        cluster.
        """
        kinds = [description.kind] if description else ["slurm", "kubernetes"]
        return [step for kind in kinds for step in self.steps_of_kind(kind, description, secrets)]

    @abstractmethod
    def machines(self) -> list[Machine]:
        """Return the cluster's machines, except terminated ones."""

    @abstractmethod
    def pools(self, description: Description) -> Machines:
        """Return the object that starts and ends the machines of pools."""

    @abstractmethod
    def clusters(self) -> list[Cluster]:
        """Return all clusters of the region or project, whatever their names."""

    @abstractmethod
    def manifests(self, description: Description) -> str:
        """Return the YAML that prepares a Kubernetes cluster for leaders and tasks."""

    @abstractmethod
    def kubernetes_access(self, description: Description) -> str:
        """Return the command that configures kubectl for a cluster of the kind kubernetes."""
