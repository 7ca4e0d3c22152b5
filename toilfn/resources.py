"""The resources that a task requests: cores, memory, disk, accelerators, time; and how accelerators are written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from toilfn.errors import ResourceError

__all__ = ["Accelerator", "Capacity", "Resources", "parse_accelerator", "parse_accelerators"]

_BRANDS = ("nvidia", "amd")
_APIS = {"cuda": "nvidia", "rocm": "amd", "opencl": None}
_ACCELERATOR_HELP = (
    "write a count, or for example 'gpu', 'cuda:1', 'nvidia-tesla-k80:2' or {'brand': 'amd', 'count': 2}"
)


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One kind of accelerator and how many of it.

    Attributes
    ----------
    count : int
        How many devices.
    kind : str
        The kind of device, for example ``"gpu"``.
    model : str or None
        A model name such as ``"nvidia-tesla-k80"``; None takes any.
    brand : str or None
        A maker such as ``"nvidia"``; None takes any.
    api : str or None
        A programming interface such as ``"cuda"``; None takes any.
    """

    count: int = 1
    kind: str = "gpu"
    model: str | None = None
    brand: str | None = None
    api: str | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of one task, or of one batch of tasks.

    Attributes
    ----------
    cores : float
        CPU cores; fractions are allowed.
    memory, disk : int
        Bytes.
    accelerators : tuple of Accelerator
        Devices of the task's own.
    walltime : float or None
        The longest time one attempt may take, in seconds; None sets no limit.
    preemptible : bool
        Whether the task may run on a node that can be taken away.
    local : bool
        Whether the task must run on the leader's machine.
    """

    cores: float = 1.0
    memory: int = 2 * 2**30
    disk: int = 2 * 2**30
    accelerators: tuple[Accelerator, ...] = ()
    walltime: float | None = None
    preemptible: bool = False
    local: bool = False


class Capacity(NamedTuple):
    """The resources that a cluster has at one time.

    ``total`` is None for a cluster that has its own queue (a batch system): then only ``batches`` limits.
    ``largest`` is the most that a single task may ask for; None knows no limit.
    """

    total: Resources | None
    largest: Resources | None = None
    batches: int | None = None
    """How many batches may be out at one time, services aside."""
    services: int | None = None
    """How many services may run at one time on nodes that are not preemptible."""
    preemptible_services: int | None = None
    """And on those that are."""
    cores: float | None = None
    """How many cores may be in use at one time, where ``total`` does not say it: the user's limit."""
    memory: int | None = None
    disk: int | None = None


def parse_accelerator(spec: int | str | Mapping[str, Any] | Accelerator) -> Accelerator:
    """Read one accelerator requirement by Toil's rules (`toil.job.parse_accelerator`).

    Parameters
    ----------
    spec : int, str, mapping or Accelerator
        A count; or a kind (``gpu``), a brand (``nvidia``, ``amd``), an API (``cuda``, ``rocm``, ``opencl``) or a
        model, with a count after a colon when it is not 1; or the attributes of `Accelerator`. The defaults
        are the kind gpu, and one of them.

    Raises
    ------
    ResourceError
        If it is none of these.
    """
    if isinstance(spec, Accelerator):
        return spec
    if isinstance(spec, str):
        fields = _accelerator_fields(spec)
    elif isinstance(spec, Mapping):
        fields = dict(spec)
    else:
        fields = {"count": spec}
    _check_accelerator(spec, fields)
    if "brand" not in fields:
        brand = next((b for b in _BRANDS if str(fields.get("model", "")).startswith(f"{b}-")), None)
        fields["brand"] = brand or _APIS.get(fields.get("api", ""))
    return Accelerator(**fields)


def parse_accelerators(spec: Any) -> tuple[Accelerator, ...]:
    """Read accelerator requirements: what `parse_accelerator` reads, several with commas, or a sequence of them."""
    if isinstance(spec, str):
        spec = [part.strip() for part in spec.split(",")] if spec.strip() else []
    if isinstance(spec, Sequence):
        return tuple(found for one in spec if (found := parse_accelerator(one)).count)
    found = parse_accelerator(spec)
    return (found,) if found.count else ()


def _accelerator_fields(spec: str) -> dict[str, Any]:
    name, colon, count = spec.partition(":")
    if name.isdecimal() and not colon:
        return {"count": int(name)}
    if not re.fullmatch(r"\w[\w.+-]*", name) or (colon and not count.isdecimal()):
        raise ResourceError(f"{spec!r} is not an accelerator", hint=_ACCELERATOR_HELP)
    word = "kind" if name == "gpu" else "brand" if name in _BRANDS else "api" if name in _APIS else "model"
    return {word: name, "count": int(count) if colon else 1}


def _check_accelerator(spec: object, fields: dict[str, Any]) -> None:
    count = fields.get("count", 1)
    right = isinstance(count, int) and not isinstance(count, bool) and count >= 0
    words = {name: value for name, value in fields.items() if name != "count"}
    if not (
        right
        and words.keys() <= {"kind", "model", "brand", "api"}
        and all(isinstance(word, str) for word in words.values())
    ):
        raise ResourceError(f"{spec!r} is not an accelerator", hint=_ACCELERATOR_HELP)
