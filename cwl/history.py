"""Read from a store which tools its newest run has run or reused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cwltool.process import Process
from cwltool.workflow import Workflow, WorkflowStep

from toilfn.cwl.documents import Part, Path, step_of
from toilfn.cwl.reuse import Fresh
from toilfn.cwl.steps import runs_here
from toilfn.files.file import held_by
from toilfn.graph.serialize import loads, resolve
from toilfn.ids import TaskId
from toilfn.inspect.view import State, View
from toilfn.model.index import Index
from toilfn.model.records import BlobRef
from toilfn.model.values import Values
from toilfn.stores import Store

__all__ = ["ToolRun", "tool_runs"]


@dataclass(frozen=True)
class ToolRun:
    """One run of a tool.

    Attributes
    ----------
    path : tuple of str
        The path of steps to the tool; empty if the document is just the tool.
    start, end : float
        Times in seconds since the epoch.
    host : str
        The machine on which the tool ran.
    inputs, outputs : dict
        Values in the form used between tasks: the inputs of the step, by the ids of their sources or by short name,
        and its outputs.
    """

    path: Path
    start: float
    end: float
    host: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]


def tool_runs(store: Store, process: Process, view: View) -> Iterator[ToolRun]:
    """Iterate over the tools that the newest run of a store needed, in the order in which they were recorded."""
    reader = _Reader(store)
    for info in view.current():
        if info.state is not State.DONE or info.children:
            continue
        match reader.arguments(info.id):
            case (Part() as part, dict() as inputs, Fresh()) if _is_tool(process, part):
                outputs = reader.value(info.id)
                if not (part.step and _was_skipped(_step(process, part), outputs)):
                    path = (*part.path, part.step) if part.step else part.path
                    yield ToolRun(path, info.start, info.start + info.wall, info.host, inputs, outputs)


def _is_tool(process: Process, part: Part) -> bool:
    """Return whether the task for a part ran a tool itself; such tasks have no other arguments."""
    if part.step:
        return runs_here(_step(process, part))
    return not isinstance(_inside(process, part.path), Workflow)


def _step(process: Process, part: Part) -> WorkflowStep:
    return step_of(_inside(process, part.path), part.step)


def _inside(process: Process, path: Path) -> Process:
    for name in path:
        process = step_of(process, name).embedded_tool
    return process


def _was_skipped(step: WorkflowStep, outputs: dict[str, Any]) -> bool:
    """Return whether a step was skipped, so that its outputs are null (CWL v1.2, "Conditional execution")."""
    return "when" in step.tool and all(value is None for value in outputs.values())


class _Reader:
    """Reads the arguments and values of tasks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index = Index.load(store.log)
        self._values = Values(self._index.value)

    def arguments(self, id_: TaskId) -> tuple[Any, ...]:
        task = self._index.task(id_)
        with held_by(self._store):
            args, _ = loads(self._bytes(task.args), self._load(task.needs))
        return tuple(args)

    def value(self, id_: TaskId) -> Any:
        with held_by(self._store):
            return self._load([id_])[id_]

    def _load(self, ids: Sequence[TaskId]) -> dict[TaskId, Any]:
        entries = self._values.closure(ids)
        return resolve(ids, {id_: (self._bytes(value), refs) for id_, (value, refs) in entries.items()})

    def _bytes(self, value: bytes | BlobRef) -> bytes:
        return self._store.get_blob(value) if isinstance(value, BlobRef) else value
