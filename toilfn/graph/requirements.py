"""Handle requirements that are known only when a call's arguments are: promises, and functions of the arguments.

A function becomes a task of its own, called with the same arguments: it runs on a worker, where user code
belongs, with its log, its retries and its place in the store. So only promises are left. A task's record has
them pickled, under one key of its options, and the leader reads their values when all that the task needs is
complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from toilfn.errors import InputError, ResourceError
from toilfn.graph import options
from toilfn.graph.serialize import dumps, loads
from toilfn.ids import TaskId

if TYPE_CHECKING:
    from toilfn.graph.promise import Promise

__all__ = ["LATE", "pack", "unpack"]

LATE = "late"
"""The key of a record's options that holds the pickled promises and the ids of their tasks."""

_MEBIBYTE = 2**20


def pack(promises: Mapping[str, Promise], ids: Callable[[Promise], TaskId]) -> dict[str, Any]:
    """Return the entry of a record's options for requirements that are promises."""
    return {LATE: dumps(dict(promises), ids)} if promises else {}


def unpack(asked: Mapping[str, Any], values: Mapping[TaskId, Any]) -> dict[str, Any]:
    """Return a record's options with the requirements that have become known.

    Parameters
    ----------
    asked : mapping
        The options of a task's record.
    values : mapping
        The values of the tasks that the requirements come from.

    Raises
    ------
    ResourceError
        If a value is not valid for its requirement; the message names both.
    """
    known = loads(asked[LATE][0], values)
    return {**asked, **{name: _check(name, value) for name, value in known.items()}}


def _check(name: str, value: Any) -> Any:
    if value is None or options.is_late(value):
        raise ResourceError(f"option {name}: its promise evaluated to {value!r}, which is not a valid requirement")
    if name in ("memory", "disk") and type(value) in (int, float) and 0 <= value < _MEBIBYTE:
        return _MEBIBYTE if name == "memory" else int(value)  # worked out from inputs that may be small, or empty
    try:
        return options.normalise({name: value})[name]
    except InputError as error:
        raise ResourceError(f"{error} (its promise evaluated to {value!r})") from None
