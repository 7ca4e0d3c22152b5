"""The toilfn tasks that run a document's workflows and tasks.

The task of a workflow walks its body. It evaluates a declaration immediately if all names in it are known. A call with
known inputs becomes the promise of a task. A node that needs the value of a promise becomes the promise of a task that
evaluates it once the value is known. So a scatter is expanded at once, and cheap expressions do not need tasks of their
own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from WDL import Env, Error, Expr, Tree, Type, Value

from toilfn import spawn
from toilfn.graph.task import task
from toilfn.wdl.calls import Calls, without_nulls
from toilfn.wdl.document import source
from toilfn.wdl.language import binding_type, ordered, types_in
from toilfn.wdl.library import Library
from toilfn.wdl.paths import WorkflowPaths
from toilfn.wdl.problems import located
from toilfn.wdl.program import OUTPUTS, Callee, Source, WorkflowGraph, callee, path_of, program, source_dir, version
from toilfn.wdl.runtime import Machine
from toilfn.wdl.shared import SharedValue, StoredValue, plain_value, stored_value
from toilfn.wdl.values import decode, encode

__all__ = ["Tasks", "Walk", "names", "pick", "start"]

_MOST_NEEDS = 10_000
"""Maximum number of promises that all iterations of a scatter may need; with more, the scatter itself waits."""


class Tasks(NamedTuple):
    """The functions with which a `Walk` creates promises."""

    call: Callable[[Tree.Call, dict[str, Any], list[Any]], Any]
    """Takes a call, its encoded inputs, and promises to wait for; returns the promise of its outputs."""
    evaluate_later: Callable[[str, list[str], dict[str, Any], list[Any]], Any]
    """Takes a section, nodes in it to evaluate, the values they need by key, and promises to wait for."""


class Walk:
    """The evaluation of one body: that of a workflow or a section.

    Parameters
    ----------
    graph : WorkflowGraph
        The graph of the workflow.
    section : str
        The id of the section; empty for the whole workflow.
    tasks : Tasks
        Functions that create promises.
    inputs : mapping
        The encoded inputs of the workflow, including those for its calls, such as ``call.name``.
    all_calls : bool
        Whether the outputs of all calls are needed, even if nothing in the workflow uses them.
    """

    def __init__(
        self, graph: WorkflowGraph, section: str, tasks: Tasks, inputs: Mapping[str, Any], *, all_calls: bool = False
    ) -> None:
        self.graph, workflow = graph, graph.workflow
        self.section = section
        self.tasks = tasks
        self.inputs = inputs
        self.all_calls = all_calls
        self.paths = WorkflowPaths(source_dir(workflow))
        self.library = Library(workflow.effective_wdl_version, self.paths, source_dir(workflow))
        self.env: Env.Bindings[Value.Base] = Env.Bindings()
        self.plain: dict[str, Any] = {}
        self.waiting: dict[str, Any] = {}
        self.folded: dict[str, set[str]] = {}
        self._outer: Walk | None = None
        self._stored: dict[str, Any] = {}
        self._types = types_in(graph.nodes[section] if section else workflow)  # type: ignore[arg-type]

    def bind_argument(self, key: str, given: Any) -> None:
        """Bind a value from the arguments of this task, which may be in the form that `stored_value` returns."""
        plain = plain_value(given)
        if plain is not given:
            self._stored[key] = given
        self.bind(key, plain)

    def bind(self, key: str, plain: Any) -> None:
        """Bind a value to its key and its names."""
        self.plain[key] = plain
        kind, _, name = key.partition("-")
        if kind != "call":
            self.env = self.env.bind(name, decode(plain, self._types[name], self.paths))
            return
        for binding in self._types.enter_namespace(name):
            if not binding.name.startswith("_"):
                value = decode(pick(plain, binding.name), binding.value, self.paths)
                self.env = self.env.bind(f"{name}.{binding.name}", value)

    def evaluate(self, nodes: Iterable[str]) -> None:
        """Evaluate nodes, given by their ids in the order of their dependencies."""
        for id_ in nodes:
            node = self.graph.nodes[id_]
            if isinstance(node, Tree.Decl):
                self._declaration(id_, node)
            elif isinstance(node, Tree.Call):
                self._call(id_, node)
            else:
                self._enter(id_, node)

    def result(self, key: str) -> Any:
        """Return the value for a key, which contains promises if it is not known yet."""
        return self.waiting[key] if key in self.waiting else self.plain[key]

    def outputs(self) -> Any:
        """Return the workflow's outputs by name, or their promise."""
        if self._is_waiting(OUTPUTS):
            return self._later(OUTPUTS)
        workflow = self.graph.workflow
        if workflow.outputs is None:
            return {
                f"{name}.{output}": pick(self.result(f"call-{name}"), output)
                for name, output in (binding.name.rsplit(".", 1) for binding in workflow.effective_outputs)
            }
        env = self.env
        found = {}
        for decl in ordered(workflow.outputs):
            value = self._evaluate(decl, decl.type, env)
            env = env.bind(decl.name, value)
            found[decl.name] = self._encode(decl, value, strict=True)
        return {decl.name: found[decl.name] for decl in workflow.outputs}

    def call_outputs(self) -> dict[str, Any]:
        """Return the outputs of all calls, as visible in the workflow's body, or their promises."""
        return {
            node.name: self.result(id_)
            for id_, node in self.graph.nodes.items()
            if isinstance(node, Tree.Call) and (id_ in self.waiting or id_ in self.plain)
        }

    # Declarations

    def _declaration(self, id_: str, decl: Tree.Decl) -> None:
        if self.section == "" and decl.name in self.inputs:
            self.bind_argument(id_, self.inputs[decl.name])
        elif not self._is_waiting(id_):
            value = self._evaluate(decl, decl.type, self.env)
            # Do not look for unused files: they may be defaults that exist only elsewhere.
            self.plain[id_] = self._encode(decl, value) if self.graph.uses[id_] else None
            if not self.graph.uses[id_]:
                return
            self.env = self.env.bind(decl.name, decode(self.plain[id_], decl.type, self.paths))
        elif self.graph.is_folded(id_):
            self.folded[id_] = self._needs(id_)
        else:
            self.waiting[id_] = self._later(id_)
            self._keep(id_)

    def _evaluate(self, decl: Tree.Decl, wanted: Type.Base, env: Env.Bindings[Value.Base]) -> Value.Base:
        if decl.expr is None:
            if not decl.type.optional:
                raise Error.InputError(f"no value was given for {decl.type} {decl.name}")
            return Value.Null()
        with located(decl):
            return decl.expr.eval(env, self.library).coerce(wanted)

    def _encode(self, decl: Tree.Decl, value: Value.Base, *, strict: bool = False) -> Any:
        with located(decl):
            return encode(value, decl.type, self.paths, strict=strict)

    # Calls

    def _call(self, id_: str, call: Tree.Call) -> None:
        before = self._before(call)
        needed = self._needs(id_) - set(self.graph.after(call))
        if any(key in self.waiting for key in needed):
            self.waiting[id_] = self._later(id_)
        else:
            self.waiting[id_] = self.tasks.call(call, self._inputs(call), before)
        self._keep(id_)

    def _before(self, call: Tree.Call) -> list[Any]:
        """Return the promises of the calls named in ``after``, including all iterations of a scattered call."""
        return [promise for key in self.graph.after(call) for promise in _promises(self.waiting.get(key))]

    def _inputs(self, call: Tree.Call) -> dict[str, Any]:
        """Evaluate the inputs of a call, and add those that were given to the workflow for it."""
        assert call.callee is not None
        declared = call.callee.available_inputs
        given = {}
        for name, expr in call.inputs.items():
            given[name] = self._input(expr, binding_type(declared[name]))
        prefix = f"{call.name}."
        return given | {name[len(prefix) :]: plain for name, plain in self.inputs.items() if name.startswith(prefix)}

    def _input(self, expr: Expr.Base, wanted: Type.Base) -> Any:
        """Evaluate an input; if it is the same in all iterations of a section, do so once, and share the result."""
        keys, home = self.graph.keys(expr), self
        while home._outer is not None and all(key in home._outer.plain for key in keys):
            home = home._outer
        if home is self:
            return self._as_given(expr, wanted) or self._evaluated(expr, wanted)
        place = f"input-{id(expr)}"
        if place not in home._stored:
            home._stored[place] = stored_value(self._evaluated(expr, wanted))
        return home._stored[place]

    def _as_given(self, expr: Expr.Base, wanted: Type.Base) -> StoredValue | None:
        """Return the shared form of an input that is passed on unchanged, if it has one."""
        name = expr.expr if isinstance(expr, Expr.Get) and not expr.member else None
        is_declared = isinstance(name, Expr.Ident) and isinstance(name.referee, Tree.Decl)
        is_same = is_declared and expr.type.copy(optional=wanted.optional) == wanted
        return self._stored.get(next(iter(self.graph.keys(expr)))) if is_same else None

    def _evaluated(self, expr: Expr.Base, wanted: Type.Base) -> Any:
        with located(expr):
            return encode(expr.eval(self.env, self.library).coerce(wanted), wanted, self.paths)

    # Sections

    def _enter(self, id_: str, section: Tree.WorkflowNode) -> None:
        assert isinstance(section, (Tree.Scatter, Tree.Conditional))
        exposed = self._exposed(id_)
        if self._expression_waits(section):
            self._wait(id_, exposed)
            return
        with located(section.expr):
            value = section.expr.eval(self.env, self.library)
        if isinstance(section, Tree.Scatter) and len(value.value) * self._gathered(id_) > _MOST_NEEDS:
            self._wait(id_, exposed)
            return
        found: dict[str, Any]
        if isinstance(section, Tree.Scatter):
            walks = [
                self._inner(id_, {f"var-{section.variable}": encode(item, item.type, self.paths, strict=False)})
                for item in value.value
            ]
            found = {key: [walk.result(key) for walk in walks] for key in exposed}
        else:
            walk = self._inner(id_, {}) if value.value else None
            found = {key: walk.result(key) if walk else None for key in exposed}
        for key, plain in found.items():
            if _holds_promise(plain):
                self.waiting[key] = plain
            else:
                self.bind(key, plain)

    def _wait(self, id_: str, exposed: list[str]) -> None:
        """Postpone the evaluation of a section until all values it needs are known."""
        promise = self._later(id_)
        self.waiting.update((key, promise[key]) for key in exposed)
        if not exposed:
            spawn(promise)

    def _gathered(self, id_: str) -> int:
        """Count the promises of earlier scatters that each iteration of a section would need."""
        gathered = (self.waiting.get(key) for key in self._needs(id_))
        return sum(sum(1 for _ in _promises(found)) for found in gathered if isinstance(found, list))

    def section_result(self, id_: str) -> dict[str, Any]:
        """Return the values that an evaluated section exposes."""
        return {key: self.result(key) for key in self._exposed(id_)}

    def _exposed(self, id_: str) -> list[str]:
        return self.graph.exposed(id_, all_calls=self.all_calls)

    def _expression_waits(self, section: Tree.Scatter | Tree.Conditional) -> bool:
        return any(key in self.waiting or key in self.folded for key in self.graph.expression_needs(section))

    def _inner(self, id_: str, variables: dict[str, Any]) -> Walk:
        inner = copy(self)
        inner.section, inner._types = id_, types_in(self.graph.nodes[id_])  # type: ignore[arg-type]
        inner.plain, inner.waiting, inner.folded = dict(self.plain), dict(self.waiting), {}
        inner._outer, inner._stored = self, {}
        for key, plain in variables.items():
            inner.bind(key, plain)
        inner.evaluate(self.graph.order[id_])
        return inner

    # Later evaluation

    def _needs(self, id_: str) -> set[str]:
        """Return the keys that a node and the declarations evaluated together with it need."""
        direct = self.graph.needs(id_)
        return {key for need in direct for key in self.folded.get(need, {need})}

    def _is_waiting(self, id_: str) -> bool:
        return any(key in self.waiting for key in self._needs(id_))

    def _later(self, id_: str) -> Any:
        """Return the promise of a node's value, to be evaluated later with the folded declarations it needs."""
        node = self.graph.nodes.get(id_)
        after, before = (self.graph.after(node), self._before(node)) if isinstance(node, Tree.Call) else ([], [])
        nodes = [*self._folded_for(id_), id_]
        needed = self._needs(id_) - set(after)
        env = {key: self._argument(key) for key in sorted(needed) if key in self.waiting or key in self.plain}
        return self.tasks.evaluate_later(self.section, nodes, env, before)

    def _argument(self, key: str) -> Any:
        """Return a value as an argument of a task; values that all iterations share are stored once."""
        if key in self.waiting:
            return self.waiting[key]
        owner = self
        while owner._outer is not None and key in owner._outer.plain:
            owner = owner._outer
        if owner is not self and key not in owner._stored:
            owner._stored[key] = stored_value(owner.plain[key])
        return owner._stored[key] if key in owner._stored else owner.plain[key]

    def _folded_for(self, id_: str) -> list[str]:
        wanted: set[str] = set()
        stack = [id_]
        while stack:
            more = (self.graph.needs(stack.pop()) & self.folded.keys()) - wanted
            wanted |= more
            stack.extend(more)
        return [key for key in self.graph.order[self.section] if key in wanted]

    def _keep(self, id_: str) -> None:
        """Make sure that a task runs even if nothing needs its value."""
        if not self.graph.uses[id_]:
            spawn(self.waiting[id_])


