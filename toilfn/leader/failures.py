"""Build the messages with which a run with failed tasks ends."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Sequence
from textwrap import indent
from typing import Any

from toilfn.errors import FailedTasksError, GraphError
from toilfn.graph.serialize import loads
from toilfn.ids import Cause, TaskId
from toilfn.leader.committer import Committer
from toilfn.model import records
from toilfn.model.records import BlobRef, Failure, TaskRecord, encode
from toilfn.resources import Capacity, Resources
from toilfn.scheduler.events import RollBack
from toilfn.text import abridged, last_lines, visible
from toilfn.units import format_duration, format_size

__all__ = ["Failures", "describe_arguments", "failed_tasks", "stuck_tasks", "too_large"]


class Failures:
    """Counts attempts, and records failures once the scheduler has decided what follows.

    Parameters
    ----------
    committer : Committer
    ended : callable
        Called with each failure.
    too_large : callable
        Explains why a task requests more than there is.
    shape : callable
        Returns the resources that a task requests.
    worker_memory : int
        The bytes that a job requests on top of its tasks' memory.

    Attributes
    ----------
    attempts : dict
        How often each task has failed.
    final : dict
        The last failure of each task that was given up.
    """

    def __init__(
        self,
        committer: Committer,
        ended: Callable[[records.Failure], None],
        too_large: Callable[[TaskId], str],
        shape: Callable[[TaskId], Resources],
        worker_memory: int = 0,
    ) -> None:
        self._committer = committer
        self._ended = ended
        self._too_large = too_large
        self._shape = shape
        self._worker_memory = worker_memory
        self._last: dict[TaskId, records.Failure] = {}
        self.attempts: dict[TaskId, int] = {}
        self.final: dict[TaskId, records.Failure] = {}

    def describe(self, failure: records.Failure) -> None:
        """Keep the details of a failed attempt until the scheduler has decided what follows."""
        self._last[failure.id] = failure

    def describe_lost(self, id_: TaskId, cause: Cause, text: str, log: bytes, since: float) -> None:
        """Keep the details of a failure that only the cluster has reported, perhaps with the start of the task."""
        now = time.time()
        stats = records.Stats(start=since, wall=max(0.0, now - since)) if since else records.Stats(start=now)
        text += _asked(cause, self._shape(id_), text, self._worker_memory)
        self.describe(records.Failure(id_, self.attempts.get(id_, 0) + 1, cause.value, text, "", log, stats))

    def describe_impossible(self, id_: TaskId, text: str) -> None:
        """Keep the details of the failure of a task that cannot be started."""
        self.describe(_failure(id_, 1, Cause.INPUT, text))

    def retry(self, id_: TaskId, cause: Cause, attempt: int) -> None:
        """Note that a task is tried again."""
        self.attempts[id_] = attempt
        self._note(id_, cause, final=False)

    def give_up(self, id_: TaskId, cause: Cause) -> None:
        """Note that a task was given up."""
        self.final[id_] = self._note(id_, cause, final=True)

    def roll_back(self, command: RollBack, text: str) -> None:
        """Note that a checkpoint is run again."""
        self.describe(_failure(command.id, command.attempt, command.cause, text))
        self.retry(command.id, command.cause, command.attempt)

    def write_described(self, id_: TaskId) -> None:
        """Write the details of a failure that has no consequence."""
        if (failure := self._last.pop(id_, None)) is not None:
            self._committer.add(encode(failure))

    def succeed(self, id_: TaskId) -> None:
        """Note that a task has an outcome."""
        self.attempts.pop(id_, None)

    def forget(self, id_: TaskId) -> None:
        """Forget what happened to a task."""
        for kept in (self.attempts, self.final, self._last):
            kept.pop(id_, None)

    def _note(self, id_: TaskId, cause: Cause, *, final: bool) -> records.Failure:
        failure = (self._last.pop(id_, None) or self._unheard(id_, cause))._replace(final=final)
        self._committer.add(encode(failure))
        self._ended(failure)
        return failure

    def _unheard(self, id_: TaskId, cause: Cause) -> records.Failure:
        """Describe a failure that no worker and no cluster has described."""
        is_large = cause is Cause.INPUT
        text = self._too_large(id_) if is_large else f"stopped without an answer ({cause.value})"
        return _failure(id_, self.attempts.get(id_, 1), cause, text)


def _asked(cause: Cause, shape: Resources, said: str, worker_memory: int) -> str:
    """Return what a task that exceeded a limit had requested, unless the cluster has reported it, and advice."""
    if cause is Cause.MEMORY:
        added = f", plus {format_size(worker_memory)} for its worker" if worker_memory else ""
        asked = "" if "requested" in said else f"; it requested {format_size(shape.memory)} of memory{added}"
        return f"{asked}; request more with the option memory"
    if cause is Cause.WALLTIME and shape.walltime and "its walltime" not in said:
        return f"; its walltime is {format_duration(shape.walltime)}"
    return ""


def _failure(id_: TaskId, attempt: int, cause: Cause, text: str) -> records.Failure:
    return records.Failure(id_, attempt, cause.value, text, "", b"", records.Stats())


_IN_FULL = 5
"""How many kinds of failure are shown with traceback and log."""
_IN_SHORT = 15
"""How many more are shown in one line each; `toilfn status --failed` has all."""
_NAMED = 10
"""How many tasks of one kind are named."""
_MOST_TELLING = (Cause.INPUT, Cause.ERROR, Cause.MEMORY, Cause.WALLTIME)
"""Causes that lie in a task itself come before those of the machines, which may be consequences."""


def failed_tasks(
    failures: Sequence[Failure],
    name: Callable[[TaskId], str],
    inputs: Callable[[TaskId], str],
    log: Callable[[Failure], str],
    store: str,
    way_on: str | None,
) -> FailedTasksError:
    """Build the error that ends a run with failed tasks.

    Failures of one function with one error, numbers in its text aside, are shown together, so that the message stays
    short however many tasks failed.

    Parameters
    ----------
    failures : sequence of Failure
        The last failure of each task that was given up.
    name, inputs, log : callable
        Give a task's name, its arguments in short, and what its last attempt printed.
    store : str
        The store's URL.
    way_on : str or None
        The command that resumes the run; None if the store is removed.
    """
    count = f"{len(failures)} tasks failed" if len(failures) != 1 else "1 task failed"
    kinds = _kinds(failures, name)
    place = shlex.quote(store) if way_on else ""
    parts = [count]
    for kind in kinds[:_IN_FULL]:
        first = kind[0]
        parts.append(_describe(first, name(first.id), inputs(first.id), log(first), place) + _others(kind[1:], place))
    short = kinds[_IN_FULL : _IN_FULL + _IN_SHORT]
    if short:
        parts.append("\n".join(_in_one_line(kind, name) for kind in short))
    if len(kinds) > _IN_FULL + _IN_SHORT:
        left = sum(map(len, kinds[_IN_FULL + _IN_SHORT :]))
        parts.append(f"... and {left} more" + (f": toilfn status {place} --failed" if place else ""))
    names = tuple(name(failure.id) for failure in failures)
    hint = f"completed work is kept; after fixing the problem, run: {way_on}" if way_on else None
    return FailedTasksError(visible("\n\n".join(parts)), tuple(failures), store, names, hint=hint)


def _kinds(failures: Sequence[Failure], name: Callable[[TaskId], str]) -> list[list[Failure]]:
    """Group failures that are alike, the most telling kinds first."""
    kinds: dict[tuple[str, str, str], list[Failure]] = {}
    for failure in failures:
        alike = (name(failure.id), failure.cause, re.sub(r"[0-9]+", "0", failure.message))
        kinds.setdefault(alike, []).append(failure)
    return sorted(kinds.values(), key=lambda kind: kind[0].cause not in _MOST_TELLING)


def _others(failures: Sequence[Failure], place: str) -> str:
    """Name the tasks that failed in the same way; `place` is empty if the store is removed."""
    if not failures:
        return ""
    ids = ", ".join(failure.id.hex()[:12] for failure in failures[:_NAMED])
    more = (", ..." + (f" (toilfn status {place} --failed lists them)" if place else "")) * (len(failures) > _NAMED)
    return f"\n  {len(failures)} more failed in the same way: {ids}{more}"


def _in_one_line(kind: Sequence[Failure], name: Callable[[TaskId], str]) -> str:
    first = kind[0]
    more = f" (and {len(kind) - 1} more like it)" if len(kind) > 1 else ""
    return f"{name(first.id)}, task {first.id.hex()[:12]}: {first.message}{more}"


class _Later:
    """Stands for the value of a task where arguments are shown."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, index: Any) -> _Later:
        return _Later(f"{self._name}[{index!r}]")

    def __repr__(self) -> str:
        return f"<{self._name}>"


