"""Check and merge the options of tasks, and translate them for the scheduler.

Options are kept as a plain dict that msgpack can write, so that a record can carry them:

=============  ==================================================================
cores          float
memory, disk   int, bytes
accelerators   list of ``[count, kind, model, brand, api]``
walltime       float, seconds
check_interval float, seconds; of services only
nout           int
retries        int, or dict of a cause's name to int (or None: without limit)
env            dict of str to str
name, version  str
intermediates  "keep" or "drop"
preemptible, checkpoint, local, delivers, double_memory, double_walltime    bool
=============  ==================================================================

None stands for the default. A requirement that is known only when the call's arguments are (a promise, or a
function of the arguments) is left as it is; `dynamic` finds those.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict

from toilfn.errors import InputError, ResourceError
from toilfn.ids import Budget, Cause
from toilfn.resources import Accelerator, Resources, parse_accelerators
from toilfn.text import checked_variables
from toilfn.units import parse_disk, parse_memory, parse_time_limit

if TYPE_CHECKING:
    from toilfn.config.keywords import Duration, Size
    from toilfn.config.settings import Settings

__all__ = [
    "SERVICE",
    "ServiceOptions",
    "TaskOptions",
    "budget",
    "defaults",
    "dynamic",
    "is_checkpoint",
    "is_late",
    "merge",
    "normalise",
    "resources",
    "static",
]

SERVICE = "check_interval"
"""The option that all services have, and that nothing else has."""

_CAUSES = tuple(cause.value for cause in Cause if cause is not Cause.INPUT)


class _Collection(Protocol):
    """A promise, or another dask collection."""

    def __dask_graph__(self) -> Any: ...


AcceleratorSpec: TypeAlias = "int | str | Mapping[str, Any] | Accelerator"
Late: TypeAlias = "Callable[..., Any] | _Collection"
"""A requirement that is known when the call's arguments are: a function of them, or a promise."""


class TaskOptions(TypedDict, total=False):
    """Keywords of `toilfn.task` and `Task.options`; None stands for "not given"."""

    cores: float | Late | None
    """Number of CPU cores, such as 4 or 0.5."""

    memory: Size | Late | None
    """Memory in bytes, or a text such as ``"2G"`` or ``"512Mi"``."""

    disk: Size | Late | None
    """Disk space for temporary files in bytes, or a text such as ``"10G"``."""

    accelerators: AcceleratorSpec | Sequence[AcceleratorSpec] | Late | None
    """A count, a text such as ``"nvidia-tesla-k80:2"``, a mapping with brand and count, or several of these."""

    preemptible: bool | Late | None
    """Whether the task may run on a preemptible node."""

    walltime: Duration | Late | None
    """Time limit for one attempt in seconds, or a text such as ``"1h30m"``."""

    local: bool | Late | None
    """Whether the task runs on the leader's machine."""

    retries: int | Mapping[str, int | None] | None
    """Number of retries, or one for each cause: error, memory, walltime, lost and preempted."""

    double_memory: bool | None
    """Whether a retry after a death by memory use gets twice the memory."""

    double_walltime: bool | None
    """Whether a retry after an exceeded time limit gets twice the time."""

    checkpoint: bool | None
    """Whether the task runs again, within its retries, when a task that it led to fails permanently."""

    intermediates: Literal["keep", "drop"] | None
    """Whether files that the task makes are kept, or dropped once no task needs them (default: the run's setting)."""

    delivers: bool | None
    """Whether files that the task reads are outputs of the run, which are kept when others are dropped."""

    name: str | None
    """Name of the task in messages and reports (default: the function's name)."""

    nout: int | None
    """Number of values that the function returns, so that its promise can be unpacked."""

    env: Mapping[str, str] | None
    """Environment variables that are set while the task runs."""

    version: str | float | None
    """Identity of the function: while it stays the same, edits of the function do not run finished calls again."""


class ServiceOptions(TaskOptions, total=False):
    """Keywords of `toilfn.service`."""

    check_interval: Duration | None
    """Time between two checks whether the service is alive, in seconds or as a text such as ``"1m"`` (default: 5 s)."""


