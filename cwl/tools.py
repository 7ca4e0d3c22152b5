"""Running one CommandLineTool or ExpressionTool, by cwltool's machinery, on this machine."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cwltool.errors import UnsupportedRequirement, WorkflowException
from cwltool.loghandler import _logger
from cwltool.process import Process, shortname

from toilfn.context import current
from toilfn.cwl.documents import Part
from toilfn.cwl.reuse import allows_cache
from toilfn.cwl.values import Places, local_path, map_objects, objects
from toilfn.directory import Directory
from toilfn.errors import PermanentError
from toilfn.files import File, needed_session
from toilfn.filing.session import Session

__all__ = ["ToolError", "UnsupportedError", "run_here"]


class ToolError(Exception):
    """A tool has failed; another attempt may succeed."""


class FinalToolError(ToolError, PermanentError):
    """A tool has failed, and would again."""


class UnsupportedError(FinalToolError):
    """A tool requires what this runner, as it was started, does not do."""


def run_here(part: Part, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run a tool with these inputs, in the running task.

    Parameters
    ----------
    part : Part
        The tool.
    job : mapping
        Inputs by short name, as they are between tasks.

    Returns
    -------
    dict
        Outputs by short name, as they are between tasks.

    Raises
    ------
    ToolError
        If it fails.
    PermanentError
        If it fails with an exit code that does not stand for a temporary failure.
    """
    places = Places(part.files)
    tool = _with_files(part.process, places)
    inputs = places.local(_with_defaults(tool, job))
    engine = part.document.engine
    context = engine.context(current().temp_dir)
    if context.cachedir and not allows_cache(part, job):
        context.cachedir = None
    outputs = _run(tool, inputs, context)
    return outputs_of(outputs, places, keep=bool(engine.shared))


def outputs_of(outputs: Any, places: Places, *, keep: bool) -> dict[str, Any]:
    """Put what a tool gave into the store; with `keep`, leave files where they are."""
    stored: dict[str, Any] = places.stored(outputs)
    if keep:
        return stored
    session = needed_session("a CWL tool")
    # Directories first: a file that is in one of them, too, is moved into the store only then.
    handles = {}
    for kind in ("Directory", "File"):
        for found in objects(stored):
            path = local_path(found.get("location"))
            if found["class"] == kind and path is not None:
                handles[found["location"]] = _stored(path, session)

    def exchange(found: dict[str, Any]) -> dict[str, Any]:
        if found.get("location") in handles:
            found["location"] = handles[found["location"]]
        return found

    result: dict[str, Any] = map_objects(stored, exchange)
    return result


def _stored(path: Path, session: Session) -> File | Directory:
    """Move an output into the store; what is in cwltool's cache of calls is copied."""
    if path.is_relative_to(session.temp_dir()):
        adopted: File | Directory = session.adopt(path)
        return adopted
    return session.import_tree(path) if path.is_dir() else session.put(path)


def _run(tool: Process, inputs: dict[str, Any], context: Any) -> dict[str, Any]:
    ended: list[tuple[Any, str]] = []
    _logger.handlers.clear()  # cwltool's own; the task's log has what it says by the usual way
    try:
        for job in tool.job(inputs, lambda outputs, status: ended.append((outputs, status)), context):
            if job is not None:
                job.run(context)
    except UnsupportedRequirement as error:
        raise UnsupportedError(f"{_name(tool)} requires what is not supported: {error}") from None
    except WorkflowException as error:
        raise FinalToolError(f"{_name(tool)}: {error}") from None
    outputs, status = ended[-1] if ended else (None, "permanentFail")
    if status == "success":
        return dict(outputs or {})
    if status == "temporaryFail":
        raise ToolError(f"{_name(tool)} failed for now ({status}): its log says why")
    raise FinalToolError(f"{_name(tool)} failed ({status}): its log says why")


def _with_files(tool: Process, places: Places) -> Process:
    """Give the tool with local copies of files that it refers to itself, outside of its inputs' defaults."""
    text = [tool.requirements, tool.hints]
    if not any(places.find(found.get("location", "")) for found in objects(text)):
        return tool
    mine = copy.copy(tool)
    mine.requirements, mine.hints = copy.deepcopy(tool.requirements), copy.deepcopy(tool.hints)
    for found in objects([mine.requirements, mine.hints]):
        found["location"] = places.local({"class": found["class"], "location": found.get("location")})["location"]
    return mine


def _with_defaults(tool: Process, job: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(job)
    for entry in tool.tool["inputs"]:
        name = shortname(entry["id"])
        if given.get(name) is None and "default" in entry:
            given[name] = copy.deepcopy(entry["default"])
    return given


def _name(tool: Process) -> str:
    return shortname(tool.tool["id"]) or Path(tool.tool["id"]).name
