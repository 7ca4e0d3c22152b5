"""The flow of values between steps: sources, links, defaults, `valueFrom` and `when`, by cwltool's code if possible."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cwl_utils import expression
from cwltool.builder import content_limit_respected_read
from cwltool.errors import WorkflowException
from cwltool.process import Process, shortname
from cwltool.stdfsaccess import StdFsAccess
from cwltool.utils import WorkflowStateItem, adjustDirObjs, aslist, get_listing
from cwltool.workflow import Workflow, WorkflowStep
from cwltool.workflow_job import object_from_state

from toilfn.cwl.documents import Part
from toilfn.cwl.values import Places, with_defaults
from toilfn.errors import PermanentError

__all__ = [
    "Evaluator",
    "StepError",
    "evaluated",
    "explained",
    "in_order",
    "is_plain_output",
    "job_of",
    "output_names",
    "sources",
    "step_inputs",
    "workflow_inputs",
    "workflow_output",
]

_NOWHERE = "/nowhere"

logging.getLogger("cwl_utils").disabled = True  # it raises the errors that it logs, so they would be reported twice


class StepError(PermanentError):
    """A step or an output cannot be evaluated with these values; trying again would not help."""

    is_explained = True


@contextmanager
def explained(part: Part, what: str = "") -> Iterator[None]:
    """Name a part of the document, by default its step, in CWL errors that the block raises.

    Raises
    ------
    StepError
        If the block raises an error of CWL.
    """
    try:
        yield
    except WorkflowException as error:
        raise StepError(f"{what or f'step {part.step}'}: {error}") from None


def in_order(steps: Sequence[WorkflowStep]) -> Iterator[WorkflowStep]:
    """Iterate over steps so that each comes after those it depends on; cwltool has refused cycles."""
    maker = {output["id"]: step for step in steps for output in step.tool["outputs"]}
    done: set[str] = set()
    stack = sorted(steps, key=lambda step: str(step.id), reverse=True)
    while stack:
        step = stack[-1]
        needed = [maker[source] for source in sources(step) if source in maker and maker[source].id not in done]
        if needed and step.id not in done:
            stack.extend(needed)
            continue
        stack.pop()
        if step.id not in done:
            done.add(step.id)
            yield step


def sources(step: WorkflowStep) -> Iterator[str]:
    """Iterate over the ids of a step's sources."""
    for entry in step.tool["inputs"]:
        yield from aslist(entry.get("source", []))


def workflow_inputs(part: Part, job: Mapping[str, Any]) -> dict[str, Any]:
    """Check a workflow's inputs, fill in defaults, and return them by their ids."""
    places = Places(part.files)
    context = part.document.tool_options.context(Path(_NOWHERE))
    context.make_fs_access = places.access  # type: ignore[assignment]  # a function works as well as a class
    given = places.named(with_defaults(part.process, job))
    checked = places.stored(part.process._init_job(given, context).job)
    return {entry["id"]: checked.get(shortname(entry["id"])) for entry in part.process.tool["inputs"]}


def is_plain_output(output: Mapping[str, Any]) -> bool:
    """Return whether an output of a workflow is the unchanged value of one source."""
    return len(aslist(output.get("outputSource", []))) == 1 and not {"linkMerge", "pickValue"} & output.keys()


