"""Scatters and loops: run a step many times, and gather the outputs.

See CWL v1.2, Workflow, section 4.1.4 (WorkflowStep, "Scatter/gather"), and `loop` of CWL v1.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cwltool.errors import WorkflowException
from cwltool.process import shortname
from cwltool.utils import WorkflowStateItem, aslist
from cwltool.workflow_job import object_from_state

from toilfn.cwl import links
from toilfn.cwl.documents import Part
from toilfn.worker.context import spawn

__all__ = ["collected", "continues", "next_inputs", "nothing", "spread"]

Inputs = Mapping[str, Any]


def spread(part: Part, inputs: Inputs, run: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Run the process of a step once for each element or combination of elements.

    Parameters
    ----------
    part : Part
        The step.
    inputs : mapping
        The inputs by their ids.
    run : callable
        Takes the inputs of one run by short name; returns the promise of its outputs.

    Returns
    -------
    dict
        Arrays of outputs, by short name, with None for skipped runs.
    """
    step = part.step_process()
    keys: list[str] = list(aslist(step.tool["scatter"]))
    method = step.tool.get("scatterMethod")
    names = links.output_names(step)

    def one(own: Inputs) -> Any:
        job = links.evaluated(part, own)
        made = None if job is None else run(links.job_of(step, job))
        if made is not None and not names:
            spawn(made)
        return made

    if method == "nested_crossproduct":
        runs: list[Any] = _nested(inputs, keys, one)
    else:
        combine = _flat if method == "flat_crossproduct" else _dot
        runs = [one(own) for own in combine(inputs, keys)]
    return {name: _select(runs, name) for name in names}


def _nested(inputs: Inputs, keys: list[str], one: Callable[[Inputs], Any]) -> list[Any]:
    first, *rest = keys
    each = [{**inputs, first: item} for item in inputs[first]]
    return [_nested(own, rest, one) if rest else one(own) for own in each]


def _flat(inputs: Inputs, keys: list[str]) -> Iterator[Inputs]:
    first, *rest = keys
    for item in inputs[first]:
        own = {**inputs, first: item}
        yield from _flat(own, rest) if rest else [own]


def _dot(inputs: Inputs, keys: list[str]) -> Iterator[Inputs]:
    lengths = {shortname(key): len(inputs[key]) for key in keys}
    if len(set(lengths.values())) > 1:
        lengths_text = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise WorkflowException(f"a dotproduct scatter needs arrays of equal length: {lengths_text}")
    for items in zip(*(inputs[key] for key in keys), strict=True):
        yield {**inputs, **dict(zip(keys, items, strict=True))}


def _select(runs: Any, name: str) -> Any:
    if isinstance(runs, list):
        return [_select(one, name) for one in runs]
    return None if runs is None else runs[name]


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
