"""From a description to resources of a cloud and back, without a file that remembers what was made.

Each kind of resource is a step. A step finds by tag what exists, so launching and destroying can be repeated from
whatever an error or an interrupt has left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from toilfn.errors import ClusterError, ToilfnError

__all__ = ["Step", "destroy", "found", "launch"]

Report = Callable[[str], None]


class Step(ABC):
    """One kind of resource.

    Attributes
    ----------
    title : str
        Its name for people, in the plural.
    """

    title: str

    @abstractmethod
    def exists(self) -> list[str]:
        """Return the names of those that exist and belong to this cluster."""

    @abstractmethod
    def make(self) -> None:
        """Make what is missing; nothing happens to what is complete."""

    @abstractmethod
    def remove(self) -> None:
        """Remove all that belong to this cluster; those that are gone already are passed over."""


def found(steps: Sequence[Step]) -> list[str]:
    """Return everything that exists, each with the title of its step."""
    return [f"{step.title}: {name}" for step in steps for name in step.exists()]


def launch(name: str, steps: Sequence[Step], report: Report) -> None:
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
    if whole := steps[-1].exists():
        raise ClusterError(
            f"cluster {name}: it exists already ({', '.join(whole)}); choose another name, or remove it by "
            f"`toilfn cluster destroy {name}`"
        )
    for step in steps:
        report(f"{step.title} ...")
        try:
            step.make()
        except ToilfnError as error:
            raise ClusterError(
                f"cluster {name}: {step.title} could not be made: {error}\n{_left(name, steps)}"
            ) from error


def _left(name: str, steps: Sequence[Step]) -> str:
    try:
        there = found(steps)
    except ToilfnError as error:
        return f"what exists could not be looked up ({error}); when it can be, run `toilfn cluster destroy {name}`"
    listed = "; ".join(there) or "nothing"
    return f"what exists now: {listed}. Launch again to continue, or run `toilfn cluster destroy {name}`"


def destroy(name: str, steps: Sequence[Step], report: Report) -> None:
    """Remove all resources of a cluster, last one first, and check that nothing is left.

    Raises
    ------
    ClusterError
        If something could not be removed; the other steps were tried nevertheless.
    """
    failures = []
    for step in reversed(steps):
        try:
            there = step.exists()
            if there:
                report(f"{step.title}: {', '.join(there)}")
            step.remove()
        except ToilfnError as error:
            failures.append(f"{step.title}: {error}")
    left = found(steps) if not failures else []
    if failures or left:
        what = "\n".join([*failures, *(f"still there: {item}" for item in left)])
        raise ClusterError(f"cluster {name}: not everything could be removed; run the same command again\n{what}")