def workflow_output(part: Part, output: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """Return the value of a workflow's output from its sources."""
    workflow = part.process
    made = object_from_state(
        _state(workflow, values), [dict(output)], True, _may_merge(workflow), "outputSource", incomplete=True
    )
    return (made or {})[shortname(output["id"])]


def step_inputs(part: Part, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step's inputs from their sources, by their ids, before `valueFrom` is evaluated."""
    workflow, step = part.process, part.step_process()
    made = object_from_state(_state(workflow, values), step.tool["inputs"], False, _may_merge(workflow), "source")
    return dict(made or {})


def _state(workflow: Process, values: Mapping[str, Any]) -> dict[str, WorkflowStateItem | None]:
    assert isinstance(workflow, Workflow)
    parameters = {entry["id"]: entry for entry in workflow.tool["inputs"]}
    parameters |= {entry["id"]: entry for step in workflow.steps for entry in step.tool["outputs"]}
    return {id_: WorkflowStateItem(parameters[id_], value, "success") for id_, value in values.items()}


def _may_merge(workflow: Process) -> bool:
    return bool(workflow.get_requirement("MultipleInputFeatureRequirement")[0])


def output_names(step: WorkflowStep) -> list[str]:
    """Return the short names of a step's outputs."""
    return [shortname(output["id"]) for output in step.tool["outputs"]]


def job_of(step: WorkflowStep, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of the process that a step runs, by short name."""
    return {
        shortname(entry["id"]): inputs[entry["id"]] for entry in step.tool["inputs"] if not entry.get("not_connected")
    }


def evaluated(part: Part, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Evaluate `valueFrom` of a step's inputs, then `when`; return the inputs by id, or None to skip the step."""
    step = part.step_process()
    entries = {entry["id"]: entry for entry in step.tool["inputs"]}
    loaded = [id_ for id_, entry in entries.items() if entry.get("loadContents")]
    value_from = {id_: entry["valueFrom"] for id_, entry in entries.items() if "valueFrom" in entry}
    if not (loaded or value_from or "when" in step.tool):
        return dict(inputs)
    looped: Any = aslist(step.tool.get("loop") or [])
    has_expressions = bool(value_from) or any("valueFrom" in entry for entry in looped)
    if has_expressions and not part.process.get_requirement("StepInputExpressionRequirement")[0]:
        raise WorkflowException(f"step {part.step} has valueFrom, which needs StepInputExpressionRequirement")
    evaluator = Evaluator(part, inputs)
    for id_ in loaded:
        evaluator.load_contents(id_)
    result = evaluator.values | {id_: evaluator.value_of(id_, text) for id_, text in value_from.items()}
    if "when" in step.tool and not evaluator.condition(step.tool["when"], result):
        return None
    stored: dict[str, Any] = evaluator.places.stored(result)
    return stored


class Evaluator:
    """Evaluates expressions with access to the inputs of a step.

    Parameters
    ----------
    part : Part
        The step.
    inputs : mapping
        The inputs by their ids, in the form used between tasks: the possible values of `self`.
    seen : mapping, optional
        The value of the variable `inputs` in expressions. The default is `inputs`.
    """

    def __init__(self, part: Part, inputs: Mapping[str, Any], seen: Mapping[str, Any] | None = None) -> None:
        self._part = part
        self.places = Places(part.files)
        self.values: dict[str, Any] = self._named(inputs)
        self._seen = self.values if seen is None else self._named(seen)
        self._access: StdFsAccess = self.places.access("")

    def load_contents(self, id_: str) -> None:
        """Load the contents of an input's files into their objects, up to the limit of the specification."""
        for found in aslist(self.values[id_]):
            if found is not None and found.get("contents") is None:
                with self._access.open(found["location"], "rb") as stream:
                    found["contents"] = content_limit_respected_read(stream)

    def value_of(self, id_: str, text: str) -> Any:
        """Evaluate an input's `valueFrom`."""
        own = self.values.get(id_)
        adjustDirObjs(own, functools.partial(get_listing, self._access, recursive=True))
        return self._evaluate(text, self._seen, own)

    def condition(self, text: str, values: Mapping[str, Any] | None = None) -> bool:
        """Evaluate a condition with these values, or by default with the inputs."""
        answer = self._evaluate(text, self._seen if values is None else values, None)
        if not isinstance(answer, bool):
            raise WorkflowException(f"'when' of step {self._part.step} must be true or false, not {answer!r}")
        return answer

    def _named(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {id_: self.places.named(value) for id_, value in inputs.items()}

    def _evaluate(self, text: str, values: Mapping[str, Any], own: Any) -> Any:
        try:
            return self._run_expression(text, values, own)
        except WorkflowException as error:
            raise WorkflowException(f"expression {text} failed: {_reason(str(error))}") from None

    def _run_expression(self, text: str, values: Mapping[str, Any], own: Any) -> Any:
        options = self._part.document.tool_options.attributes
        process = self._part.process
        return expression.do_eval(
            text,
            {shortname(id_): value for id_, value in values.items()},
            process.requirements,
            None,
            None,
            {},
            context=own,
            debug=options["debug"],
            js_console=options["js_console"],
            timeout=options["eval_timeout"],
            container_engine=process.container_engine,
        )


def _reason(message: str) -> str:
    """Return the relevant line of cwl_utils' report of a failed script: JavaScript's own message, if there is one."""
    said = re.search(r"^\s*(\w*Error: .+)$", message, re.MULTILINE)
    lines = message.removeprefix("Expression evaluation error:").strip().splitlines()
    return said[1] if said else "".join(lines[:1])