def normalise(options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options and bring their values to the form that records keep.

    Raises
    ------
    InputError
        If an option does not exist (names the nearest one that does), or has a wrong value.
    """
    unknown = [name for name in options if name not in _READERS]
    if unknown:
        near = difflib.get_close_matches(unknown[0], _READERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"a task can have {', '.join(_READERS)}"
        raise InputError(f"unknown task option {unknown[0]!r}", hint=hint)
    return {name: _read(name, value) for name, value in options.items()}


def is_checkpoint(base: Mapping[str, Any], override: Mapping[str, Any]) -> bool:
    """Return whether a call is a checkpoint, from its function's options and its own."""
    own = override.get("checkpoint")
    return bool(base.get("checkpoint") if own is None else own)


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Merge normalised options: `override` wins, except that variables of ``env`` are added to those of `base`."""
    merged = {**base, **override}
    if base.get("env") and override.get("env"):
        merged["env"] = {**base["env"], **override["env"]}
    return merged


def dynamic(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the requirements that are known only when the call's arguments are: promises and functions of them."""
    return {name: value for name, value in options.items() if name in _REQUIREMENTS and is_late(value)}


def is_late(value: Any) -> bool:
    """Return whether a requirement is known only with the arguments: a function, a promise or other dask collection."""
    return callable(value) or hasattr(type(value), "__dask_graph__")


def static(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options except those that `dynamic` returns."""
    late = dynamic(options)
    return {name: value for name, value in options.items() if name not in late}


def defaults(settings: Settings) -> Resources:
    """Return the resources of a task that requests none."""
    return Resources(
        cores=settings.default_cores,
        memory=settings.default_memory,
        disk=settings.default_disk,
        walltime=settings.default_walltime,
        preemptible=settings.default_preemptible,
        accelerators=parse_accelerators(settings.default_accelerators or 0),
    )


def resources(options: Mapping[str, Any], defaults: Resources) -> Resources:
    """Return the resources that normalised options request, with `defaults` for those that they do not name."""
    asked = {name: options[name] for name in _REQUIREMENTS if options.get(name) is not None}
    if "accelerators" in asked:
        asked["accelerators"] = tuple(Accelerator(*fields) for fields in asked["accelerators"])
    return replace(defaults, **asked)


def budget(options: Mapping[str, Any], settings: Settings) -> Budget:
    """Return how often a task may fail for each cause, by its normalised options, otherwise by the run's settings.

    A number of retries is that for errors. Deaths by memory and by walltime have the same one, unless there is
    another for them.
    """
    given = options.get("retries")
    own = dict(given) if isinstance(given, Mapping) else {} if given is None else {"error": given}
    error = own.get("error", settings.retries)
    return Budget(
        error=error,
        memory=own.get("memory", _first(settings.memory_retries, error)),
        walltime=own.get("walltime", _first(settings.walltime_retries, error)),
        lost=own.get("lost", settings.lost_retries),
        preempted=own.get("preempted", settings.preempted_retries),
        double_memory=_first(options.get("double_memory"), settings.double_memory),
        double_walltime=_first(options.get("double_walltime"), settings.double_walltime),
        backoff=settings.retry_backoff,
    )


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


def _all_text(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _read(name: str, value: Any) -> Any:
    """Bring one option to its normal form; an error names the option."""
    if value is None or (name in _REQUIREMENTS and is_late(value)):
        return value
    try:
        return _READERS[name](value)
    except ResourceError as error:
        raise ResourceError(f"option {name}: {error}") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"option {name}: {error}") from None


def _cores(value: Any) -> float:
    try:
        cores = float(value)
    except (TypeError, ValueError):
        cores = -1.0
    if isinstance(value, bool) or not isfinite(cores) or cores <= 0:
        raise ResourceError(f"{value!r} is not a number of cores", hint="write a number above 0, such as 4 or 0.5")
    return cores


def _accelerators(value: Any) -> list[list[Any]]:
    if isinstance(value, list) and value and all(isinstance(one, list) for one in value):
        return value  # in the form that records keep, as those of a task that gets other options
    return [list(astuple(accelerator)) for accelerator in parse_accelerators(value)]


def _exactly(kind: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{value!r} is not a {kind.__name__}")
        return value

    return check


def _keep_or_drop(value: Any) -> str:
    if value not in ("keep", "drop"):
        raise ValueError(f"{value!r} is not 'keep' or 'drop'")
    return str(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise TypeError(f"{value!r} is not a whole number of 0 or more{', and below 2**63' * (value >= 2**63)}")
    return value


def _retries(value: Any) -> int | dict[str, int | None]:
    if not isinstance(value, Mapping):
        return _whole(value)
    unknown = [cause for cause in value if cause not in _CAUSES]
    if unknown:
        raise TypeError(f"{unknown[0]!r} is not a cause of failure; choose from {', '.join(_CAUSES)}")
    return {cause: None if count is None else _whole(count) for cause, count in value.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is not a string with at least one character")
    return value


def _version(value: Any) -> str:
    return str(value) if isinstance(value, (int, float)) else _text(value)


def _env(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not _all_text([*value.keys(), *value.values()]):
        raise TypeError(f"{value!r} is not a dict that maps strings to strings")
    return checked_variables(value)


_REQUIREMENTS: dict[str, Callable[[Any], Any]] = {
    "cores": _cores,
    "memory": parse_memory,
    "disk": parse_disk,
    "accelerators": _accelerators,
    "preemptible": _exactly(bool),
    "walltime": parse_time_limit,
    "local": _exactly(bool),
}
_READERS: dict[str, Callable[[Any], Any]] = {
    **_REQUIREMENTS,
    "retries": _retries,
    "double_memory": _exactly(bool),
    "double_walltime": _exactly(bool),
    "checkpoint": _exactly(bool),
    "intermediates": _keep_or_drop,
    "delivers": _exactly(bool),
    "name": _text,
    "nout": _whole,
    SERVICE: parse_time_limit,
    "env": _env,
    "version": _version,
}
