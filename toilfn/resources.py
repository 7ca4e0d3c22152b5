"""The resources that a task requests: cores, memory, disk, accelerators, time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Accelerator", "Capacity", "Resources"]


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
