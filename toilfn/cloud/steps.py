"""Create and remove the resources of a cluster, without a file that records which exist.

Each kind of resource is a step. A step finds its existing resources by their tags. So launching and destroying can be
repeated after an error or an interrupt, whatever that has left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from toilfn.cloud.bootstrap import Secrets
from toilfn.cloud.description import Description
from toilfn.errors import ClusterError, ToilfnError

__all__ = ["C", "Step", "destroy", "found", "launch"]

Report = Callable[[str], None]


class Cloud(Protocol):
    """The access to a cloud for one cluster.

    Attributes
    ----------
    name : str
        The cluster's name.
    pause : callable
        A function that waits for a number of seconds.
    """

    name: str
    pause: Callable[[float], None]


C = TypeVar("C", bound=Cloud)


class Step(ABC, Generic[C]):
    """One kind of resource.

    Parameters
    ----------
    cloud : Cloud
    description : Description, optional
        The cluster to create; not needed to find and remove resources.
    secrets : Secrets, optional
        The keys of the Slurm cluster to create.

    Attributes
    ----------
    title : str
        The name of the kind of resource in messages, in the plural.
    """

    title: str

    def __init__(self, cloud: C, description: Description | None = None, secrets: Secrets | None = None) -> None:
        self.cloud = cloud
        self._description = description
        self._secrets = secrets

    @property
    def description(self) -> Description:
        """The description of the cluster to create."""
        assert self._description is not None  # only `make` uses it, and `launch` passes one
        return self._description

    @property
    def secrets(self) -> Secrets:
        """The keys of the cluster to create."""
        assert self._secrets is not None  # only `make` uses them, and `launch` passes them
        return self._secrets

    @abstractmethod
    def exists(self) -> list[str]:
        """Return the names of the resources that exist and belong to this cluster."""

    def settle(self) -> None:
        """Wait for earlier changes that are not finished, if the cloud does not show their resources in searches."""

    @abstractmethod
    def make(self) -> None:
        """Create the missing resources; complete ones are not changed."""

    @abstractmethod
    def remove(self) -> None:
        """Remove all resources that belong to this cluster; it is not an error if one no longer exists."""


def found(steps: Sequence[Step[Any]]) -> list[str]:
    """Return all existing resources of a cluster, each with the title of its step."""
    return [f"{step.title}: {name}" for step in steps for name in step.exists()]


def launch(name: str, steps: Sequence[Step[Any]], report: Report) -> None:
    """Create all resources of a cluster, in order.

    Parameters
    ----------
    name : str
        The cluster's name.
    steps : sequence of Step
        The steps. If the resources of the last step exist, the cluster counts as complete.
    report : callable
        A function that shows a line of progress to the user.

    Raises
    ------
    ClusterError
        If the cluster exists already, or a step fails. The message names the existing resources.
    """
    _settle(steps)
    if whole := steps[-1].exists():
        raise ClusterError(
            f"cluster {name}: already exists ({', '.join(whole)})",
            hint=f"choose another name, or remove it: toilfn cluster destroy {name}",
        )
    for step in steps:
        report(f"{step.title} ...")
        try:
            step.make()
        except ToilfnError as error:
            raise _failed(name, step, steps, error) from error


def _settle(steps: Sequence[Step[Any]]) -> None:
    for step in steps:
        step.settle()


def _failed(name: str, step: Step[Any], steps: Sequence[Step[Any]], error: ToilfnError) -> ClusterError:
    """Build the error for a failed step, with the reason, the resources that exist now, and a hint."""
    hint: str | None = f"launch again to continue, or remove what exists: toilfn cluster destroy {name}"
    try:
        there = found(steps)
        left = f"what exists now: {'; '.join(there) or 'nothing'}"
        if not there:
            hint = None
    except ToilfnError as second:
        left = f"the existing resources could not be listed: {second.message}"
    hint = "; then ".join(filter(None, (error.hint, hint))) or None
    return ClusterError(f"cluster {name}: {step.title} could not be created: {error.message}\n{left}", hint=hint)


def destroy(name: str, steps: Sequence[Step[Any]], report: Report) -> bool:
    """Remove all resources of a cluster, in reverse order, and check that none is left.

    Returns
    -------
    bool
        Whether there were any resources to remove.

    Raises
    ------
    ClusterError
        If a resource could not be removed. The other steps were tried nevertheless.
    """
    failures = []
    has_removed = False
    _settle(steps)
    for step in reversed(steps):
        try:
            there = step.exists()
            if there:
                has_removed = True
                report(f"{step.title}: {', '.join(there)}")
            step.remove()
        except ToilfnError as error:
            failures.append(f"{step.title}: {error}")
    left = found(steps) if not failures else []
    if failures or left:
        what = "\n".join([*failures, *(f"still there: {item}" for item in left)])
        raise ClusterError(
            f"cluster {name}: not everything could be removed\n{what}", hint="run the same command again"
        )
    return has_removed
