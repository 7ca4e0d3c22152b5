"""Import a run's input files into the store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cwltool.context import RuntimeContext
from cwltool.errors import WorkflowException
from cwltool.process import Process
from cwltool.update import ORIGINAL_CWLVERSION
from cwltool.workflow import Workflow
from schema_salad.ref_resolver import file_uri

from toilfn.cwl.values import Places, local_path, map_objects, objects
from toilfn.files.exchange import import_directory, import_file

__all__ = ["document_files", "imported", "resolved"]

_REQUIREMENTS = "https://w3id.org/cwl/cwl#requirements"


def resolved(process: Process, job: dict[str, Any], context: RuntimeContext) -> dict[str, Any]:
    """Check a run's inputs, fill in defaults and find secondary files.

    Raises
    ------
    cwltool.errors.WorkflowException
        If an input is missing or has the wrong type. The message is cwltool's.
    """
    _add_requirements(process, job)
    context = context.copy()
    context.toplevel = True
    context.outdir = context.tmpdir = context.stagedir = "/nowhere"
    places = Places()
    context.make_fs_access = places.access  # type: ignore[assignment]  # a function works as well as a class
    plain: dict[str, Any] = places.unescaped(job)  # copying ruamel's lists takes quadratic time
    try:
        found = process._init_job(plain, context).job
    except WorkflowException:
        found = process._init_job(job, context).job  # its errors have line numbers
    return {name: map_objects(value, _located) for name, value in found.items()}


def _located(found: dict[str, Any]) -> dict[str, Any]:
    """Turn a path back into a URL, and correct the class of a secondary file that is a directory."""
    location = found.get("location")
    if isinstance(location, str) and location.startswith("/"):
        found["location"] = file_uri(location)
        if found["class"] == "File" and os.path.isdir(location):
            found["class"] = "Directory"
    return found


def _add_requirements(process: Process, job: dict[str, Any]) -> None:
    """Add the requirements in an input object (CWL v1.1 and later, "cwl:requirements")."""
    defaults = process.metadata.get("cwl:defaults")
    given: Any = job.pop(_REQUIREMENTS, None) or (defaults.get(_REQUIREMENTS) if isinstance(defaults, dict) else None)
    if not given:
        return
    if process.metadata.get(ORIGINAL_CWLVERSION) == "v1.0":
        raise WorkflowException("cwl:requirements in an input object need a CWL document of version v1.1 or later")
    process.requirements.extend(given)


def imported(job: dict[str, Any], *, bypass: bool = False) -> dict[str, Any]:
    """Return inputs with promises of imported files as locations; with `bypass`, local files stay in place."""
    made: dict[str, Any] = {}

    def bring(found: dict[str, Any]) -> dict[str, Any]:
        location = found.get("location")
        if bypass and local_path(location) is not None:
            return found
        if isinstance(location, str) and not location.startswith("_:"):
            if location not in made:
                made[location] = _import(found["class"], location)
            found["location"] = made[location]
            if found["class"] == "Directory":
                found.pop("listing", None)
        elif isinstance(location, str):
            del found["location"]
        for name in ("path", "dirname", "nameroot", "nameext"):
            found.pop(name, None)
        return found

    result: dict[str, Any] = map_objects(job, bring)
    return result


def document_files(process: Process) -> dict[str, Any]:
    """Return promises of the files that documents refer to, by location: defaults, and files to stage."""
    found = {
        entry["location"]: entry["class"]
        for part in _parts(process)
        for entry in objects(part)
        if (path := local_path(entry.get("location"))) is not None and path.exists()
    }
    return {location: _import(kind, location) for location, kind in sorted(found.items())}


def _parts(process: Process) -> Iterator[Any]:
    yield from (process.tool, process.requirements, process.hints)
    for step in process.steps if isinstance(process, Workflow) else ():
        yield step.tool
        yield from _parts(step.embedded_tool)


def _import(kind: str, location: str) -> Any:
    source: str | Path = local_path(location) or location
    return import_directory(source) if kind == "Directory" else import_file(source)
