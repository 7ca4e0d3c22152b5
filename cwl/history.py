"""What a store tells of the tools that its newest run ran, or took from earlier ones."""

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
    """One tool that was run.

    Attributes
    ----------
    path : tuple of str
        The steps that lead to it; empty when the tool was all that was asked for.
    start, end : float
        In seconds since the epoch.
    host : str
        Where it ran.
    inputs, outputs : dict
        As they are between tasks: what the step got, by the ids of its sources or by short name; and what it gave.
    """

    path: Path
    start: float
    end: float
    host: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]


def tool_runs(store: Store, process: Process, view: View) -> Iterator[ToolRun]:
    """Iterate over the tools that the newest run of a store needed, in the order in which it learnt of them."""
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
    """Return whether the task about a part was the one that ran a tool; such tasks have no other arguments."""
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
    """Return whether a step's condition was false, so all its outputs are null (CWL v1.2, "Conditional execution")."""
    return "when" in step.tool and all(value is None for value in outputs.values())


class _Reader:
    """Reads arguments and values of tasks, whoever made them."""

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
