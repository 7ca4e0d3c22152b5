"""Whether a worker's task keeps to its limits, and why a worker ended."""

from __future__ import annotations

import signal
import time

from toilfn.clusters.local.memory import used_memory
from toilfn.clusters.local.process import WorkerProcess
from toilfn.clusters.local.slot import Doing
from toilfn.ids import Cause
from toilfn.units import format_duration, format_size

__all__ = ["Verdict", "broken_limit", "how_it_ended"]

Verdict = tuple[Cause, str]
"""Why a batch ended, for the scheduler and for people."""

_SHORT = 0.02
"""Tasks are left alone for so many seconds."""

_FAULTS = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP"}
"""Signals that a program brings upon itself."""


def broken_limit(worker: WorkerProcess, *, memory: bool = True) -> Verdict | None:
    """Return which limit a worker's task has broken, if any; with `memory`, that of memory counts, too."""
    doing = worker.doing()
    if doing is None:
        return None
    elapsed = time.monotonic() - doing.began
    if elapsed < _SHORT:
        return None
    verdict = None
    if doing.walltime and elapsed > doing.walltime:
        verdict = Cause.WALLTIME, f"took longer than its walltime of {format_duration(doing.walltime)}"
    elif memory and doing.memory:
        limit = doing.base + doing.spare + doing.memory
        if (used := used_memory(worker.pid, limit)) > limit:
            verdict = Cause.MEMORY, _too_much(used - doing.base, doing)
    return verdict if worker.doing() == doing else None  # it may have gone on to another task meanwhile


def _too_much(used: int, doing: Doing) -> str:
    """Say what a task used, without its worker's memory."""
    asked, base = format_size(doing.memory), format_size(doing.base)
    more = f"; its worker's own {base} do not count" if doing.base else ""
    return f"used {format_size(used)} of memory and asked for {asked}{more}"


def how_it_ended(status: int, *, in_task: bool) -> Verdict:
    """Return why a worker ended without a request.

    Parameters
    ----------
    status : int
        Its exit status, or the negative number of the signal that killed it.
    in_task : bool
        Whether it was running a task.
    """
    where = "while running it" if in_task else "between two tasks"
    if status >= 0:
        return (Cause.ERROR if in_task else Cause.LOST), f"the worker process ended with exit status {status} {where}"
    name = _signal_name(-status)
    hint = ": perhaps the machine had no memory left" if name == "SIGKILL" else ""
    cause = Cause.ERROR if in_task and name in _FAULTS else Cause.LOST
    return cause, f"the worker process was killed by {name} {where}{hint}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
