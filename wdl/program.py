"""Pass a document to the tasks: parsed once, stored once, and loaded once by each process.

`WorkflowGraph` has the dependencies within a workflow, computed once from its text.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from WDL import Expr, Tree

from toilfn.files.file import File, open_write
from toilfn.wdl.language import identifiers
from toilfn.wdl.shared import SharedValue

__all__ = [
    "OUTPUTS",
    "Callee",
    "Program",
    "Source",
    "WorkflowGraph",
    "callee",
    "loaded",
    "nodes",
    "path_of",
    "program",
    "source_dir",
    "version",
]  # fmt: skip

OUTPUTS = "outputs"
"""The id of a workflow's output section."""


class WorkflowGraph:
    """A workflow's nodes by id, and their dependencies.

    A node depends on keys. A key is the id of a declaration or a call, or ``var-NAME`` for the variable of a scatter.
    Sections have no keys: the nodes in a section have the same keys inside it and, with gathered values, outside it.

    Parameters
    ----------
    workflow : WDL.Tree.Workflow
    """

    def __init__(self, workflow: Tree.Workflow) -> None:
        self.workflow = workflow
        self.nodes: dict[str, Tree.WorkflowNode] = {}
        self.home: dict[str, str] = {}
        self._keys: dict[int, frozenset[str]] = {}
        self._sections: dict[str, tuple[str, ...]] = {}
        self.order: dict[str, list[str]] = {}
        body = [*(workflow.inputs or []), *workflow.body]
        self._enter("", body)
        self.uses: Counter[str] = Counter()
        self._users: dict[str, set[str]] = {}
        for id_, node in self.nodes.items():
            if not isinstance(node, Tree.WorkflowSection):
                self._note(id_, self.needs(id_))
            else:
                self._note(id_, _keys(identifiers(node.expr)))  # type: ignore[attr-defined]  # sections have expressions
        self._note(OUTPUTS, self.needs(OUTPUTS))
        self._sort("", body)

    def _enter(self, section: str, body: Iterable[Tree.WorkflowNode]) -> None:
        above = self._sections.get(section, ())
        self._sections[section] = (*above, section)
        for node in body:
            id_ = node.workflow_node_id
            self.nodes[id_], self.home[id_] = node, section
            if isinstance(node, Tree.WorkflowSection):
                self._sections[id_] = self._sections[section]
                self._enter(id_, node.body)

    def _note(self, user: str, keys: set[str]) -> None:
        for key in keys:
            self.uses[key] += 1
            self._users.setdefault(key, set()).add(user)

    def needs(self, id_: str) -> set[str]:
        """Return the keys that a node needs; for a section, including the nodes in it."""
        if id_ == OUTPUTS:
            return self._outputs_need()
        node = self.nodes[id_]
        if isinstance(node, Tree.Decl):
            return _keys(identifiers(node.expr))
        if isinstance(node, Tree.Call):
            after = {self._key_of(needed) for needed in node._after_node_ids}
            return after | {key for expr in node.inputs.values() for key in _keys(identifiers(expr))}
        assert isinstance(node, (Tree.Scatter, Tree.Conditional))
        inner = {key for child in node.body for key in self.needs(child.workflow_node_id)}
        own = {child.workflow_node_id for child in self.within(id_)}
        variable = {_variable(node)} if isinstance(node, Tree.Scatter) else set()
        return self.expression_needs(node) | (inner - own - variable)

    def keys(self, expr: Expr.Base) -> frozenset[str]:
        """Return the keys that an expression needs."""
        if id(expr) not in self._keys:
            self._keys[id(expr)] = frozenset(_keys(identifiers(expr)))
        return self._keys[id(expr)]

    def expression_needs(self, section: Tree.Scatter | Tree.Conditional) -> set[str]:
        """Return the keys that the expression of a section needs."""
        return _keys(identifiers(section.expr))

    def after(self, call: Tree.Call) -> list[str]:
        """Return the keys of the calls that must be complete before a call, because of ``after``."""
        return sorted(self._key_of(needed) for needed in call._after_node_ids)

    def _key_of(self, id_: str) -> str:
        node = self.workflow.get_node(id_)
        return node.final_referee.workflow_node_id if isinstance(node, Tree.Gather) else id_

    def _outputs_need(self) -> set[str]:
        if self.workflow.outputs is None:
            return {id_ for id_, node in self.nodes.items() if isinstance(node, Tree.Call)}
        own = {decl.workflow_node_id for decl in self.workflow.outputs}
        return {key for decl in self.workflow.outputs for key in _keys(identifiers(decl.expr))} - own

    def within(self, section: str) -> Iterator[Tree.WorkflowNode]:
        """Iterate over all nodes in a section, at any depth."""
        for id_, node in self.nodes.items():
            if id_ != section and section in self._sections[self.home[id_]]:
                yield node

    def exposed(self, section: str, *, all_calls: bool = False) -> list[str]:
        """Return the keys in a section that nodes outside it need; with `all_calls`, also those of all calls."""
        inside = {node.workflow_node_id for node in self.within(section)} | {section}
        return [
            node.workflow_node_id
            for node in self.within(section)
            if (all_calls and isinstance(node, Tree.Call))
            or (not isinstance(node, Tree.WorkflowSection) and self._users.get(node.workflow_node_id, set()) - inside)
        ]

    def is_folded(self, key: str) -> bool:
        """Return whether a declaration is evaluated together with its user: if it has only one, in the same section."""
        users = self._users.get(key, set())
        if self.uses[key] != 1:
            return False
        user = next(iter(users))
        return (user == OUTPUTS and self.home[key] == "") or self.home.get(user) == self.home[key]

    def _sort(self, section: str, body: Iterable[Tree.WorkflowNode]) -> None:
        """Determine an order in which the nodes of a body can be visited."""
        nodes = {node.workflow_node_id: node for node in body}
        makers = {id_: id_ for id_ in nodes}
        for id_, node in nodes.items():
            if isinstance(node, Tree.WorkflowSection):
                makers.update((child.workflow_node_id, id_) for child in self.within(id_))
                self._sort(id_, node.body)
        done: dict[str, None] = {}

        def visit(id_: str) -> None:
            for needed in sorted({makers[key] for key in self.needs(id_) if key in makers}):
                if needed not in done and needed != id_:
                    visit(needed)
            done[id_] = None

        for id_ in nodes:
            if id_ not in done:
                visit(id_)
        self.order[section] = list(done)