def pick(plain: Any, name: str) -> Any:
    """Select an output of a call, or of all its calls in a scatter or conditional."""
    if plain is None:
        return None
    if isinstance(plain, list):
        return [pick(item, name) for item in plain]
    return plain[name]


def names(plain: Any) -> list[str]:
    """Return the names of the outputs of a call, or of all its calls in a scatter or conditional."""
    if isinstance(plain, list):
        return list(dict.fromkeys(name for item in plain for name in names(item)))
    return list(plain or ())


def _holds_promise(plain: Any) -> bool:
    return any(True for _ in _promises(plain))


def _promises(plain: Any) -> Iterator[Any]:
    if isinstance(plain, list):
        for item in plain:
            yield from _promises(item)
    elif hasattr(type(plain), "__dask_graph__"):
        yield plain


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
        Whether this is the only run of the node in the graph. Then the ids of its calls do not depend on the inputs as
        a whole, and a later run with other inputs reuses the calls that do not use the changed ones.
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
    walk.evaluate(walk.graph.order[""])
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
        walk.bind_argument(key, plain)
    last = nodes[-1]
    if last == OUTPUTS:
        walk.evaluate(nodes[:-1])
        return walk.outputs()
    walk.evaluate(nodes)
    if isinstance(walk.graph.nodes[last], Tree.WorkflowSection):
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
    return Walk(scope.workflow.graph, section, tasks, inputs, all_calls=scope.machine.all_outputs)
