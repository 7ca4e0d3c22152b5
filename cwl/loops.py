"""Loops: what CWL v1.3's `loop` carries from one iteration to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cwltool.process import shortname
from cwltool.utils import WorkflowStateItem
from cwltool.workflow_job import object_from_state

from toilfn.cwl import links
from toilfn.cwl.documents import Part

__all__ = ["collected", "goes_on", "next_inputs", "nothing"]


def nothing(part: Part) -> dict[str, Any]:
    """Return the outputs of a loop that has not begun."""
    step = part.step_process()
    return {name: [] if _keeps_all(part) else None for name in links.output_names(step)}


def goes_on(part: Part, inputs: Mapping[str, Any]) -> bool:
    """Ask the loop's condition."""
    return links.Evaluator(part, inputs).condition(part.step_process().tool["when"])


def collected(part: Part, before: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loop's outputs after one more iteration."""
    if _keeps_all(part):
        return {name: [*kept, outputs[name]] for name, kept in before.items()}
    return {name: outputs[name] for name in before}


def next_inputs(part: Part, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of the next iteration, by their ids."""
    step = part.step_process()
    state: dict[str, WorkflowStateItem | None] = {
        entry["id"]: WorkflowStateItem(entry, outputs[shortname(entry["id"])], "success")
        for entry in step.tool["outputs"]
    }
    entries: list[Any] = [{**entry, "type": "Any"} for entry in step.tool["loop"]]
    may_merge = bool(step.get_requirement("MultipleInputFeatureRequirement")[0])
    changed = {**inputs, **(object_from_state(state, entries, False, may_merge, "outputSource") or {})}
    evaluator = links.Evaluator(part, changed, seen=inputs)
    for entry in entries:
        if "valueFrom" in entry:
            changed[entry["id"]] = evaluator.places.stored(evaluator.value_of(entry["id"], entry["valueFrom"]))
    return changed


def _keeps_all(part: Part) -> bool:
    return bool(part.step_process().tool.get("outputMethod", "last_iteration") == "all_iterations")
