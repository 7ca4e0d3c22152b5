"""Run workflows as tasks: their steps, scatters and loops.

The task of a workflow creates a task for each step, and returns the promises of its outputs. A step that runs one
tool does so in its own task; scatters, subworkflows and loops create more tasks when their inputs are known. `links`
evaluates the inputs of a step (links, defaults, `valueFrom`, `when`).

See CWL v1.2, Workflow, section 4.1.4 (WorkflowStep, "Scatter/gather"), and `loop` of CWL v1.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cwltool.errors import WorkflowException
from cwltool.process import Process, shortname
from cwltool.utils import WorkflowStateItem, aslist
from cwltool.workflow import Workflow, WorkflowStep
from cwltool.workflow_job import object_from_state

from toilfn.cwl import links, reuse
from toilfn.cwl.documents import Part, in_store
from toilfn.cwl.resources import LIGHT, needs_inputs, options_of
from toilfn.cwl.reuse import RequestedInputs, RunNonce, run_nonce
from toilfn.cwl.tools import run_here
from toilfn.graph.task import task
from toilfn.worker.context import spawn

__all__ = ["begin", "call", "collected", "continues", "initial_outputs", "next_inputs", "runs_here", "scatter"]

Inputs = Mapping[str, Any]


def call(part: Part, job: Any, name: str = "") -> Any:
    """Call the task that runs a process.

    Parameters
    ----------
    part : Part
        A workflow or a tool.
    job : mapping
        Inputs by short name. If the requirements of the tool depend on them, they must not be promises.
    name : str
        The name of the task.

    Returns
    -------
    Promise
        The promise of the outputs by short name.
    """
    name = name or shortname(part.process.tool["id"]).rpartition("/")[2] or "tool"
    if part.process.tool["class"] == "Workflow":
        return run_workflow.options(name=name)(part, job, run_nonce(part))
    return run_tool.options(name=name, **options_of(part, job))(part, job, run_nonce(part, job))


def begin(part: Part, job: Any) -> Any:
    """Call the task that runs the requested process, whose inputs may always be promises; otherwise like `call`."""
    if part.process.tool["class"] == "Workflow":
        return call(part, RequestedInputs(job))
    return start(part, job, run_nonce(part)) if _waits(part.process) else call(part, job)


def _waits(process: Process) -> bool:
    """Return whether the task of a tool can only be created when its inputs are known."""
    return needs_inputs(process) or reuse.needs_inputs(process)


@task(name="start", version="1", **LIGHT)
def start(part: Part, job: dict[str, Any], again: RunNonce) -> Any:
    """Call the task of a tool whose inputs are now known."""
    return call(in_store(part), job)


@task(name="tool", version="1")
def run_tool(part: Part, job: dict[str, Any], again: RunNonce) -> dict[str, Any]:
    """Run a tool."""
    return run_here(part, job)


@task(name="workflow", version="1", **LIGHT)
def run_workflow(part: Part, job: dict[str, Any] | RequestedInputs, again: RunNonce) -> dict[str, Any]:
    """Create the tasks of a workflow's steps, and return its outputs."""
    part = in_store(part)
    workflow = part.process
    assert isinstance(workflow, Workflow)
    with links.explained(part, f"workflow {part!r}"):
        values = links.workflow_inputs(part, job.job if isinstance(job, RequestedInputs) else job)
    for step in links.in_order(workflow.steps):
        made = _call_step(part.at_step(step), step, values)
        spawn(made)  # the workflow must wait for all its steps, even for those whose outputs nothing uses
        for output in step.tool["outputs"]:
            values[output["id"]] = made[shortname(output["id"])]
    return {shortname(output["id"]): _output(part, output, values) for output in workflow.tool["outputs"]}


def _call_step(part: Part, step: WorkflowStep, values: Mapping[str, Any]) -> Any:
    sources = {source: values[source] for source in links.sources(step)}
    options = options_of(part.inside()) if runs_here(step) else LIGHT
    return run_step.options(name=part.step, **options)(part, sources, run_nonce(part))


def runs_here(step: WorkflowStep) -> bool:
    """Return whether a step runs its tool in its own task."""
    tool = step.embedded_tool
    is_tool = tool.tool["class"] in ("CommandLineTool", "ExpressionTool")
    return is_tool and "scatter" not in step.tool and not step.tool.get("loop") and not _waits(tool)


def _output(part: Part, output: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    sources = aslist(output.get("outputSource", []))
    if links.is_plain_output(output):
        return values[sources[0]]
    name = shortname(output["id"])
    return gather_output.options(name=name)(part, name, {source: values[source] for source in sources})


@task(name="output", version="1", **LIGHT)
def gather_output(part: Part, name: str, values: dict[str, Any]) -> Any:
    """Return the value of a workflow's output from its sources."""
    output = next(entry for entry in part.process.tool["outputs"] if shortname(entry["id"]) == name)
    with links.explained(part, f"output {name}"):
        return links.workflow_output(part, output, values)


@task(name="step", version="1")
def run_step(part: Part, sources: dict[str, Any], again: RunNonce) -> Any:
    """Run a step, or create tasks that do, and return its outputs."""
    with links.explained(part):
        return _run_step(part, sources)


def _run_step(part: Part, sources: dict[str, Any]) -> Any:
    step, inner = part.step_process(), part.inside()
    inputs = links.step_inputs(part, sources)
    if "scatter" in step.tool:
        return scatter(part, inputs, lambda job: call(inner, job, part.step))
    ready = links.evaluated(part, inputs)
    if step.tool.get("loop"):
        return initial_outputs(part) if ready is None else iterate(part, ready, initial_outputs(part), run_nonce(part))
    if ready is None:
        return dict.fromkeys(links.output_names(step))
    job = links.job_of(step, ready)
    return run_here(inner, job) if runs_here(step) else call(inner, job, part.step)


def scatter(part: Part, inputs: Inputs, run: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
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


@task(name="loop", version="1", **LIGHT)
def iterate(part: Part, inputs: dict[str, Any], outputs: dict[str, Any], again: RunNonce) -> Any:
    """Run the next iteration of a loop if its condition is true, and return the outputs of the loop."""
    with links.explained(part):
        if not continues(part, inputs):
            return outputs
    made = call(part.inside(), links.job_of(part.step_process(), inputs), part.step)
    return next_iteration(part, inputs, outputs, made)


@task(name="loop", version="1", **LIGHT)
def next_iteration(part: Part, inputs: dict[str, Any], before: dict[str, Any], outputs: dict[str, Any]) -> Any:
    """Pass the outputs of an iteration on to the next one."""
    with links.explained(part):
        found = collected(part, before, outputs)
        return iterate(part, next_inputs(part, inputs, outputs), found, run_nonce(part))


def initial_outputs(part: Part) -> dict[str, Any]:
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
