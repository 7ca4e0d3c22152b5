"""Translate a task's runtime section into options of `toilfn.task`.

The attributes are those of the WDL specifications (draft-2, 1.0 and 1.1 "Runtime Section", 1.2 "Requirements Section"
and "Hints"), and those that Cromwell, miniwdl and Toil add.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar

from WDL import Env, Tree, Value

from toilfn.errors import ResourceError
from toilfn.units import parse_duration, parse_size
from toilfn.wdl.language import identifiers, ordered
from toilfn.wdl.library import Library
from toilfn.wdl.problems import WDLError, located, where
from toilfn.wdl.shared import SharedValue

__all__ = ["Machine", "Runtime", "check_override", "needed", "runtime_of"]

T = TypeVar("T")


@dataclass(frozen=True)
class Runtime(SharedValue):
    """The runtime attributes of a call.

    Attributes
    ----------
    options : dict
        Options of `toilfn.task`.
    image : str or None
        The container image.
    return_codes : tuple of int or None
        Exit statuses that mean success; None means all.
    mount_points : tuple of str
        Mount points of disks in the container.
    fail_on_stderr : bool
        Whether output on standard error means failure (``failOnStderr`` of Cromwell).
    """

    options: dict[str, Any] = field(default_factory=dict)
    image: str | None = None
    return_codes: tuple[int, ...] | None = (0,)
    mount_points: tuple[str, ...] = ()
    fail_on_stderr: bool = False

    def counts(self) -> tuple[Any, ...]:
        """Return the attributes that affect results; a different memory request does not make a call run again."""
        return self.image, self.return_codes, self.mount_points, self.fail_on_stderr


def runtime_of(
    task: Tree.Task,
    env: Env.Bindings[Value.Base],
    library: Library,
    overrides: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> Runtime:
    """Evaluate a task's runtime section.

    Parameters
    ----------
    task : WDL.Tree.Task
    env : Env.Bindings
        The inputs of the task. Declarations that the section needs are evaluated here.
    library : Library
        The standard library.
    overrides : mapping
        Plain values given with the inputs, which take precedence.
    defaults : mapping, optional
        Plain values for attributes that the section does not have.

    Raises
    ------
    WDLError
        If an attribute has an invalid value.
    """
    env = _with_declarations(task, env, library)
    values = {_name(name): value for name, value in (defaults or {}).items()}
    for name, expr in task.runtime.items():
        with located(expr):
            values[_name(name)] = expr.eval(env, library).json
    values.update((_name(name), value) for name, value in overrides.items())
    try:
        return _read(values)
    except (ResourceError, ValueError, TypeError) as error:
        raise WDLError(f"{where(task.runtime_section_pos or task)}: runtime of task {task.name}: {error}") from error


def check_override(section: str, name: str, value: Any) -> None:
    """Refuse an invalid value for a runtime attribute among the inputs.

    Parameters
    ----------
    section : {"runtime", "requirements", "hints"}
        Requirements have a fixed set of names (1.2, "Requirements Section"). The other sections may have any names, and
        hints may have any value ("Hints Section": a task does not fail because of an unknown hint).
    name : str
    value : object
        The value parsed from JSON.

    Raises
    ------
    ResourceError
        If the value is invalid.
    """
    if section == "hints":
        return
    if section == "requirements" and name not in _REQUIREMENTS:
        near = get_close_matches(name, _REQUIREMENTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(_REQUIREMENTS)}"
        raise ResourceError(f"unknown requirement {name!r}{hint}")
    _read({_name(name): value})


def _read(values: Mapping[str, Any]) -> Runtime:
    given = {name: value for name, value in values.items() if value is not None}
    if "inlineDockerfile" in given and "docker" not in given:
        raise ResourceError("inlineDockerfile is not supported", hint="build the image and set runtime.docker")
    codes = _parsed(given, "returnCodes", _return_codes) if "returnCodes" in given else (0,)
    points = _parsed(given, "disks", _mount_points) or ()
    fail_on_stderr = _parsed(given, "failOnStderr", _flag) or False
    return Runtime(_options(given), _parsed(given, "docker", _image), codes, points, fail_on_stderr)


def _parsed(values: Mapping[str, Any], name: str, read: Callable[[Any], T]) -> T | None:
    """Parse an attribute, if it is present."""
    if name not in values:
        return None
    try:
        return read(values[name])
    except ResourceError:
        raise
    except (ValueError, TypeError):
        raise ResourceError(f"{name} cannot be {json.dumps(values[name])}") from None


_LEAST_MEMORY = 256 * 2**20
"""Minimum memory in bytes, since batch systems also count the worker, which links files and evaluates outputs."""

_REQUIREMENTS = (
    "container", "cpu", "disks", "fpga", "gpu", "max_retries", "memory", "return_codes",
    "docker", "maxRetries", "returnCodes",
)  # fmt: skip
"""The names of requirements; WDL 1.2 still allows the last three, which are the names of earlier versions."""

_OTHER_NAMES = {
    "container": "docker",
    "return_codes": "returnCodes",
    "continueOnReturnCode": "returnCodes",
    "max_retries": "maxRetries",
    "max_cpu": "maxCpu",
    "max_memory": "maxMemory",
    "disk": "disks",
    "gpuCount": "gpu",
    "acceleratorCount": "gpu",
    "time_minutes": "runtime_minutes",
    "short_task": "shortTask",
}


def _name(name: str) -> str:
    return _OTHER_NAMES.get(name, name)


def needed(task: Tree.Task) -> list[str]:
    """Return the names of the declarations that a task's runtime section needs, in the order of their evaluation."""
    decls = {decl.name: decl for decl in (*(task.inputs or []), *task.postinputs)}
    wanted: set[str] = set()
    stack = [referee for expr in task.runtime.values() for referee in identifiers(expr)]
    while stack:
        name = getattr(stack.pop(), "name", None)
        if name in decls and name not in wanted:
            wanted.add(name)
            stack.extend(identifiers(decls[name].expr))
    return [decl.name for decl in ordered(decls[name] for name in decls if name in wanted)]


