"""A document on its way to the tasks: parsed once, stored once, and loaded once by each process."""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from WDL import Tree

from toilfn.files.file import File, open_write
from toilfn.wdl.once import Once
from toilfn.wdl.plan import Plan

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
"""Where a task or workflow is: the namespaces of imports, then its name."""


@dataclass(frozen=True)
class Source:
    """A document that was parsed and checked."""

    digest: str
    """Of all its text, that of what it imports, and the files that these name."""
    pickled: bytes
    """It, and the states of these files (`toilfn.wdl.beside`)."""

    def __toilfn_identity__(self) -> str:
        """Leave it to the version of the task that gets it, as for `Callee`."""
        return "source"


@dataclass(frozen=True, slots=True)
class Program:
    """A document in the store."""

    file: File

    def __toilfn_identity__(self) -> str:
        """Leave it to `Callee.version`: a change elsewhere in the document is no reason to run a task again."""
        return "program"

    @property
    def loaded(self) -> Loaded:
        """The document, loaded once for each process."""
        return _load(self.file)


@dataclass(frozen=True)
class Callee(Once):
    """A task or workflow of a document."""

    program: Program
    path: Path
    digest: str
    """Of its own text and what it calls (`WDL.Tree.Task.digest`), and of the files that these name."""

    def counts(self) -> str:
        """Leave the digest to `version`: what a workflow calls is the same call after an edit elsewhere in it."""
        return self.path[-1]

    @property
    def version(self) -> str:
        """The version of the toilfn task that runs it: to that, the text is what its code is to a function."""
        return version(self.digest)

    @property
    def node(self) -> Any:
        """The `WDL.Tree.Task` or `WDL.Tree.Workflow`."""
        return self.program.loaded.nodes[self.path]

    @property
    def plan(self) -> Plan:
        """What depends on what in a workflow."""
        return self.program.loaded.plan(self.path)


class Loaded:
    """A document's tasks and workflows, in this process."""

    def __init__(self, document: Tree.Document, states: Mapping[Path, str]) -> None:
        self._plans: dict[Path, Plan] = {}
        self.nodes = dict(nodes(document))
        self.states = states
        self.paths = {id(node): path for path, node in self.nodes.items()}

    def plan(self, path: Path) -> Plan:
        """Return a workflow's plan; it is worked out once."""
        if path not in self._plans:
            self._plans[path] = Plan(self.nodes[path])
        return self._plans[path]


def nodes(document: Tree.Document, above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Iterate over the tasks and workflows of a document and of what it imports, with their places."""
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
    """Return what `Source.pickled` has."""
    return Loaded(*pickle.loads(pickled))


def callee(program: Program, node: Any) -> Callee:
    """Return the reference to a task or workflow of a loaded document."""
    path = program.loaded.paths[id(node)]
    return Callee(program, path, node.digest + program.loaded.states.get(path, ""))


def path_of(document: Tree.Document, node: Any) -> Path:
    """Return where a task or workflow is in a document that is not stored yet."""
    return next(path for path, each in nodes(document) if each is node)


def source_dir(node: Any) -> str:
    """Return the directory or URL of the document that a task or workflow is in."""
    return os.path.dirname(str(node.pos.abspath))


def version(text: str) -> str:
    """Return the version of a toilfn task whose code is a text as well as this package's own."""
    return f"1 {text}"


def program(source: Source) -> Program:
    """Put a document into the store; called in a task."""
    with open_write("document.pickle") as stream:
        stream.write(source.pickled)
    return Program(stream.file)
