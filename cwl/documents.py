"""Documents on their way to workers: what cwltool has loaded, in one object of the store.

A run's documents are one bundle: the loaded process with all that it leads to, and how tools are to be run. Tasks
name what they are about by a `Part`: the bundle, and a path of steps in it. A part's identity is what the
document says there, and nothing else of the bundle: whoever edits one tool runs that one again, and what follows.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from cwltool.errors import UnsupportedRequirement
from cwltool.process import Process, shortname
from cwltool.workflow import Workflow, WorkflowStep

from toilfn.cwl.engine import Engine
from toilfn.cwl.sealed import secret_inputs
from toilfn.files.file import File, open_write

__all__ = ["Document", "Part", "bundle", "in_store", "refuse_unsupported", "updates_in_place"]

Path = tuple[str, ...]

_RANDOM = re.compile("_:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The names that cwltool gives, differently each time, to what has none in the document."""


@dataclass(frozen=True)
class Document:
    """All that a bundle holds.

    Attributes
    ----------
    process : Process
        The one that was asked for.
    engine : Engine
        How tools are run.
    digests : mapping
        What makes each process and step what it is, by path.
    nonces : mapping
        What makes those other ones in each run that must not be reused, or empty texts, by path.
    reuse : bool
        Whether the run may reuse anything.
    """

    process: Process
    engine: Engine
    digests: Mapping[Path, str]
    nonces: Mapping[Path, str]
    reuse: bool

    def at(self, path: Path) -> Process:
        """Return the process that the steps of a path lead to."""
        found = self.process
        for name in path:
            found = step_of(found, name).embedded_tool
        return found


@dataclass(frozen=True, slots=True)
class Part:
    """A process of a bundle, or with `step` one of its steps, as an argument of tasks.

    `files` is what the store has of files that the documents themselves refer to, by location.
    """

    __toilfn_lineage__: ClassVar[bool] = False  # a task's steps have names of their own, and parts

    bundle: File | bytes
    path: Path
    digest: str
    step: str = ""
    files: Mapping[str, Any] = field(default_factory=dict)

    def __toilfn_identity__(self) -> tuple[object, ...]:
        """What makes two parts the same argument: what the document says there."""
        return self.digest, self.step, self.files

    def __repr__(self) -> str:
        return f"<{'/'.join(filter(None, [*self.path, self.step])) or 'document'}>"

    @property
    def document(self) -> Document:
        """The bundle's content."""
        return _opened(self.bundle)

    @property
    def process(self) -> Process:
        """The process."""
        return self.document.at(self.path)

    @property
    def nonce(self) -> str:
        """What makes it another task in each run, if it must not be reused."""
        return self.document.nonces[(*self.path, self.step) if self.step else self.path]

    def step_process(self) -> WorkflowStep:
        """Return the step that it names."""
        return step_of(self.process, self.step)

    def at_step(self, step: WorkflowStep) -> Part:
        """Return the part that is a step of this one."""
        path = (*self.path, shortname(step.id))
        return replace(self, step=path[-1], digest=self.document.digests[path])

    def inside(self) -> Part:
        """Return the process that the step runs."""
        path = (*self.path, self.step)
        return replace(self, path=path, step="", digest=self.document.digests[path])


def step_of(process: Process, name: str) -> WorkflowStep:
    """Find a workflow's step by its short name."""
    assert isinstance(process, Workflow)
    return next(step for step in process.steps if shortname(step.id) == name)


def bundle(process: Process, engine: Engine, files: Mapping[str, Any], nonce: str, *, reuse: bool) -> Part:
    """Pack a loaded process for tasks.

    Parameters
    ----------
    process : Process
        As `cwltool.load_tool` gives it. It loses what only loading needs.
    engine : Engine
    files : mapping
        What the store has of files that the documents refer to, or promises of it.
    nonce : str
        Differs from run to run: what must not be reused is known by it.
    reuse : bool
        Whether what an earlier run on the store has finished may be used again, where documents do not forbid it.

    Returns
    -------
    Part
        The whole.
    """
    digests: dict[Path, str] = {}
    nonces: dict[Path, str] = {}
    for path, one in _walk(process, ()):
        one.doc_loader = None  # holds open connections and the whole schema
        one.doc_schema = None
        digests.setdefault(path, _digest(one, engine))
        nonces.setdefault(path, "" if reuse and _may_reuse(one) else nonce)
    document = Document(process, engine, digests, nonces, reuse)
    content = pickle.dumps(document, 5)
    _documents[_key(content)] = document
    return Part(content, (), digests[()], files=files)


def in_store(part: Part) -> Part:
    """Return the same part of a bundle that is a file of the store, so that many tasks can share it."""
    if isinstance(part.bundle, File):
        return part
    with open_write("documents") as stream:
        stream.write(part.bundle)
    return replace(part, bundle=stream.file)


_documents: dict[str, Document] = {}
"""The bundles of this process, and of the one that it was forked from, by the digests of their contents."""


def _opened(content: File | bytes) -> Document:
    key = content.checksum if isinstance(content, File) else _key(content)
    if key not in _documents:
        data = content.read_bytes() if isinstance(content, File) else content
        _documents[key] = pickle.loads(data)
    return _documents[key]


def _key(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()  # as the store's checksums of files


def _walk(process: Process, path: Path) -> Iterator[tuple[Path, Process]]:
    """Iterate over a process, the steps in it, and theirs, with the paths that tasks know them by."""
    yield path, process
    steps = process.steps if isinstance(process, Workflow) else []
    for step in sorted(steps, key=lambda step: str(step.id)):  # cwltool shuffles them
        yield (*path, shortname(step.id)), step
        yield from _walk(step.embedded_tool, (*path, shortname(step.id)))


def updates_in_place(process: Process) -> bool:
    """Return whether anything in a process changes files that others see (CWL v1.2, InplaceUpdateRequirement)."""
    wishes = [one.get_requirement("InplaceUpdateRequirement")[0] for _, one in _walk(process, ())]
    return any(wish is not None and wish["inplaceUpdate"] for wish in wishes)


def refuse_unsupported(process: Process) -> None:
    """Refuse what cannot be done as it should.

    Raises
    ------
    UnsupportedRequirement
        If a part of the process has secret inputs, and the whole has none: the store would have to keep them.
    """
    if secret_inputs(process):
        return
    for path, one in _walk(process, ()):
        if secret_inputs(one):
            raise UnsupportedRequirement(
                f"step {'/'.join(path)} has cwltool:Secrets; the workflow must list these inputs in"
                " cwltool:Secrets as well"
            )


def _may_reuse(process: Process) -> bool:
    """Return whether nothing in a process forbids it; an expression might (`toilfn.cwl.reuse`)."""
    inner = process.embedded_tool if isinstance(process, WorkflowStep) else process
    wishes = [one.get_requirement("WorkReuse")[0] for _, one in _walk(inner, ())]
    return all(wish is None or wish.get("enableReuse", True) is True for wish in wishes)


def _digest(process: Process, engine: Engine) -> str:
    inner = process.embedded_tool if isinstance(process, WorkflowStep) else process
    parts = [process.tool, *(one.tool for _, one in _walk(inner, ()))]
    content = [parts, process.requirements, process.hints, process.metadata.get("cwlVersion"), engine.identity]
    text = _RANDOM.sub("_:", json.dumps(content, sort_keys=True, default=str))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
