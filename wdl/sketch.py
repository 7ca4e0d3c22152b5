"""The tasks that the calls of a document run, for ``toilfn graph``; the inputs of a run are not needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from WDL import Tree

from toilfn.inspect.drawing import Step
from toilfn.wdl import document
from toilfn.wdl.document import opened
from toilfn.wdl.program import WorkflowGraph

__all__ = ["steps_of"]

Names = frozenset[str]
"""Names of steps."""


def steps_of(place: str, entrypoint: str | None = None, path: Sequence[str] = ()) -> list[Step]:
    """Return the calls of tasks in a document, those of its sub-workflows included.

    Parameters
    ----------
    place : str
        A path, a URL, or the id of a tool in a registry.
    entrypoint : str, optional
        Name of the task or workflow; by default the workflow.
    path : sequence of str
        Additional directories to search for imports.

    Raises
    ------
    WDLError
        If the document is invalid. The message has the position.
    """
    loaded = document.load_document(opened(place).document, path=path, strict=False)  # a drawing needs no strict types
    node = document.entrypoint(loaded, entrypoint)
    if isinstance(node, Tree.Task):
        return [Step(node.name, node.name, frozenset())]
    return _Workflow(node, "", {}, frozenset()).steps


class _Workflow:
    """The calls of a workflow.

    Parameters
    ----------
    workflow : WDL.Tree.Workflow
    prefix : str
        The beginning of the names of its steps.
    given : mapping
        The names of the steps that each input comes from, by the names of the inputs.
    before : frozenset of str
        Names of steps. A call whose inputs come from no other call of the workflow waits for them.
    """

    def __init__(self, workflow: Tree.Workflow, prefix: str, given: Mapping[str, Names], before: Names) -> None:
        self.steps: list[Step] = []
        self._graph = WorkflowGraph(workflow)
        self._prefix, self._given, self._before = prefix, given, before
        self._scatters = {
            f"var-{node.variable}": node for node in self._graph.nodes.values() if isinstance(node, Tree.Scatter)
        }
        self._made: dict[str, Names] = {}
        self._visit("")

    def outcome(self) -> Names:
        """Return the steps that the outputs come from; all steps if there are no outputs."""
        needed = self._of(self._graph.needs("outputs"))
        return needed or frozenset(step.name for step in self.steps) or self._before

    def _visit(self, section: str) -> None:
        for id in self._graph.order[section]:
            node = self._graph.nodes[id]
            if isinstance(node, Tree.WorkflowSection):
                self._visit(id)
            elif isinstance(node, Tree.Call):
                self._made[id] = self._call(id, node)
            elif isinstance(node, Tree.Decl):
                self._made[id] = self._given.get(node.name, frozenset()) | self._of(self._graph.needs(id))

    def _call(self, id: str, call: Tree.Call) -> Names:
        sections = list(self._around(id))
        needs = self._of(self._graph.needs(id)) | self._of(
            key for section in sections for key in self._graph.expression_needs(section)
        )
        name = f"{self._prefix}{call.name}{_how_often(sections)}"
        if isinstance(call.callee, Tree.Task):
            self.steps.append(Step(name, call.callee.name, needs or self._before))
            return frozenset({name})
        assert call.callee is not None
        given = {name: self._of(self._graph.keys(expr)) for name, expr in call.inputs.items()}
        inner = _Workflow(call.callee, f"{name}/", given, needs or self._before)
        self.steps += inner.steps
        return inner.outcome()

    def _around(self, id: str) -> Iterable[Tree.Scatter | Tree.Conditional]:
        """Yield the sections that a node is in, the innermost first."""
        section = self._graph.home[id]
        while section:
            node = self._graph.nodes[section]
            assert isinstance(node, (Tree.Scatter, Tree.Conditional))
            yield node
            section = self._graph.home[section]

    def _of(self, keys: Iterable[str]) -> Names:
        """Return the names of the steps that compute the values for some keys of the graph."""
        found: set[str] = set()
        for key in keys:
            if key in self._scatters:
                found |= self._of(self._graph.expression_needs(self._scatters[key]))
            else:
                found |= self._made.get(key, frozenset())
        return frozenset(found)


def _how_often(sections: Iterable[Tree.WorkflowNode]) -> str:
    words = dict.fromkeys("scatter" if isinstance(section, Tree.Scatter) else "if" for section in sections)
    return f" ({', '.join(words)})" if words else ""
