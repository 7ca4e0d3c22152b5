"""What a person reads when tasks failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from toilfn.errors import FailedTasksError, GraphError
from toilfn.events import TaskId
from toilfn.records import BlobRef, Failure, Task
from toilfn.resources import Resources
from toilfn.serialize import loads
from toilfn.units import format_size

__all__ = ["describe_arguments", "failed_tasks", "stuck_tasks", "too_large"]

_SHOWN = 10
"""How many failed tasks are told in full; `toilfn status --failed` has all."""


def failed_tasks(
    failures: Sequence[Failure],
    name: Callable[[TaskId], str],
    inputs: Callable[[TaskId], str],
    log: Callable[[Failure], str],
    store: str,
) -> FailedTasksError:
    """Make the error that ends a run with failed tasks.

    Parameters
    ----------
    failures : sequence of Failure
        The last failure of each task that was given up.
    name, inputs, log : callable
        Give a task's name, its arguments in short, and what its last attempt printed.
    store : str
        The store's URL.
    """
    count = f"{len(failures)} tasks failed" if len(failures) != 1 else "1 task failed"
    parts = [count]
    parts += [_describe(f, name(f.id), inputs(f.id), log(f)) for f in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        parts.append(f"... and {len(failures) - _SHOWN} more: toilfn status {store} --failed")
    parts.append(f"All other work is kept. When the cause is mended: toilfn resume {store}")
    return FailedTasksError("\n\n".join(parts), tuple(failures), store, tuple(name(f.id) for f in failures))


class _Later:
    """Stands for the value of a task where arguments are shown."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, index: Any) -> _Later:
        return _Later(f"{self._name}[{index!r}]")

    def __repr__(self) -> str:
        return f"<{self._name}>"


def describe_arguments(
    task: Task, name: Callable[[TaskId], str], get_blob: Callable[[BlobRef], bytes], limit: int = 200
) -> str:
    """Show a task's arguments as they would be written, values of other tasks by name.

    Parameters
    ----------
    task : Task
    name : callable
        Gives the name of a task that an argument comes from.
    get_blob : callable
        Reads arguments that are not in the record.
    limit : int
        How many characters at most.
    """
    payload = task.args if isinstance(task.args, bytes) else get_blob(task.args)
    try:
        args, kwargs = loads(payload, {need: _Later(name(need)) for need in task.needs})
        shown = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
    except Exception as error:  # an argument whose class or __repr__ fails must not hide the task's own failure
        return f"arguments that cannot be shown: {error}"
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def _describe(failure: Failure, name: str, inputs: str, log: str) -> str:
    lines = [f"{name}({inputs}), task {failure.id.hex()[:12]}, attempt {failure.attempt}: {failure.message}"]
    if failure.traceback:
        lines.append(_indent(failure.traceback))
    if log.strip():
        lines += ["  its log:", _indent(log)]
    return "\n".join(lines)


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines())


def too_large(asked: Resources, offered: Resources | None) -> str:
    """Say that a task asks for more than the cluster can ever give."""
    text = f"asks for {_resources(asked)}, more than the cluster ever gives to one task"
    return f"{text}: {_resources(offered)}. Ask for less, or use another cluster" if offered else text


def _resources(amount: Resources) -> str:
    parts = [
        f"{amount.cores:g} cores",
        f"{format_size(amount.memory)} of memory",
        f"{format_size(amount.disk)} of disk",
    ]
    parts += [f"{device.count} accelerators ({device.model or device.kind})" for device in amount.accelerators]
    return ", ".join(parts)


def stuck_tasks(ids: Sequence[TaskId], name: Callable[[TaskId], str]) -> GraphError:
    """Make the error for tasks that wait for each other."""
    names = ", ".join(f"{name(id_)} ({id_.hex()[:12]})" for id_ in ids[:_SHOWN])
    return GraphError(f"a cycle: these tasks wait for each other and can never start: {names}")
