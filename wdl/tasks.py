"""The toilfn tasks that run a document's workflows and tasks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from WDL import Tree

from toilfn.graph.task import task
from toilfn.wdl.calls import Calls, without_nulls
from toilfn.wdl.document import source
from toilfn.wdl.plan import OUTPUTS
from toilfn.wdl.program import Callee, Source, callee, path_of, program, version
from toilfn.wdl.runtime import Machine
from toilfn.wdl.shared import SharedValue, plain_value, stored_value
from toilfn.wdl.walk import Tasks, Walk, names, pick

__all__ = ["start"]

_DRIVER: dict[str, Any] = {
    "cores": 0.1, "memory": "256M", "disk": "64M", "local": True, "version": "1",
    "double_memory": True, "retries": {"memory": 10},
}  # fmt: skip
"""Options of tasks that only evaluate expressions: they run on the leader's machine, and may process large values."""


@dataclass(frozen=True, slots=True)
class RequestedInputs:
    """The inputs of the requested workflow, which affect the ids of its calls only where they are used."""

    __toilfn_lineage__: ClassVar[bool] = False

    plain: Mapping[str, Any]


@dataclass(frozen=True)
class Scope(SharedValue):
    """A running workflow, as an argument of its tasks, whose ids depend on the workflow's own task.

    The inputs are in the form returned by `toilfn.wdl.shared`.
    """

    __toilfn_lineage__: ClassVar[bool] = False

    workflow: Callee
    inputs: Any
    machine: Machine

    def counts(self) -> tuple[Any, ...]:
        """Return all fields."""
        return self.workflow, self.inputs, self.machine


def start(document: Tree.Document, node: Any, inputs: Any, machine: Machine, *, alone: bool = False) -> Any:
    """Return the promise of the outputs of a document's task or workflow.

    Parameters
    ----------
    document : WDL.Tree.Document
    node : WDL.Tree.Task or WDL.Tree.Workflow
    inputs : mapping, or the promise of one
        The encoded inputs.
    machine : Machine
        The options for running commands.
    alone : bool
        Whether nothing else in this graph runs the node. Then calls that do not depend on changed inputs are reused.
    """
    parsed = source(document)
    given = RequestedInputs(inputs) if alone else inputs
    return _start.options(version=version(parsed.digest))(parsed, path_of(document, node), given, machine)


@task(name="start", **_DRIVER)
def _start(source: Source, path: tuple[str, ...], inputs: Mapping[str, Any] | RequestedInputs, machine: Machine) -> Any:
    """Store a document, and run one of its tasks or workflows."""
    stored = program(source)
    called = callee(stored, stored.loaded.nodes[path])
    if isinstance(inputs, RequestedInputs) and isinstance(called.node, Tree.Workflow):
        given = RequestedInputs(without_nulls(called.node, inputs.plain))
        return workflow.options(name=called.node.name, version=called.version)(called, given, machine)
    plain = inputs.plain if isinstance(inputs, RequestedInputs) else inputs
    return Calls(stored, machine, workflow).call(called.node, plain)


@task(**_DRIVER)
def workflow(called: Callee, inputs: Mapping[str, Any] | RequestedInputs, machine: Machine) -> Any:
    """Evaluate the body of a workflow, and return its outputs or their promises."""
    walk = _walk(Scope(called, inputs.plain if isinstance(inputs, RequestedInputs) else inputs, machine), "")
    walk.go(walk.plan.order[""])
    return _with_calls(walk.outputs(), walk.call_outputs()) if machine.all_outputs else walk.outputs()


@task(name="outputs", **_DRIVER)
def _with_calls(outputs: dict[str, Any], calls: dict[str, Any]) -> dict[str, Any]:
    """Add the outputs of calls to those of their workflow."""
    return {
        f"{name}.{output}": pick(plain, output) for name, plain in calls.items() for output in names(plain)
    } | outputs


@task(name="evaluate", **_DRIVER)
def evaluate_later(scope: Scope, section: str, nodes: list[str], env: Mapping[str, Any]) -> Any:
    """Evaluate nodes of a workflow whose dependencies are now known; return the value of the last one."""
    walk = _walk(scope, section)
    for key, plain in env.items():
        walk.take(key, plain)
    last = nodes[-1]
    if last == OUTPUTS:
        walk.go(nodes[:-1])
        return walk.outputs()
    walk.go(nodes)
    if isinstance(walk.plan.nodes[last], Tree.WorkflowSection):
        return walk.section_result(last)
    return walk.result(last)


def _walk(scope: Scope, section: str) -> Walk:
    calls = Calls(scope.workflow.program, replace(scope.machine, all_outputs=False), workflow)
    later = evaluate_later.options(version=scope.workflow.version)
    shared = functools.cache(lambda: replace(scope, inputs=stored_value(scope.inputs)))

    def make_call(node: Tree.Call, inputs: dict[str, Any], after: list[Any]) -> Any:
        return calls.call(node.callee, inputs, node.name, after)

    def make_later(section: str, nodes: list[str], env: dict[str, Any], after: list[Any]) -> Any:
        return (later.options(after=after) if after else later)(shared(), section, nodes, env)

    tasks = Tasks(make_call, make_later)
    inputs = plain_value(scope.inputs)
    return Walk(scope.workflow.plan, section, tasks, inputs, all_calls=scope.machine.all_outputs)
