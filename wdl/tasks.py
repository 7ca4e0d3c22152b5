"""A document's workflows and tasks as tasks of toilfn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from WDL import Env, Tree, Value

from toilfn.task import task
from toilfn.wdl.command import command
from toilfn.wdl.dialect import HINTS
from toilfn.wdl.document import source
from toilfn.wdl.language import binding_type
from toilfn.wdl.library import Library
from toilfn.wdl.machine import Machine
from toilfn.wdl.paths import WorkflowPaths
from toilfn.wdl.plan import OUTPUTS
from toilfn.wdl.program import Callee, Source, callee, path_of, program, source_dir, version
from toilfn.wdl.runtime import runtime_of
from toilfn.wdl.values import decode
from toilfn.wdl.walk import Tasks, Walk, names, pick

__all__ = ["start"]

_DRIVER: dict[str, Any] = {
    "cores": 0.1, "memory": "256M", "disk": "64M", "local": True, "version": "1",
    "double_memory": True, "retries": {"memory": 10},
}  # fmt: skip
"""Options of what only evaluates expressions: it runs beside the leader, and may be about large values."""


@dataclass(frozen=True, slots=True)
class Given:
    """The inputs of what a run is for: its calls are other ones only where these reach them."""

    __toilfn_lineage__: ClassVar[bool] = False

    plain: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scope:
    """A running workflow, as the tasks that it is made of know it: its own task counts in their ids."""

    __toilfn_lineage__: ClassVar[bool] = False

    workflow: Callee
    inputs: Mapping[str, Any]
    machine: Machine


def call(called: Callee, inputs: Mapping[str, Any], machine: Machine, name: str = "", after: Any = ()) -> Any:
    """Make the promise of a call's outputs.

    Parameters
    ----------
    called : Callee
        A task or a workflow.
    inputs : mapping
        Encoded inputs by name.
    machine : Machine
        How commands are run.
    name : str
        What the call is called.
    after : iterable of promises
        What must be complete before.
    """
    node = called.node
    given = _without_nulls(node, inputs)
    name = name or node.name
    if isinstance(node, Tree.Workflow):
        return workflow.options(name=name, after=after, version=called.version)(called, given, machine)
    return _call_task(called, given, machine, name, after)


def _without_nulls(node: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out None where a default stands and the type allows no None: so the default counts."""
    declared = node.available_inputs
    return {
        name: plain
        for name, plain in inputs.items()
        if not (plain is None and name in declared and declared[name].expr and not declared[name].type.optional)
    }


def _call_task(called: Callee, inputs: dict[str, Any], machine: Machine, name: str, after: Any) -> Any:
    node: Tree.Task = called.node
    sections = {key: key.split(".", 1) for key in inputs if "." in key}
    overrides = {name: inputs[key] for key, (section, name) in sections.items() if section != "hints" or name in HINTS}
    given = {key: plain for key, plain in inputs.items() if "." not in key}
    env: Env.Bindings[Value.Base] = Env.Bindings()
    paths = WorkflowPaths(source_dir(node))
    if node.runtime:
        for key, plain in given.items():
            env = env.bind(key, decode(plain, binding_type(node.available_inputs[key]), paths))
    library = Library(node.effective_wdl_version, paths, source_dir(node))
    runtime = runtime_of(node, env, library, overrides, machine.defaults)
    options = {**machine.limited(runtime.options), "name": name, "after": after, "version": called.version}
    return command.options(**options)(called, given, runtime, machine.of_command)


def start(document: Tree.Document, node: Any, inputs: Any, machine: Machine, *, alone: bool = False) -> Any:
    """Make the promise of the outputs of a document's task or workflow.

    Parameters
    ----------
    document : WDL.Tree.Document
    node : WDL.Tree.Task or WDL.Tree.Workflow
    inputs : mapping, or the promise of one
        Encoded.
    machine : Machine
    alone : bool
        Whether nothing else in this graph runs it. Then calls that other inputs do not reach are found again.
    """
    parsed = source(document)
    given = Given(inputs) if alone else inputs
    return _start.options(version=version(parsed.digest))(parsed, path_of(document, node), given, machine)


@task(name="start", **_DRIVER)
def _start(source: Source, path: tuple[str, ...], inputs: Mapping[str, Any] | Given, machine: Machine) -> Any:
    """Put a document into the store, and run a task or workflow of it."""
    stored = program(source)
    called = callee(stored, stored.loaded.nodes[path])
    if isinstance(inputs, Given) and isinstance(called.node, Tree.Workflow):
        given = Given(_without_nulls(called.node, inputs.plain))
        return workflow.options(name=called.node.name, version=called.version)(called, given, machine)
    return call(called, inputs.plain if isinstance(inputs, Given) else inputs, machine)


@task(**_DRIVER)
def workflow(called: Callee, inputs: Mapping[str, Any] | Given, machine: Machine) -> Any:
    """Go over a workflow; gives its outputs, or the promises of them."""
    walk = _walk(Scope(called, inputs.plain if isinstance(inputs, Given) else inputs, machine), "")
    walk.go(walk.plan.order[""])
    return _with_calls(walk.outputs(), walk.call_outputs()) if machine.all_outputs else walk.outputs()


@task(name="outputs", **_DRIVER)
def _with_calls(outputs: dict[str, Any], calls: dict[str, Any]) -> dict[str, Any]:
    """Add the outputs of calls to those of their workflow."""
    return {
        f"{name}.{output}": pick(plain, output) for name, plain in calls.items() for output in names(plain)
    } | outputs


@task(name="evaluate", **_DRIVER)
def go_on(scope: Scope, section: str, nodes: list[str], env: Mapping[str, Any]) -> Any:
    """Go over nodes of a workflow when what they need is known; gives the value of the last one."""
    walk = _walk(scope, section)
    for key, plain in env.items():
        walk.bind(key, plain)
    last = nodes[-1]
    if last == OUTPUTS:
        walk.go(nodes[:-1])
        return walk.outputs()
    walk.go(nodes)
    if isinstance(walk.plan.nodes[last], Tree.WorkflowSection):
        return walk.section_result(last)
    return walk.result(last)


def _walk(scope: Scope, section: str) -> Walk:
    program = scope.workflow.program

    def make_call(node: Tree.Call, inputs: dict[str, Any], after: list[Any]) -> Any:
        machine = replace(scope.machine, all_outputs=False)
        return call(callee(program, node.callee), inputs, machine, node.name, after)

    def make_later(section: str, nodes: list[str], env: dict[str, Any], after: list[Any]) -> Any:
        return go_on.options(after=after, version=scope.workflow.version)(scope, section, nodes, env)

    tasks = Tasks(make_call, make_later)
    return Walk(scope.workflow.plan, section, tasks, scope.inputs, all_calls=scope.machine.all_outputs)
