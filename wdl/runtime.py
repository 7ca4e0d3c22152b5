"""What a task's runtime section asks for, in the words of `toilfn.task`.

Names are those of the WDL specifications (draft-2 and 1.0 "Runtime Section", 1.1 "Runtime Section", 1.2 "Requirements
Section" and "Hints"), and what Cromwell, miniwdl and Toil add to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from WDL import Env, Tree, Value

from toilfn.errors import ResourceError
from toilfn.units import parse_duration, parse_size
from toilfn.wdl.language import identifiers, ordered
from toilfn.wdl.library import Library
from toilfn.wdl.problems import WDLError, located, where

__all__ = ["Runtime", "runtime_of"]


@dataclass(frozen=True)
class Runtime:
    """What a call of a task asks for.

    Attributes
    ----------
    options : dict
        Of `toilfn.task`.
    image : str or None
        The container's.
    return_codes : tuple of int or None
        Exit statuses that mean success; None for all.
    mount_points : tuple of str
        Where in the container there are disks of its own.
    """

    options: dict[str, Any] = field(default_factory=dict)
    image: str | None = None
    return_codes: tuple[int, ...] | None = (0,)
    mount_points: tuple[str, ...] = ()


def runtime_of(
    task: Tree.Task, env: Env.Bindings[Value.Base], library: Library, overrides: Mapping[str, Any]
) -> Runtime:
    """Evaluate a task's runtime section.

    Parameters
    ----------
    task : WDL.Tree.Task
    env : Env.Bindings
        Its inputs; declarations that the section needs are evaluated here.
    library : Library
    overrides : mapping
        Plain values that were given with the inputs and win.

    Raises
    ------
    WDLError
        If an attribute has a value that it cannot have.
    """
    env = _with_declarations(task, env, library)
    values: dict[str, Any] = {}
    for name, expr in task.runtime.items():
        with located(expr):
            values[_name(name)] = expr.eval(env, library).json
    values.update((_name(name), value) for name, value in overrides.items())
    try:
        codes = _return_codes(values.get("returnCodes", 0))
        return Runtime(_options(values), _image(values), codes, _mount_points(values.get("disks")))
    except (ResourceError, ValueError, TypeError) as error:
        raise WDLError(f"{where(task.runtime_section_pos or task)}: runtime of task {task.name}: {error}") from error


_LEAST_MEMORY = 256 * 2**20
"""Bytes: batch systems count the worker, too, that puts files into place and evaluates outputs."""

_OTHER_NAMES = {
    "container": "docker",
    "return_codes": "returnCodes",
    "max_retries": "maxRetries",
    "max_cpu": "maxCpu",
    "max_memory": "maxMemory",
    "disk": "disks",
    "gpuCount": "gpu",
    "acceleratorCount": "gpu",
    "time_minutes": "runtime_minutes",
}


def _name(name: str) -> str:
    return _OTHER_NAMES.get(name, name)


def _with_declarations(task: Tree.Task, env: Env.Bindings[Value.Base], library: Library) -> Env.Bindings[Value.Base]:
    """Evaluate those of a task's declarations that its runtime section needs."""
    decls = {decl.name: decl for decl in (*(task.inputs or []), *task.postinputs)}
    wanted: set[str] = set()
    stack = [referee for expr in task.runtime.values() for referee in identifiers(expr)]
    while stack:
        name = getattr(stack.pop(), "name", None)
        if name in decls and name not in wanted:
            wanted.add(name)
            stack.extend(identifiers(decls[name].expr))
    for decl in ordered(decls[name] for name in decls if name in wanted):
        if not env.has_binding(decl.name):
            with located(decl):
                value = decl.expr.eval(env, library).coerce(decl.type) if decl.expr else Value.Null()
            env = env.bind(decl.name, value)
    return env


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        "cores": _cores(values.get("cpu")),
        "memory": _memory(values.get("memory")),
        "disk": _disk(values.get("disks")),
        "accelerators": _accelerators(values),
        "walltime": _walltime(values),
        "preemptible": _preemptible(values.get("preemptible")),
        "retries": _retries(values),
    }
    return {name: value for name, value in found.items() if value is not None}


def _cores(value: Any) -> float | None:
    return None if value is None else max(0.1, float(value))


def _memory(value: Any) -> int | None:
    return None if value is None else max(parse_size(value), _LEAST_MEMORY)


_DISK = re.compile(r"(?:(?P<place>\S*[^\s\d.]\S*)\s+)?(?P<size>[\d.]+)\s*(?P<unit>[A-Za-z]*)")
_GOOGLE = ("HDD", "SSD", "LOCAL")


def _disk(value: Any) -> int | None:
    """Add up disks: ``10`` GiB, ``"10 GB"``, ``"/mnt/x 10 SSD"``, ``"local-disk 10 HDD"``, or a list of these."""
    return None if value is None else sum(_size_of(disk) for disk in _disks(value))


def _mount_points(value: Any) -> tuple[str, ...]:
    """Give the places of disks that have one (1.2, "disks"): others are where the command runs."""
    return tuple(disk["place"] for disk in _disks(value) if (disk["place"] or "").startswith("/"))


def _disks(value: Any) -> Iterator[re.Match[str]]:
    parts = [] if value is None else value if isinstance(value, list) else str(value).split(",")
    for part in parts:
        match = _DISK.fullmatch(str(part).strip())
        if match is None:
            raise ResourceError(f"disks: {part!r} is not a size; write for example '10 GiB' or 'local-disk 10 SSD'")
        yield match


def _size_of(disk: re.Match[str]) -> int:
    unit = disk["unit"]
    return parse_size(f"{disk['size']}{'GiB' if not unit or unit.upper() in _GOOGLE else unit}")


def _accelerators(values: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Read ``gpu`` (true or a number), with ``gpuType`` or ``acceleratorType`` for the model."""
    wanted = values.get("gpu")
    count = int(wanted) if isinstance(wanted, (bool, int, float)) else 0
    if isinstance(wanted, str):
        count = int(wanted) if wanted.isdigit() else int(wanted.lower() == "true")
    if not count:
        return None
    model = values.get("gpuType") or values.get("acceleratorType")
    return [{"count": count, "kind": "gpu", **({"model": model} if model else {})}]


def _walltime(values: Mapping[str, Any]) -> float | None:
    """Read ``timeout`` (a duration), or the minutes of ``runtime_minutes`` and ``time_minutes``."""
    if values.get("runtime_minutes") is not None:
        return 60.0 * float(values["runtime_minutes"])
    return None if values.get("timeout") is None else parse_duration(values["timeout"])


def _preemptible(value: Any) -> bool | None:
    """Read ``preemptible``: how many times a machine that can be taken away may be tried."""
    return None if value is None else bool(int(value))


def _retries(values: Mapping[str, Any]) -> dict[str, int] | int | None:
    retries, preemptions = values.get("maxRetries"), values.get("preemptible")
    if retries is None and not preemptions:
        return None
    count = max(0, int(retries or 0))
    return {"error": count, "memory": count, **({"preempted": max(1, int(preemptions))} if preemptions else {})}


def _image(values: Mapping[str, Any]) -> str | None:
    image = values.get("docker")
    if isinstance(image, list):
        image = image[0] if image else None
    if image is None or image in ("*", ""):
        return None
    return str(image)


def _return_codes(value: Any) -> tuple[int, ...] | None:
    if value == "*":
        return None
    return tuple(int(code) for code in (value if isinstance(value, list) else [value]))
