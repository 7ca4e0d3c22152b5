"""Loops (`loop` of CWL v1.3): the values passed from one iteration to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cwltool.process import shortname
from cwltool.utils import WorkflowStateItem
from cwltool.workflow_job import object_from_state

from toilfn.cwl import links
from toilfn.cwl.documents import Part

__all__ = ["collected", "continues", "next_inputs", "nothing"]


def nothing(part: Part) -> dict[str, Any]:
    """Return the outputs of a loop before its first iteration."""
    step = part.step_process()
    return {name: [] if _keeps_all(part) else None for name in links.output_names(step)}


def continues(part: Part, inputs: Mapping[str, Any]) -> bool:
    """Return whether the loop's condition is true."""
    return links.Evaluator(part, inputs).condition(part.step_process().tool["when"])


def collected(part: Part, before: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of the loop after one more iteration."""
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
