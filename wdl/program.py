"""Pass a document to the tasks: parsed once, stored once, and loaded once by each process."""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from WDL import Tree

from toilfn.files.file import File, open_write
from toilfn.wdl.plan import Plan
from toilfn.wdl.shared import SharedValue

__all__ = [
    "Callee",
    "Program",
    "Source",
    "callee",
    "loaded",
    "nodes",
    "path_of",
    "program",
    "source_dir",
    "version",
]

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
        """The version of the toilfn task that runs it, which depends on its text like a function on its code."""
        return version(self.digest)

    @property
    def node(self) -> Any:
        """The `WDL.Tree.Task` or `WDL.Tree.Workflow` object."""
        return self.program.loaded.nodes[self.path]

    @property
    def plan(self) -> Plan:
        """The dependencies within a workflow."""
        return self.program.loaded.plan(self.path)


class Loaded:
    """A document's tasks and workflows, loaded in this process."""

    def __init__(self, document: Tree.Document, states: Mapping[Path, str]) -> None:
        self._plans: dict[Path, Plan] = {}
        self.nodes = dict(nodes(document))
        self.states = states
        self.paths = {id(node): path for path, node in self.nodes.items()}

    def plan(self, path: Path) -> Plan:
        """Return a workflow's plan, which is computed once."""
        if path not in self._plans:
            self._plans[path] = Plan(self.nodes[path])
        return self._plans[path]


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
    """Return the version of a toilfn task whose code is a text in addition to this package."""
    return f"1 {text}"


def program(source: Source) -> Program:
    """Store a document; must be called in a task."""
    with open_write("document.pickle") as stream:
        stream.write(source.pickled)
    return Program(stream.file)
