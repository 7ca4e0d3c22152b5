"""The messages between leader and worker; `docs/architecture.md` describes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgpack

from toilfn.events import TaskId
from toilfn.model.values import Entry
from toilfn.resources import Resources

__all__ = ["limits", "read", "run_batch"]


def run_batch(
    tasks: Sequence[tuple[bytes, int, Resources]],
    values: Mapping[TaskId, Entry],
    functions: Iterable[bytes],
    walltime: float | None = None,
) -> bytes:
    """Build the message that gives a worker a batch.

    Parameters
    ----------
    tasks : sequence of (record, attempt, shape)
        Encoded task records in the order in which they run, how often each was tried, this time included, and what
        it was given.
    values : mapping
        The values that the tasks need from outside the batch.
    functions : iterable of bytes
        Encoded function records.
    walltime : float, optional
        The seconds that the whole batch may take, on a cluster where that is the only limit.
    """
    given = [(record, attempt, limits(shape)) for record, attempt, shape in tasks]
    packed: bytes = msgpack.packb(("run", given, values, list(functions), walltime))
    return packed


@lru_cache(maxsize=1024)
def limits(shape: Resources) -> dict[str, Any]:
    """Return what a task was given, in plain values."""
    return {
        "cores": shape.cores,
        "memory": shape.memory,
        "disk": shape.disk,
        "walltime": shape.walltime,
        "accelerators": [(a.count, a.kind, a.model, a.brand, a.api) for a in shape.accelerators],
    }


def read(message: bytes) -> tuple[str, tuple[Any, ...]]:
    """Take a worker's message apart: what it says, and the rest."""
    kind, *rest = msgpack.unpackb(message, use_list=False, strict_map_key=False)
    return kind, tuple(rest)
