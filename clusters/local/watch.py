"""Check the limits of a worker's task, and determine why a worker ended."""

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
"""Why a batch ended: the cause for the scheduler, and a text for people."""

_SHORT = 0.02
"""Seconds for which a task runs before its limits are checked."""

_FAULTS = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP"}
"""Signals that are caused by errors of the program itself."""


def broken_limit(worker: WorkerProcess, *, memory: bool = True) -> Verdict | None:
    """Return which limit a worker's task has exceeded, if any; the memory limit is checked only with `memory`."""
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
    return verdict if worker.doing() == doing else None  # the worker may have started another task meanwhile


def _too_much(used: int, doing: Doing) -> str:
    """Describe the memory that a task used, without that of its worker."""
    asked, base = format_size(doing.memory), format_size(doing.base)
    more = f" (not counting the {base} of its worker)" if doing.base else ""
    return f"used {format_size(used)} of memory but requested {asked}{more}"


def how_it_ended(status: int, *, in_task: bool) -> Verdict:
    """Return why a worker ended that was not asked to.

    Parameters
    ----------
    status : int
        The exit status, or the negative number of the signal that killed the worker.
    in_task : bool
        Whether the worker was running a task.
    """
    where = "while running the task" if in_task else "between two tasks"
    if status >= 0:
        return (Cause.ERROR if in_task else Cause.LOST), f"the worker process ended with exit status {status} {where}"
    name = _signal_name(-status)
    hint = "; perhaps the machine ran out of memory" if name == "SIGKILL" else ""
    cause = Cause.ERROR if in_task and name in _FAULTS else Cause.LOST
    return cause, f"the worker process was killed by {name} {where}{hint}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
