"""Run one CommandLineTool or ExpressionTool with cwltool on this machine."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cwltool.command_line_tool import ExpressionJob
from cwltool.context import RuntimeContext
from cwltool.errors import UnsupportedRequirement, WorkflowException
from cwltool.loghandler import _logger
from cwltool.process import Process, shortname
from schema_salad.exceptions import ValidationException

from toilfn.containers.process import end_leftovers
from toilfn.cwl.documents import Part
from toilfn.cwl.reuse import allows_cache
from toilfn.cwl.values import Places, local_path, map_objects, objects, with_defaults
from toilfn.errors import InputError, PermanentError, SerializationError, ToilfnError
from toilfn.files.directory import Directory
from toilfn.files.file import File, needed_task_files, store_of
from toilfn.files.task_files import TaskFiles
from toilfn.worker.context import current

__all__ = ["ToolError", "UnsupportedError", "run_here", "streamed"]


class ToolError(ToilfnError):
    """A tool failed; another attempt may succeed."""

    is_explained = True


class FinalToolError(ToolError, PermanentError):
    """A tool failed, and would fail again."""


class UnsupportedError(FinalToolError):
    """A tool requires a feature that this runner, with these options, does not support."""


def run_here(part: Part, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run a tool with these inputs, in the running task.

    Parameters
    ----------
    part : Part
        The tool.
    job : mapping
        Inputs by short name, in the form used between tasks.

    Returns
    -------
    dict
        Outputs by short name, in the form used between tasks.

    Raises
    ------
    ToolError
        If the tool fails temporarily.
    PermanentError
        If the tool fails with an exit code that does not mean a temporary failure.
    """
    places = Places(part.files)
    tool = _with_files(part.process, places)
    tool_options = part.document.tool_options
    context = tool_options.context(current().temp_dir)
    context.make_fs_access = places.access  # type: ignore[assignment]  # a function works as well as a class
    if context.cachedir and not allows_cache(part, job):
        context.cachedir = None
    with _explained(tool), streamed(tool, with_defaults(tool, job), places, context) as given:
        inputs = places.local(given)
        outputs = places.stored(_run(tool, inputs, context))
        wanted = tool.get_requirement("DockerRequirement")[0] or context.default_container
        in_container = bool(context.use_container and wanted and tool.tool["class"] == "CommandLineTool")
        return _saved(outputs, inputs, context, is_shared=bool(tool_options.shared), in_container=in_container)


@contextmanager
def _explained(tool: Process) -> Iterator[None]:
    """Name the tool in the errors that the block raises.

    Raises
    ------
    FinalToolError
        If the block raises an error of cwltool, or one about inputs or serialization.
    """
    try:
        yield
    except ToolError:
        raise
    except UnsupportedRequirement as error:
        raise UnsupportedError(f"{_name(tool)} requires a feature that is not supported: {_text(error)}") from None
    except (WorkflowException, ValidationException, InputError) as error:
        raise FinalToolError(f"{_name(tool)}: {_text(error)}") from None
    except SerializationError as error:
        raise FinalToolError(f"{_name(tool)}: {_text(error.__cause__ or error)}") from None


def _text(error: BaseException) -> str:
    """Return an error's message without the column layout of cwltool."""
    return " ".join(str(error).split()) if isinstance(error, ValidationException) else str(error)


def _saved(
    outputs: dict[str, Any], inputs: Any, context: RuntimeContext, *, is_shared: bool, in_container: bool
) -> dict[str, Any]:
    """Move a tool's outputs into the store; if the machines share a directory, leave them there.

    Raises
    ------
    InputError
        If an output is neither an input nor in a directory of the tool.
    """
    session = needed_task_files("a CWL tool")
    cache, made = context.cachedir, os.path.dirname(context.tmp_outdir_prefix)
    allowed = [session.temp_dir(), Path(made), *([Path(cache)] if cache else [])]
    given = [path for found in objects(inputs) if (path := local_path(found.get("location"))) is not None]
    places = {}
    for found in objects(outputs):
        path = local_path(found.get("location"))
        if path is not None:
            places[found["location"]] = path
            _check_place(path, [*allowed, *given], follow=in_container)
    handles = {} if is_shared else _moved(places, session)

    def exchange(found: dict[str, Any]) -> dict[str, Any]:
        if found.get("location") in handles:
            found["location"] = handles[found["location"]]
        return found

    result: dict[str, Any] = map_objects(outputs, exchange)
    return result


def _moved(places: Mapping[str, Path], session: TaskFiles) -> dict[str, File | Directory]:
    """Move outputs into the store, each only once: an output inside another one is taken from that one."""
    handles: dict[str, File | Directory] = {}
    whole: dict[Path, Directory] = {}
    for location, path in sorted(places.items(), key=lambda item: len(item[1].parts)):
        above = next((folder for folder in (path, *path.parents) if folder in whole), None)
        if above is None:
            handles[location] = made = _stored(path, session)
        else:
            inner = path.relative_to(above).as_posix()
            handles[location] = made = whole[above] if inner == "." else whole[above][inner]
        if isinstance(made, Directory):
            whole[path] = made
    return handles


