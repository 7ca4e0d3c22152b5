"""Create the promises of calls of a document's tasks and workflows; data shared by many calls is computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from WDL import Env, Tree, Type, Value

from toilfn.graph.task import Task
from toilfn.wdl.command import command
from toilfn.wdl.dialect import HINTS
from toilfn.wdl.language import binding_type
from toilfn.wdl.library import Library
from toilfn.wdl.paths import WorkflowPaths
from toilfn.wdl.program import Callee, Program, callee, source_dir
from toilfn.wdl.runtime import Machine, Runtime, needed, runtime_of
from toilfn.wdl.shared import plain_value
from toilfn.wdl.values import decode

__all__ = ["Calls", "without_nulls"]

_MOST_KNOWN = 256
"""Number of runtimes to cache, which is useful only if they do not depend on the inputs of each call."""


@dataclass(frozen=True)
class _Callee:
    """A called task or workflow."""

    called: Callee
    node: Any
    types: Mapping[str, Type.Base]
    """The types of the inputs that its runtime section needs."""


class Calls:
    """Creates the promises of calls.

    Parameters
    ----------
    program : Program
        The document.
    machine : Machine
        The options for running commands.
    workflow : Task
        The toilfn task that runs a workflow.
    """

    def __init__(self, program: Program, machine: Machine, workflow: Task[..., Any]) -> None:
        self._program = program
        self._machine = machine
        self._of_command = machine.of_command
        self._workflow = workflow
        self._callees: dict[int, _Callee] = {}
        self._known: dict[str, tuple[Runtime, Task[..., Any]]] = {}

    def call(self, node: Any, inputs: Mapping[str, Any], name: str = "", after: Any = ()) -> Any:
        """Return the promise of a call's outputs.

        Parameters
        ----------
        node : WDL.Tree.Task or WDL.Tree.Workflow
        inputs : mapping
            Encoded inputs by name.
        name : str
            The name of the call.
        after : iterable of promises
            Promises that must be complete before.
        """
        found = self._callees.get(id(node)) or self._look_at(node)
        name = name or node.name
        given = without_nulls(node, inputs)
        if isinstance(node, Tree.Workflow):
            run = self._workflow.options(name=name, after=after, version=found.called.version)
            return run(found.called, given, self._machine)
        sections = {key: key.split(".", 1) for key in given if "." in key}
        overrides = {own: given[key] for key, (section, own) in sections.items() if section != "hints" or own in HINTS}
        given = {key: plain for key, plain in given.items() if key not in sections}
        runtime, run = self._prepared(found, name, given, overrides)
        return (run.options(after=after) if after else run)(found.called, given, runtime, self._of_command)

    def _look_at(self, node: Any) -> _Callee:
        names = needed(node) if isinstance(node, Tree.Task) else []
        declared = node.available_inputs
        types = {name: binding_type(declared[name]) for name in names if declared.has_binding(name)}
        found = self._callees[id(node)] = _Callee(callee(self._program, node), node, types)
        return found

    def _prepared(
        self, found: _Callee, name: str, given: Mapping[str, Any], overrides: Mapping[str, Any]
    ) -> tuple[Runtime, Task[..., Any]]:
        """Return the runtime of a call, and the task with its requirements."""
        reaching = {key: given[key] for key in found.types if key in given}
        known = repr((found.called.path, name, reaching, overrides))
        if known not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            runtime = self._runtime(found, reaching, overrides)
            options = self._machine.limited(runtime.options)
            self._known[known] = runtime, command.options(**options, name=name, version=found.called.version)
        return self._known[known]

    def _runtime(self, found: _Callee, reaching: Mapping[str, Any], overrides: Mapping[str, Any]) -> Runtime:
        place = source_dir(found.node)
        paths = WorkflowPaths(place)
        env: Env.Bindings[Value.Base] = Env.Bindings()
        for key, plain in reaching.items():
            env = env.bind(key, decode(plain_value(plain), found.types[key], paths))
        library = Library(found.node.effective_wdl_version, paths, place)
        return runtime_of(found.node, env, library, overrides, self._machine.defaults)


def without_nulls(node: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out None for inputs that have a default and whose type does not allow None, so that the default is used."""
    if None not in inputs.values():
        return dict(inputs)
    declared = node.available_inputs
    return {
        name: plain
        for name, plain in inputs.items()
        if not (plain is None and name in declared and declared[name].expr and not declared[name].type.optional)
    }