def _keys(referees: Iterable[Any]) -> set[str]:
    return {key for referee in referees if (key := _key(referee)) is not None}


def _key(referee: Any) -> str | None:
    if isinstance(referee, Tree.Scatter):
        return _variable(referee)
    if isinstance(referee, Tree.Gather):
        return referee.final_referee.workflow_node_id
    return referee.workflow_node_id if isinstance(referee, Tree.WorkflowNode) else None


def _variable(scatter: Tree.Scatter) -> str:
    return f"var-{scatter.variable}"


Path = tuple[str, ...]
"""The path of a task or workflow: the namespaces of imports, then its name."""


@dataclass(frozen=True)
class Source:
    """A parsed and checked document."""

    digest: str
    """Digest of its text, the texts of its imports, and the states of the files that they name."""
    pickled: bytes
    """The document and the states of these files (`toilfn.wdl.document`), pickled."""

    def __toilfn_identity__(self) -> str:
        """Return a constant: the digest is part of the version of the task, as for `Callee`."""
        return "source"


@dataclass(frozen=True, slots=True)
class Program:
    """A document in the store."""

    file: File

    def __toilfn_identity__(self) -> str:
        """Return a constant: a change elsewhere in the document is not a reason to run a task again."""
        return "program"

    @property
    def loaded(self) -> Loaded:
        """The document, loaded once for each process."""
        return _load(self.file)


@dataclass(frozen=True)
class Callee(SharedValue):
    """A task or workflow of a document."""

    program: Program
    path: Path
    digest: str
    """Digest of its text and its callees (`WDL.Tree.Task.digest`), and of the states of the files that they name."""

    def counts(self) -> str:
        """Return the name; the digest is part of `version`, so that calls stay the same after edits elsewhere."""
        return self.path[-1]

    @property
    def version(self) -> str:
        """The version of the toilfn task that runs this; a change of the document's text changes it."""
        return version(self.digest)

    @property
    def node(self) -> Any:
        """The `WDL.Tree.Task` or `WDL.Tree.Workflow` object."""
        return self.program.loaded.nodes[self.path]

    @property
    def graph(self) -> WorkflowGraph:
        """The dependencies within a workflow."""
        return self.program.loaded.graph(self.path)


class Loaded:
    """A document's tasks and workflows, loaded in this process."""

    def __init__(self, document: Tree.Document, states: Mapping[Path, str]) -> None:
        self._graphs: dict[Path, WorkflowGraph] = {}
        self.nodes = dict(nodes(document))
        self.states = states
        self.paths = {id(node): path for path, node in self.nodes.items()}

    def graph(self, path: Path) -> WorkflowGraph:
        """Return a workflow's graph, which is computed once."""
        if path not in self._graphs:
            self._graphs[path] = WorkflowGraph(self.nodes[path])
        return self._graphs[path]


def nodes(document: Tree.Document, above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Iterate over the tasks and workflows of a document and its imports, with their paths."""
    own: list[Any] = [*document.tasks, *([document.workflow] if document.workflow else [])]
    for node in own:
        yield (*above, node.name), node
    for imported in document.imports:
        if imported.doc is not None:
            yield from nodes(imported.doc, (*above, imported.namespace))


@functools.lru_cache(maxsize=16)
def _load(file: File) -> Loaded:
    return loaded(file.read_bytes())


def loaded(pickled: bytes) -> Loaded:
    """Load the content of `Source.pickled`."""
    return Loaded(*pickle.loads(pickled))


def callee(program: Program, node: Any) -> Callee:
    """Return the reference to a task or workflow of a loaded document."""
    path = program.loaded.paths[id(node)]
    return Callee(program, path, node.digest + program.loaded.states.get(path, ""))


def path_of(document: Tree.Document, node: Any) -> Path:
    """Return the path of a task or workflow in a document that is not stored yet."""
    return next(path for path, each in nodes(document) if each is node)


def source_dir(node: Any) -> str:
    """Return the directory or URL of the document that contains a task or workflow."""
    return os.path.dirname(str(node.pos.abspath))


def version(text: str) -> str:
    """Return the version of a toilfn task whose behaviour depends on a text and on the version of this package."""
    return f"1 {text}"


def program(source: Source) -> Program:
    """Store a document; must be called in a task."""
    with open_write("document.pickle") as stream:
        stream.write(source.pickled)
    return Program(stream.file)
