"""The resources that a task requests: cores, memory, disk, accelerators and time; and the parser for accelerators."""

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
    """A number of accelerators of one kind.

    Attributes
    ----------
    count : int
        The number of devices.
    kind : str
        The kind of device, for example ``"gpu"``.
    model : str or None
        A model name such as ``"nvidia-tesla-k80"``; None means any model.
    brand : str or None
        A manufacturer such as ``"nvidia"``; None means any manufacturer.
    api : str or None
        A programming interface such as ``"cuda"``; None means any interface.
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
        Devices that only this task uses.
    walltime : float or None
        The longest time that one attempt may take, in seconds; None means no limit.
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
    """The limits of a cluster on the work that it may have at one time.

    ``total`` is None for a cluster that has its own queue (a batch system). Then only ``batches`` limits the work.
    ``largest`` is the most that a single task may request; None means that no limit is known.
    """

    total: Resources | None
    largest: Resources | None = None
    batches: int | None = None
    """Maximum number of submitted batches, without those of services."""
    services: int | None = None
    """Maximum number of services that run on nodes that are not preemptible."""
    preemptible_services: int | None = None
    """Maximum number of services that run on preemptible nodes."""
    cores: float | None = None
    """The user's limit on the cores in use (``--max-cores``), for a cluster without ``total``; so are ``memory`` and
    ``disk``, in bytes."""
    memory: int | None = None
    disk: int | None = None


def parse_accelerator(spec: int | str | Mapping[str, Any] | Accelerator) -> Accelerator:
    """Parse one accelerator requirement by the rules of Toil (`toil.job.parse_accelerator`).

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
    """Parse accelerator requirements: one that `parse_accelerator` accepts, several with commas, or a sequence."""
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
