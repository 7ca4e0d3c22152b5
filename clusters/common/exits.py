"""How a job's process ended, and what that means."""

from __future__ import annotations

from toilfn.events import Cause

__all__ = ["NOT_MINE", "exit_cause"]

NOT_MINE = 75
"""The exit status of a worker that found its batch answered by another one (EX_TEMPFAIL of sysexits.h)."""


def exit_cause(status: int, signal: int = 0) -> Cause | None:
    """Judge how a job's process ended; None is well.

    Parameters
    ----------
    status : int
        Its exit status; as shells do, over 128 stands for a signal.
    signal : int
        The signal that ended it, or 0.
    """
    signal = signal or max(0, status - 128)
    if signal in (9, 15):  # sent from outside: nothing in the task does that to its own worker
        return Cause.LOST
    if status == NOT_MINE:  # the system had lost the first worker and started the job again by itself
        return Cause.LOST
    return Cause.ERROR if status or signal else None
