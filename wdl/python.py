"""WDL documents in Python: a document's workflow is called like a task, and returns a promise of its outputs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import WDL
from WDL import Error

from toilfn.files.directory import Directory
from toilfn.files.file import File
from toilfn.graph.task import task
from toilfn.wdl import document
from toilfn.wdl.language import binding_type
from toilfn.wdl.paths import WorkflowPaths
from toilfn.wdl.problems import WDLError, where
from toilfn.wdl.program import Source, loaded, path_of, version
from toilfn.wdl.runtime import Machine
from toilfn.wdl.tasks import start
from toilfn.wdl.values import Entries, PathText, Stored, encode

__all__ = ["Document", "load"]


class Document:
    """A WDL document's workflow, or one of its tasks; calling it returns the promise of its outputs.

    Parameters
    ----------
    place : str or path
        A path, a URL, or the id of a tool in a registry.
    name : str, optional
        Name of the task or workflow; by default the workflow.
    path : sequence of str
        Additional directories to search for imports.
    container, default_container, copy_inputs, quant_check
        As on the command line of ``toilfn wdl``.

    Raises
    ------
    WDLError
        If the document is invalid. The message has the position.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        name: str | None = None,
        *,
        path: Sequence[str] = (),
        container: str = "auto",
        default_container: str = Machine.image,
        copy_inputs: bool = False,
        quant_check: bool = True,
    ) -> None:
        self._document = document.load_document(os.fspath(place), path=path, strict=quant_check)
        self._node = document.entrypoint(self._document, name)
        self._machine = Machine(container, default_container, copy_inputs)
        self.name: str = self._node.name

    def __call__(self, **inputs: Any) -> Any:
        """Return the promise of a dict of outputs.

        Parameters
        ----------
        **inputs
            Inputs as JSON values or promises of them; a file is a path, a URL or a `File`. For the inputs of calls,
            whose names contain dots, write ``**{"call.name": value}``.

        Raises
        ------
        WDLError
            If an input is missing or unknown.
        """
        available = self._node.available_inputs
        for name in inputs:
            if name not in available:
                raise WDLError(f"{where(self._node)}: {self.name} has no input {name!r}")
        missing = [each.name for each in self._node.required_inputs if inputs.get(each.name) is None]
        if missing:
            raise WDLError(f"{where(self._node)}: {self.name} needs the inputs {', '.join(missing)}")
        read = _encoded.options(version=version(_signature(self._node)))
        given = read(document.source(self._document), path_of(self._document, self._node), inputs, os.getcwd())
        return _plain(start(self._document, self._node, given, self._machine))

    def __repr__(self) -> str:
        return f"<WDL {self.name}>"


def load(place: str | os.PathLike[str], name: str | None = None, **options: Any) -> Document:
    """Load a WDL document, so that it can be called as a task.

    Parameters
    ----------
    place : str or path
        A path, a URL, or the id of a tool in a registry.
    name : str, optional
        Name of the task or workflow to call; by default the workflow, or the only task.
    **options
        Keyword arguments of `Document`: `path`, `container`, `default_container`, `copy_inputs` and `quant_check`.

    Returns
    -------
    Document
        A callable that takes inputs by name, and returns the promise of a dict of outputs.

    Raises
    ------
    WDLError
        If the document is invalid, or has several tasks and no workflow, and no `name` is given. The message has the
        position.
    InputError
        If the document cannot be read.
    """
    return Document(place, name, **options)


def _signature(node: Any) -> str:
    """Return the declarations of a task or workflow that determine how its inputs are read."""
    return " ".join(f"{each.value.type} {each.name}" for each in node.available_inputs)


@task(name="inputs", cores=0.1, memory="256M", local=True, version="1")
def _encoded(source: Source, path: tuple[str, ...], inputs: dict[str, Any], base: str) -> dict[str, Any]:
    """Encode inputs that are Python values, as `encode_inputs` encodes JSON values."""
    node = loaded(source.pickled).nodes[path]
    paths = WorkflowPaths(base)
    found = {}
    for name, value in inputs.items():
        declared = binding_type(node.available_inputs[name])
        try:
            given = WDL.Value.from_json(declared, _named(value, paths)).coerce(declared)
            found[name] = encode(given, declared.copy(optional=False), paths)
        except (Error.RuntimeError, ValueError, FileNotFoundError) as error:
            raise WDLError(f"{where(node.available_inputs[name])}: input {node.name}.{name}: {error}") from None
    return found


def _named(value: Any, paths: WorkflowPaths) -> Any:
    """Replace files by their paths in expressions."""
    if isinstance(value, (File, Directory)):
        return paths.path(Stored(value, f"/toilfn/inputs/{value.name if isinstance(value, Directory) else value.id}"))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, tuple) and len(value) == 2:
        return {"left": _named(value[0], paths), "right": _named(value[1], paths)}
    if isinstance(value, (list, tuple)):
        return [_named(item, paths) for item in value]
    if isinstance(value, dict):
        return {key: _named(item, paths) for key, item in value.items()}
    return value


@task(name="outputs", cores=0.1, memory="256M", local=True, version="1")
def _plain(outputs: Any) -> Any:
    """Decode values for Python: a file becomes a `File`, a Pair a tuple, and a Map a dict."""
    if isinstance(outputs, Stored):
        return outputs.content
    if isinstance(outputs, PathText):
        return outputs.file.content
    if isinstance(outputs, Entries):
        return {_plain.__wrapped__(key): _plain.__wrapped__(item) for key, item in outputs.items}
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(_plain.__wrapped__(item) for item in outputs)
    if isinstance(outputs, dict):
        return {name: _plain.__wrapped__(item) for name, item in outputs.items()}
    return outputs
