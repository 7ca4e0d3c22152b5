"""The steps of a document, for ``toilfn graph``; the inputs of a run are not needed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from typing import Any

from cwltool.context import LoadingContext
from cwltool.process import Process, shortname
from cwltool.utils import aslist
from cwltool.workflow import Workflow, WorkflowStep

from toilfn.cwl.python import read
from toilfn.inspect.drawing import Step

__all__ = ["steps_of"]

Names = frozenset[str]
"""Names of steps."""


def steps_of(document: str, entrypoint: str | None = None) -> list[Step]:
    """Return the steps of a document, those of its sub-workflows included.

    Parameters
    ----------
    document : path or URL
        ``#name`` selects a process from a packed document.
    entrypoint : str, optional
        Another way to write that name.

    Raises
    ------
    InputError
        If the document cannot be read or is not valid.
    """
    logging.getLogger("cwltool").setLevel(logging.WARNING)  # at INFO, it logs each document that it reads
    process = read(f"{document}#{entrypoint}" if entrypoint else document, LoadingContext())
    found: list[Step] = []
    if isinstance(process, Workflow):
        _enter(process, "", {}, frozenset(), found)
    else:
        found.append(Step(_tool(process) or "tool", _tool(process) or "tool", frozenset()))
    return found


def _enter(
    workflow: Workflow, prefix: str, given: Mapping[str, Names], before: Names, found: list[Step]
) -> dict[str, Names]:
    """Add the steps of a workflow to `found`; return the names of the steps that each of its outputs comes from.

    `given` has the names of the steps that each input comes from. A step whose inputs come from no other step of the
    workflow waits for the steps in `before`.
    """
    made = {entry["id"]: given.get(shortname(entry["id"]), frozenset()) for entry in workflow.tool["inputs"]}
    for step in _ordered(workflow.steps):
        inputs = {shortname(entry["id"]): _joined(made, _sources(entry)) for entry in step.tool["inputs"]}
        needs = frozenset().union(*inputs.values()) or before
        tool, name = step.embedded_tool, f"{prefix}{shortname(step.id)}{_how_often(step.tool)}"
        if isinstance(tool, Workflow):
            outputs = _enter(tool, f"{name}/", inputs, needs, found)
        else:
            found.append(Step(name, _tool(tool) or shortname(step.id), needs))
            outputs = dict.fromkeys(map(_output, step.tool["outputs"]), frozenset({name}))
        made |= {entry["id"]: outputs.get(_output(entry), frozenset()) for entry in step.tool["outputs"]}
    return {_output(entry): _joined(made, aslist(entry.get("outputSource", []))) for entry in workflow.tool["outputs"]}


def _ordered(steps: Iterable[WorkflowStep]) -> Iterable[WorkflowStep]:
    """Sort steps so that each comes after the steps that it needs."""
    by_id = {step.id: step for step in steps}
    owners = {output["id"]: id for id, step in by_id.items() for output in step.tool["outputs"]}
    needed = {
        id: {owners[source] for entry in step.tool["inputs"] for source in _sources(entry) if source in owners} - {id}
        for id, step in by_id.items()
    }
    return (by_id[id] for id in TopologicalSorter(needed).static_order())


def _sources(entry: Mapping[str, Any]) -> list[str]:
    return list(aslist(entry.get("source", [])))


def _joined(made: Mapping[str, Names], sources: Iterable[str]) -> Names:
    return frozenset().union(*(made.get(source, frozenset()) for source in sources))


def _output(entry: Mapping[str, Any]) -> str:
    return str(shortname(entry["id"]))


def _how_often(step: Mapping[str, Any]) -> str:
    words = [word for word, key in (("scatter", "scatter"), ("if", "when")) if step.get(key)]
    return f" ({', '.join(words)})" if words else ""


def _tool(process: Process) -> str:
    """Return the name of a tool; an empty text if the document gives it none."""
    name = str(shortname(process.tool["id"])).rpartition("/")[2]
    return "" if name == "run" or process.tool["id"].startswith("_:") else name
