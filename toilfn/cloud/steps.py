"""From a description to resources of a cloud and back, without a file that remembers what was made.

Each kind of resource is a step. A step finds by tag what exists, so launching and destroying can be repeated from
whatever an error or an interrupt has left.
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
    """A cloud, for one cluster.

    Attributes
    ----------
    name : str
        The cluster's name.
    pause : callable
        Waits for some seconds.
    """

    name: str
    pause: Callable[[float], None]


C = TypeVar("C", bound=Cloud)


class Step(ABC, Generic[C]):
    """One kind of resource.

    Parameters
    ----------
    cloud : Cloud
        Where.
    description : Description, optional
        What to make; it is not needed to find and to remove.
    secrets : Secrets, optional
        The keys of a Slurm cluster that is made.

    Attributes
    ----------
    title : str
        Its name for people, in the plural.
    """

    title: str

    def __init__(self, cloud: C, description: Description | None = None, secrets: Secrets | None = None) -> None:
        self.cloud = cloud
        self._description = description
        self._secrets = secrets

    @property
    def description(self) -> Description:
        """The description of the cluster to create."""
        assert self._description is not None  # only `make` asks, and `launch` has one
        return self._description

    @property
    def secrets(self) -> Secrets:
        """The keys of the cluster to create."""
        assert self._secrets is not None  # as above
        return self._secrets

    @abstractmethod
    def exists(self) -> list[str]:
        """Return the names of those that exist and belong to this cluster."""

    def settle(self) -> None:
        """Wait for changes that were begun before and are not finished, in clouds where a search does not show them."""

    @abstractmethod
    def make(self) -> None:
        """Make what is missing; nothing happens to what is complete."""

    @abstractmethod
    def remove(self) -> None:
        """Remove all that belong to this cluster; those that are gone already are passed over."""


def found(steps: Sequence[Step[Any]]) -> list[str]:
    """Return everything that exists, each with the title of its step."""
    return [f"{step.title}: {name}" for step in steps for name in step.exists()]


def launch(name: str, steps: Sequence[Step[Any]], report: Report) -> None:
    """Make all resources of a cluster, in order.

    Parameters
    ----------
    name : str
        The cluster's name.
    steps : sequence of Step
        The last one is what makes the cluster whole.
    report : callable
        Takes lines for people.

    Raises
    ------
    ClusterError
        If the cluster exists already, or a step fails; then the message names what exists.
    """
    _settle(steps)
    if whole := steps[-1].exists():
        raise ClusterError(
            f"cluster {name}: it exists already ({', '.join(whole)})",
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
    """Return the error for a step that failed: with the reason, with what exists now, and with what to do."""
    hint: str | None = f"launch again to continue, or remove what exists: toilfn cluster destroy {name}"
    try:
        there = found(steps)
        left = f"what exists now: {'; '.join(there) or 'nothing'}"
        if not there:
            hint = None
    except ToilfnError as second:
        left = f"what exists could not be looked up: {second.message}"
    hint = "; then ".join(filter(None, (error.hint, hint))) or None
    return ClusterError(f"cluster {name}: {step.title} could not be made: {error.message}\n{left}", hint=hint)


def destroy(name: str, steps: Sequence[Step[Any]], report: Report) -> bool:
    """Remove all resources of a cluster, last one first, and check that nothing is left.

    Returns
    -------
    bool
        Whether there was something to remove.

    Raises
    ------
    ClusterError
        If something could not be removed; the other steps were tried nevertheless.
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
        raise ClusterError(f"cluster {name}: not everything could be removed; run the same command again\n{what}")
    return has_removed
