"""The state of a run, worked out of what its record holds: no state is written down before the end."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["Facts", "State", "state_of"]


class State(str, Enum):
    """The states of WES that a run of this server can have."""

    QUEUED = "QUEUED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    CANCELING = "CANCELING"
    COMPLETE = "COMPLETE"
    EXECUTOR_ERROR = "EXECUTOR_ERROR"
    SYSTEM_ERROR = "SYSTEM_ERROR"
    CANCELED = "CANCELED"

    @property
    def is_final(self) -> bool:
        """Whether a run in this state stays in it."""
        return self in (State.COMPLETE, State.EXECUTOR_ERROR, State.SYSTEM_ERROR, State.CANCELED)


class Facts(NamedTuple):
    """The facts of a run. Each of these, once true, stays so."""

    claimed: bool = False
    """A leader has taken the run."""
    running: bool = False
    """The log of the run's own job store says that its tasks were submitted."""
    cancelled: bool = False
    """A user asked to cancel it before it had ended."""
    exit: State | None = None
    """The final state that the leader wrote down."""


def state_of(facts: Facts) -> State:
    """Return the state of a run.

    Facts only ever become true, and this function never goes back from a later state to an earlier one when they do.
    """
    if facts.exit is not None:
        return facts.exit
    if facts.cancelled:
        return State.CANCELING
    if facts.running:
        return State.RUNNING
    return State.INITIALIZING if facts.claimed else State.QUEUED
