"""CWL documents in Python: `load`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cwltool.context import LoadingContext, RuntimeContext
from cwltool.errors import WorkflowException
from cwltool.load_tool import load_tool
from cwltool.process import Process, shortname
from cwltool.resolver import resolve_local
from schema_salad.exceptions import ValidationException

from toilfn.cwl import steps
from toilfn.cwl.adapters import Fetcher, make_tool, patch_cwltool
from toilfn.cwl.documents import EncryptedSecrets, Part, ToolOptions, bundle, refuse_unsupported, secret_inputs
from toilfn.cwl.resources import LIGHT
from toilfn.cwl.values import document_files, imported, map_objects
from toilfn.errors import InputError
from toilfn.files.directory import Directory
from toilfn.files.exchange import import_directory, import_file
from toilfn.files.file import File
from toilfn.graph.task import task
from toilfn.worker.context import current

__all__ = ["Loaded", "load", "read"]


def load(document: str | os.PathLike[str], **options: Any) -> Loaded:
    """Load a CWL document, so that it can be called as a task.

    Parameters
    ----------
    document : path or URL
        A CommandLineTool, an ExpressionTool or a Workflow; ``#name`` selects one from a packed document.
    **options
        Attributes of `cwltool.context.RuntimeContext`, such as ``podman=True`` or ``use_container=False``.

    Returns
    -------
    Loaded
        A callable that takes inputs by name, and returns a promise.

    Raises
    ------
    InputError
        If the document cannot be read or is not valid. The message is cwltool's.

    Examples
    --------
    ::

        hello = toilfn.cwl.load("hello.cwl")
        toilfn.compute(hello(message="hi")["out"])
    """
    context = RuntimeContext({"streaming_allowed": True, **options})
    unknown = sorted(name for name in options if not hasattr(context, name))
    if unknown:
        raise InputError(f"cwltool's RuntimeContext has no option {unknown[0]!r}")
    loading = LoadingContext()
    loading.podman, loading.singularity = context.podman, context.singularity
    process = read(document, loading)
    refuse_unsupported(process)
    return Loaded(process, ToolOptions.of(context))


def read(document: str | os.PathLike[str], loading: LoadingContext) -> Process:
    """Read a document as toilfn does.

    Raises
    ------
    InputError
        If the document cannot be read or is not valid. The message is cwltool's.
    """
    patch_cwltool()
    loading.construct_tool_object, loading.fetcher_constructor = make_tool, Fetcher
    loading.resolver = resolve_local  # other resolvers take the whole text "PATH#NAME" for the name of a file
    try:
        return load_tool(os.fspath(document), loading)
    except (ValidationException, WorkflowException, OSError) as error:
        raise InputError(f"CWL document {os.fspath(document)} cannot be loaded:\n{error}") from error


class Loaded:
    """A CWL process whose calls are tasks.

    Inputs are plain values or promises of them. A file or a directory can be a `toilfn.File` or `toilfn.Directory`, a
    path, or a CWL object with a ``location``. A call returns the promise of a dict of outputs by name, with a
    `toilfn.File` or a `toilfn.Directory` for each file and directory.
    """

    def __init__(self, process: Process, tool_options: ToolOptions) -> None:
        self._process = process
        self._part = bundle(process, tool_options, document_files(process), "", reuse=True)

    @property
    def inputs(self) -> list[str]:
        """The names of the inputs."""
        return [shortname(entry["id"]) for entry in self._process.tool["inputs"]]

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return [shortname(entry["id"]) for entry in self._process.tool["outputs"]]

    def __call__(self, **inputs: Any) -> Any:
        """Return the promise of a run with these inputs.

        Raises
        ------
        TypeError
            If there is no input of that name, or a required input is missing.
        """
        self._check(inputs)
        name = shortname(self._process.tool["id"])
        return _run.options(name=name)(self._part, imported(_with_imports(self._sealed(inputs))), self._part.digest)

    def _sealed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        hidden = {name: EncryptedSecrets().add(inputs[name]) for name in secret_inputs(self._process) if name in inputs}
        return {**inputs, **hidden}

    def _check(self, inputs: Mapping[str, Any]) -> None:
        known = {shortname(entry["id"]): entry for entry in self._process.tool["inputs"]}
        for name in inputs:
            if name not in known:
                raise TypeError(f"{self!r} has no input {name!r}; its inputs are {', '.join(known) or 'none'}")
        for name, entry in known.items():
            if name not in inputs and "default" not in entry and "null" not in entry["type"]:
                raise TypeError(f"{self!r} needs the input {name!r}")

    def __repr__(self) -> str:
        return f"<CWL {self._process.tool['class']} {shortname(self._process.tool['id'])}>"


def _with_imports(value: Any) -> Any:
    """Replace paths in an input by promises of imported files."""
    if isinstance(value, Path):
        return import_directory(value) if value.is_dir() else import_file(value)
    if isinstance(value, Mapping):
        return {name: _with_imports(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_imports(item) for item in value]
    return value


@task(name="cwl", version="1", **LIGHT)
def _run(part: Part, inputs: dict[str, Any], document: str) -> Any:
    """Run a process with Python values.

    This is a task of its own so that steps with the same name in two documents of one workflow get different ids.
    """
    return _pythonic(steps.call(part, _as_cwl(inputs)))


def _as_cwl(value: Any) -> Any:
    if isinstance(value, (File, Directory)):
        return {"class": type(value).__name__, "location": value, "basename": value.name}
    if isinstance(value, dict):
        return {name: _as_cwl(item) for name, item in value.items()}
    return [_as_cwl(item) for item in value] if isinstance(value, (list, tuple)) else value


@task(name="outputs", version="1", **LIGHT)
def _pythonic(outputs: dict[str, Any]) -> dict[str, Any]:
    """Return outputs with files and directories instead of CWL objects."""
    result: dict[str, Any] = map_objects(outputs, _handle)
    return result


def _handle(found: dict[str, Any]) -> Any:
    location = found.get("location")
    if isinstance(location, (File, Directory)):
        return location
    path = current().temp_dir / found["basename"]
    if found["class"] == "File":
        path.write_text(found.get("contents", ""))
        return path
    return Directory(found["basename"], tuple(found.get("listing", ())))