def describe_arguments(
    task: TaskRecord,
    name: Callable[[TaskId], str],
    get_blob: Callable[[BlobRef], bytes],
    *,
    is_shell_step: bool = False,
    limit: int = 200,
) -> str:
    """Show a task's arguments as they would be written, values of other tasks by name.

    Parameters
    ----------
    task : TaskRecord
    name : callable
        Gives the name of a task that an argument comes from.
    get_blob : callable
        Reads arguments that are not in the record.
    is_shell_step : bool
        Whether only the inputs of a shell command are shown.
    limit : int
        How many characters at most.
    """
    payload = task.args if isinstance(task.args, bytes) else get_blob(task.args)
    try:
        args, kwargs = loads(payload, {need: _Later(name(need)) for need in task.needs})
        if is_shell_step:  # the failure's message has the command
            args = ()
        shown = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
    except Exception as error:  # an argument whose class or __repr__ fails must not hide the task's own failure
        return f"arguments that cannot be shown: {error}"
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def _describe(failure: Failure, name: str, inputs: str, log: str, place: str) -> str:
    id_ = failure.id.hex()[:12]
    lines = [f"{name}({inputs}), task {id_}, attempt {failure.attempt}: {failure.message}"]
    if failure.traceback:
        lines.append(indent(abridged(failure.traceback, 10, 25), "    "))
    if log.strip() and last_lines(log, 10).strip() not in failure.message:
        all_of_it = f" (toilfn logs {place} {id_} shows all)" if place else ""
        lines += [f"  the end of its log{all_of_it}:", indent(last_lines(log, 10), "    ")]
    return "\n".join(lines)


