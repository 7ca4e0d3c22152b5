"""Inputs that a tool reads once, in order (``streamable: true``): through named pipes, without local copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from cwltool.context import RuntimeContext
from cwltool.process import Process, shortname

from toilfn.cwl.values import Places
from toilfn.files.file import File, needed_task_files, store_of

__all__ = ["streamed"]


@contextmanager
def streamed(tool: Process, job: dict[str, Any], places: Places, context: RuntimeContext) -> Iterator[dict[str, Any]]:
    """Return the inputs of a tool with named pipes as locations of its streamable files, which work in the block.

    A file with an object of its own on this machine is linked, which is quicker. At the end of the block, an error in
    reading a file is raised, since the tool may have taken the end of its pipe for the end of the file.

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
    from toilfn.files.pipes import Pipe

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
            with suppress(Exception):  # the tool's own error says more
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