def _check_place(path: Path, allowed: Sequence[Path], *, follow: bool) -> None:
    """Refuse outputs outside the tool's directories; with `follow`, also links that lead out, as from a container."""
    place = Path(os.path.normpath(path))
    if not any(place.is_relative_to(folder) for folder in allowed):
        raise InputError(f"output {path} is not an input, and is not in the tool's output directory")
    if not follow:
        return
    known = [folder.resolve() for folder in allowed]
    inner = [place, *place.rglob("*")] if place.is_dir() else [place]
    for entry in inner:
        target = entry.resolve()
        if not any(target.is_relative_to(folder) for folder in known):
            raise InputError(f"output {entry.name} is a link to {target}, which the tool did not create")


def _stored(path: Path, session: TaskFiles) -> File | Directory:
    """Move an output into the store, or copy it if it is in cwltool's cache of calls."""
    if path.is_relative_to(session.temp_dir()):
        adopted: File | Directory = session.adopt(path)
        return adopted
    return session.import_tree(path) if path.is_dir() else session.put(path)


def _run(tool: Process, inputs: dict[str, Any], context: RuntimeContext) -> dict[str, Any]:
    ended: list[tuple[Any, str]] = []
    _logger.handlers.clear()  # without cwltool's handler, each message is written to the task's log only once
    for job in tool.job(inputs, lambda outputs, status: ended.append((outputs, status)), context):
        if job is not None:
            try:
                job.run(context)
            finally:
                if not isinstance(job, ExpressionJob):
                    end_leftovers(current().temp_dir)
    outputs, status = ended[-1] if ended else (None, "permanentFail")
    if status == "success":
        if not isinstance(outputs, Mapping | None):
            raise WorkflowException(f"the outputs must be an object with a value for each output, not {outputs!r}")
        return dict(outputs or {})
    if status == "temporaryFail":
        raise ToolError(f"{_name(tool)} failed with a temporary error, {status}; see its log")
    raise FinalToolError(f"{_name(tool)} failed with {status}; see its log")


def _with_files(tool: Process, places: Places) -> Process:
    """Return the tool with local copies of the files in its requirements and hints."""
    text = [tool.requirements, tool.hints]
    if not any(places.find(found.get("location", "")) for found in objects(text)):
        return tool
    mine = copy.copy(tool)
    mine.requirements, mine.hints = copy.deepcopy(tool.requirements), copy.deepcopy(tool.hints)
    for found in objects([mine.requirements, mine.hints]):
        found["location"] = places.local({"class": found["class"], "location": found.get("location")})["location"]
    return mine


def _name(tool: Process) -> str:
    return shortname(tool.tool["id"]) or Path(tool.tool["id"]).name


@contextmanager
def streamed(tool: Process, job: dict[str, Any], places: Places, context: RuntimeContext) -> Iterator[dict[str, Any]]:
    """Yield the inputs of a tool, with named pipes instead of its streamable files; the block may read the pipes.

    A file that the store keeps on this machine is linked instead, which is quicker. If a file cannot be read, the error
    is raised at the end of the block, since the tool may have taken the end of its pipe for the end of the file.

    Parameters
    ----------
    tool : Process
    job : dict
        Inputs by short name, in the form used between tasks.
    places : Places
        The places of the files of the tool.
    context : RuntimeContext
        The options with which the tool runs.
    """
    from toilfn.files.file import Pipe

    pipes: list[Pipe] = []
    inputs = dict(job)
    for name, file in _streamable(tool, job, places, context):
        folder = needed_task_files("a CWL tool").temp_dir() / "streams" / name
        folder.mkdir(parents=True)
        pipes.append(Pipe(file, folder / file.name))
        inputs[name] = places.piped(job[name], folder / file.name, file)
    try:
        yield inputs
    except BaseException:
        for pipe in pipes:
            with suppress(Exception):  # the error of the tool, which is being raised, is more precise
                pipe.finish()
        raise
    for pipe in pipes:
        pipe.finish()


def _streamable(
    tool: Process, job: Mapping[str, Any], places: Places, context: RuntimeContext
) -> Iterator[tuple[str, File]]:
    """Iterate over the inputs that the tool reads as streams, and that would have to be copied otherwise."""
    if not context.streaming_allowed or context.cachedir or tool.tool["class"] != "CommandLineTool":
        return
    if tool.get_requirement("InitialWorkDirRequirement")[0]:  # may copy its inputs
        return
    for entry in tool.tool["inputs"]:
        value = job.get(name := shortname(entry["id"]))
        if not entry.get("streamable") or entry.get("loadContents") or not isinstance(value, Mapping):
            continue
        file = places.file_of(value)
        if file is not None and not value.get("secondaryFiles") and store_of(file).local_file(file.ref) is None:
            yield name, file