def too_large(asked: Resources, offered: Resources | None, capacity: Capacity) -> str:
    """Describe a task that requests more than the cluster can ever provide, or than the user's limits allow."""
    limits = {"cores": capacity.cores, "memory": capacity.memory, "disk": capacity.disk}
    if over := [name for name, most in limits.items() if most is not None and getattr(asked, name) > most]:
        names = " and ".join(f"max_{name}={_amount(name, limits[name])}" for name in over)
        return f"requests {_resources(asked)}, more than {names} allows; request less, or raise the limit"
    text = f"requests {_resources(asked)}, more than the cluster can give to one task"
    return f"{text}: {_resources(offered)}. Request less, or use another cluster" if offered else text


def _amount(name: str, most: float | None) -> str:
    return f"{most:g}" if name == "cores" else format_size(int(most or 0))


def _resources(amount: Resources) -> str:
    parts = [
        f"{amount.cores:g} cores",
        f"{format_size(amount.memory)} of memory",
        f"{format_size(amount.disk)} of disk",
    ]
    parts += [f"{device.count} accelerators ({device.model or device.kind})" for device in amount.accelerators]
    return ", ".join(parts)


def stuck_tasks(ids: Sequence[TaskId], name: Callable[[TaskId], str]) -> GraphError:
    """Build the error for tasks that wait for each other."""
    names = ", ".join(f"{name(id_)} ({id_.hex()[:12]})" for id_ in ids[:_NAMED])
    return GraphError(f"cycle in the graph: these tasks wait for each other and can never start: {names}")