def _with_declarations(task: Tree.Task, env: Env.Bindings[Value.Base], library: Library) -> Env.Bindings[Value.Base]:
    """Evaluate the declarations that a task's runtime section needs."""
    decls = {decl.name: decl for decl in (*(task.inputs or []), *task.postinputs)}
    for decl in (decls[name] for name in needed(task)):
        if not env.has_binding(decl.name):
            with located(decl):
                value = decl.expr.eval(env, library).coerce(decl.type) if decl.expr else Value.Null()
            env = env.bind(decl.name, value)
    return env


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        "cores": _parsed(values, "cpu", _cores),
        "memory": _parsed(values, "memory", _memory),
        "disk": _parsed(values, "disks", _disk),
        "accelerators": _accelerators(values),
        "walltime": _walltime(values),
        "preemptible": _preemptible(values),
        "retries": _retries(values),
    }
    return {name: value for name, value in found.items() if value is not None}


def _cores(value: Any) -> float:
    return max(0.1, float(value))


def _memory(value: Any) -> int:
    return max(parse_size(value), _LEAST_MEMORY)


_DISK = re.compile(r"(?:(?P<place>\S*[^\s\d.]\S*)\s+)?(?P<size>[\d.]+)\s*(?P<unit>[A-Za-z]*)")
_GOOGLE = ("HDD", "SSD", "LOCAL")


def _disk(value: Any) -> int:
    """Add up disks: ``10`` GiB, ``"10 GB"``, ``"/mnt/x 10 SSD"``, ``"local-disk 10 HDD"``, or a list of these."""
    total = sum(_size_of(disk) for disk in _disks(value))
    return max(total, 2**20) if total else 0


def _mount_points(value: Any) -> tuple[str, ...]:
    """Return the mount points of disks that have one (1.2, "disks"); others are in the working directory."""
    return tuple(disk["place"] for disk in _disks(value) if (disk["place"] or "").startswith("/"))


def _disks(value: Any) -> Iterator[re.Match[str]]:
    for part in value if isinstance(value, list) else str(value).split(","):
        match = _DISK.fullmatch(str(part).strip())
        if match is None:
            raise ResourceError(
                f"disks: {part!r} is not a size", hint="write for example '10 GiB' or 'local-disk 10 SSD'"
            )
        yield match


