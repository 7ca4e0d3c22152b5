"""The interface between the commands and a cloud: one for AWS and Google."""

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
    """Machines of pools, by the names that Slurm gives them.

    Parameters
    ----------
    description : Description
        Whose pools.
    """

    def __init__(self, description: Description) -> None:
        self.description = description

    def create(self, pool: PoolDescription, names: Sequence[str]) -> dict[str, str]:
        """Create the machines that are missing; return the addresses of those that exist then, by name.

        A share of the spot machines that the cloud does not have is made on demand.

        Raises
        ------
        ClusterError
            If the cluster has no controller, or the cloud refuses for another reason than missing capacity.
        """
        there = self.living(names)
        if CONTROLLER not in there:
            raise ClusterError(f"cluster {self.description.name}: it has no controller, so nothing is started")
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
        """Return the addresses of the controller and of all machines that run or boot, by name.

        Machines that would be in the way of new ones with these names are removed.
        """

    @abstractmethod
    def start(self, pool: PoolDescription, names: Sequence[str], controller: str, *, is_spot: bool) -> dict[str, str]:
        """Create machines that know the controller's address; return the addresses of those that were available."""

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
    def steps_of_kind(self, kind: str, description: Description | None, secrets: Secrets | None) -> list[Step[Any]]:
        """Return the steps of a cluster of kind slurm or kubernetes, in the order of launching."""

    def steps(self, description: Description | None = None, secrets: Secrets | None = None) -> list[Step[Any]]:
        """Return the steps of a cluster, in the order of launching.

        Without a description, its kind is not known: the steps of all kinds find and remove it.
        """
        kinds = [description.kind] if description else ["slurm", "kubernetes"]
        return [step for kind in kinds for step in self.steps_of_kind(kind, description, secrets)]

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
