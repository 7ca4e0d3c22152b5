"""Translate CWL's ResourceRequirement into the options of a task.

See CWL v1.2, CommandLineTool, section 5.9 (ResourceRequirement): cores may be fractional; ram, tmpdir and outdir are in
mebibytes. A tool without the requirement gets the defaults of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cwltool.builder import Builder
from cwltool.process import Process

from toilfn.cwl.documents import Part
from toilfn.cwl.values import Places, with_defaults

__all__ = ["LIGHT", "builder_of", "needs_inputs", "options_of"]

MEBIBYTE = 2**20
LIGHT: dict[str, Any] = {"cores": 0.1, "memory": 256 * MEBIBYTE, "disk": 64 * MEBIBYTE}
"""The requirements of tasks that only process values."""

WORKER = 256 * MEBIBYTE
"""Memory of the process around the tool, which batch systems and the local cluster count with the tool."""

_CUDA = "http://commonwl.org/cwltool#CUDARequirement"
_FIELDS = ("coresMin", "coresMax", "ramMin", "ramMax", "tmpdirMin", "tmpdirMax", "outdirMin", "outdirMax")


def needs_inputs(process: Process) -> bool:
    """Return whether the requirements of a tool depend on its inputs, because they contain expressions."""
    wanted = _wanted(process)
    return any(isinstance(value, str) and ("$(" in value or "${" in value) for value in wanted.values())


def options_of(part: Part, job: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the options of a tool's task.

    Parameters
    ----------
    part : Part
        The tool.
    job : mapping, optional
        The inputs of the tool, if `needs_inputs` is true.
    """
    process = part.process
    wanted = _wanted(process)
    if not wanted or process.tool["class"] == "ExpressionTool":
        return dict(LIGHT) if process.tool["class"] == "ExpressionTool" else {}
    amounts = _plain(wanted) if job is None or not needs_inputs(process) else builder_of(part, job).resources
    return _options(wanted, amounts)


def _wanted(process: Process) -> dict[str, Any]:
    resources, _ = process.get_requirement("ResourceRequirement")
    cuda, _ = process.get_requirement(_CUDA)
    given = {name: resources[name] for name in _FIELDS if resources and resources.get(name) is not None}
    if cuda:
        given["cudaDeviceCount"] = cuda.get("cudaDeviceCountMin", cuda.get("cudaDeviceCountMax", 1))
    return given


def _plain(wanted: Mapping[str, Any]) -> dict[str, float]:
    amounts: dict[str, float] = {"cudaDeviceCount": wanted.get("cudaDeviceCount", 0)}
    for ours, theirs in (("cores", "cores"), ("ram", "ram"), ("tmpdirSize", "tmpdir"), ("outdirSize", "outdir")):
        least = wanted.get(f"{theirs}Min", wanted.get(f"{theirs}Max"))
        if least is not None:
            amounts[ours] = least
    return amounts


def builder_of(part: Part, job: Mapping[str, Any]) -> Builder:
    """Return a builder that evaluates a tool's expressions before it runs, when files have names but no paths."""
    places = Places(part.files)
    context = part.document.tool_options.context(Path("/nowhere"))
    context.make_fs_access = places.access  # type: ignore[assignment]  # a function works as well as a class
    context.outdir = context.tmpdir = context.stagedir = "/nowhere"
    return part.process._init_job(places.named(with_defaults(part.process, job)), context)


def _options(wanted: Mapping[str, Any], amounts: Mapping[str, float]) -> dict[str, Any]:
    """Convert the amounts in the document to options."""
    options: dict[str, Any] = {}
    if "coresMin" in wanted or "coresMax" in wanted:
        options["cores"] = float(amounts["cores"])
    if "ramMin" in wanted or "ramMax" in wanted:
        options["memory"] = math.ceil(amounts["ram"]) * MEBIBYTE + WORKER
    disk = sum(
        amounts[ours]
        for ours, theirs in (("tmpdirSize", "tmpdir"), ("outdirSize", "outdir"))
        if f"{theirs}Min" in wanted or f"{theirs}Max" in wanted
    )
    if disk:
        options["disk"] = math.ceil(disk) * MEBIBYTE
    if count := int(amounts.get("cudaDeviceCount") or 0):
        options["accelerators"] = f"nvidia:{count}"
    return options