def _size_of(disk: re.Match[str]) -> int:
    unit = disk["unit"]
    return parse_size(f"{disk['size']}{'GiB' if not unit or unit.upper() in _GOOGLE else unit}")


def _accelerators(values: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Parse ``gpu`` (true or a number), with ``gpuType`` or ``acceleratorType`` for the model."""
    count = _parsed(values, "gpu", _count)
    if not count:
        return None
    model = values.get("gpuType") or values.get("acceleratorType")
    return [{"count": count, "kind": "gpu", **({"model": model} if model else {})}]


def _count(value: Any) -> int:
    return int(value.lower() == "true") if isinstance(value, str) and not value.isdigit() else int(value)


def _walltime(values: Mapping[str, Any]) -> float | None:
    """Parse ``timeout`` (a duration), or the minutes in ``runtime_minutes`` and ``time_minutes``; 0 means none."""
    minutes = _parsed(values, "runtime_minutes", float)
    return (_parsed(values, "timeout", parse_duration) if minutes is None else 60.0 * minutes) or None


def _preemptible(values: Mapping[str, Any]) -> bool | None:
    """Parse ``preemptible``, the number of attempts on preemptible machines, or the hint ``short_task``."""
    preemptions = _parsed(values, "preemptible", int)
    if preemptions is None:
        return True if values.get("shortTask") is True else None
    return bool(preemptions)


def _retries(values: Mapping[str, Any]) -> dict[str, int] | None:
    retries, preemptions = _parsed(values, "maxRetries", int), _parsed(values, "preemptible", int)
    if retries is None and not preemptions:
        return None
    count = max(0, retries or 0)
    return {"error": count, "memory": count, **({"preempted": max(1, preemptions)} if preemptions else {})}


def _image(value: Any) -> str | None:
    """Parse an image, or the first of a list; ``"*"`` means any image."""
    image = next(iter(value), None) if isinstance(value, list) else value
    if not isinstance(image, str | None):
        raise TypeError(image)
    return None if image in ("*", "") else image


def _return_codes(value: Any) -> tuple[int, ...] | None:
    """Parse one exit status, several, or all (``"*"``), or the boolean value of ``continueOnReturnCode``."""
    if value == "*" or _truth(value) is True:
        return None
    if _truth(value) is False:
        return (0,)
    return tuple(int(code) for code in (value if isinstance(value, list) else [value]))


def _truth(value: Any) -> bool | None:
    """Parse ``true`` or ``"true"``; return None for a value that is neither true nor false."""
    return {"true": True, "false": False}.get(str(value).lower())


def _flag(value: Any) -> bool:
    found = _truth(value)
    if found is None:
        raise ValueError(value)
    return found


@dataclass(frozen=True)
class Machine(SharedValue):
    """The options for running commands.

    Attributes
    ----------
    container : str
        "auto", the name of an engine, or "none".
    image : str
        The image for tasks that name none.
    copy_inputs : bool
        Whether commands get copies of their inputs that they may change.
    cache : str or None
        The directory of the cache of finished calls for other runs.
    all_outputs : bool
        Whether the outputs of all calls become outputs of the workflow.
    as_root : bool
        Whether commands run as root in their containers instead of as the current user.
    defaults : mapping
        Runtime attributes for tasks that do not have them.
    most : mapping
        Upper limits for the ``cores`` and ``memory`` (in bytes) of tasks.
    """

    __toilfn_lineage__: ClassVar[bool] = False

    container: str = "auto"
    image: str = "ubuntu:22.04"
    copy_inputs: bool = False
    cache: str | None = None
    all_outputs: bool = False
    as_root: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)

    def counts(self) -> tuple[Any, ...]:
        """Return the options that affect results, or the requirements of the tasks that a workflow creates."""
        return self.image, self.all_outputs, dict(self.defaults), dict(self.most)

    @property
    def of_command(self) -> Machine:
        """The options that a command needs when it runs, without those from which its requirements were computed."""
        return replace(self, defaults={}, most={})

    def limited(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a task's options, reduced to the limits."""
        return {name: min(value, self.most[name]) if name in self.most else value for name, value in options.items()}
