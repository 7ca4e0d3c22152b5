"""The variable ``task`` of WDL 1.2, which gives a command and its outputs information about their call."""

from __future__ import annotations

from typing import Any

from WDL import Tree, Value

from toilfn.wdl.language import plain_meta, task_type
from toilfn.wdl.runtime import Runtime
from toilfn.worker.context import current

__all__ = ["task_value"]


def task_value(task: Tree.Task, runtime: Runtime, status: int | None) -> Value.Base:
    """Build the variable (WDL 1.2, "Runtime Access to Requirements, Hints, and Metadata").

    Parameters
    ----------
    task : WDL.Tree.Task
    runtime : Runtime
        The runtime attributes of the call.
    status : int or None
        The command's exit status, once it has ended.
    """
    context = current()
    known: dict[str, Any] = {
        "name": task.name,
        "id": f"{context.name}-{context.id}",
        "container": runtime.image,
        "cpu": float(context.cores),
        "memory": context.memory,
        "gpu": list(context.accelerators),
        "fpga": [],
        "disks": {"/": context.disk},
        "attempt": context.attempt - 1,
        "end_time": None,
        "meta": plain_meta(task.meta),
        "parameter_meta": plain_meta(task.parameter_meta),
    }
    if status is not None:
        known["return_code"] = status
    return Value.from_json(task_type(task, with_return_code=status is not None), known)
