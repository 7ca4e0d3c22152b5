"""Parse and validate the objects of a store; an error names the damaged object."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from toilfn.errors import CorruptObjectError, ToilfnError

__all__ = ["RESTORE", "damaged", "read", "reread"]

T = TypeVar("T")

_READS = 3

RESTORE = "restore the object from a copy, or start the workflow in a new store"
"""The hint for a damaged object that nothing can replace."""


def read(kind: type[T], data: bytes, parse: Callable[[bytes], Any], what: str, advice: str = RESTORE) -> T:
    """Parse an object, check the types of its fields, and return it.

    Parameters
    ----------
    kind : type
        A `NamedTuple`, whose annotations give the types of the fields, or any other type that `parse` must return.
    data : bytes
        The bytes of the object.
    parse : callable
        A function such as `json.loads` that returns the fields by name or in order. It may raise any error; a
        `ToilfnError` is passed on, and all others count as damage.
    what : str
        The object's name and the store's URL, for the message.
    advice : str
        The hint for a damaged object.

    Raises
    ------
    CorruptObjectError
        If the object cannot be parsed, or does not fit `kind`.
    """
    try:
        found = parse(data)
    except ToilfnError:
        raise
    except Exception as error:  # parsers raise what they like on damaged data
        raise damaged(what, f"it cannot be read ({type(error).__name__}: {error})", advice) from None
    if not hasattr(kind, "_fields"):
        if not _fits(found, kind):
            raise damaged(what, f"it holds {_type_name(found)} instead of {kind.__name__}", advice)
        return found  # type: ignore[no-any-return]
    built: T = _built(kind, found, what, advice)
    return built


def reread(get: Callable[[], T], pause: float) -> T:
    """Read an object, and read it again up to twice if it is damaged: the network may have altered it.

    Parameters
    ----------
    get : callable
        Reads and verifies the object.
    pause : float
        Seconds to wait before the second attempt; the wait before the third is twice as long.

    Raises
    ------
    CorruptObjectError
        If the object is damaged in every attempt.
    """
    for attempt in range(_READS - 1):
        with suppress(CorruptObjectError):
            return get()
        time.sleep(pause * 2**attempt)
    return get()


def damaged(what: str, why: str, advice: str = RESTORE) -> CorruptObjectError:
    """Build the error for a damaged object."""
    return CorruptObjectError(f"{what} is damaged: {why}", hint=advice)


def _built(kind: Any, found: Any, what: str, advice: str) -> Any:
    try:
        built = kind(**found) if isinstance(found, Mapping) else kind(*found)
    except TypeError:
        raise damaged(what, f"it does not have the fields {', '.join(_hints(kind))}", advice) from None
    for field, hint in _hints(kind).items():
        value = getattr(built, field)
        if not _fits(value, hint):
            raise damaged(what, f"{field} is {value!r:.80}", advice)
    return built


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of an annotated type; a store holds only finite numbers that are not negative."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is dict:
        return type(value) is dict
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value) and value >= 0
    if hint is int:
        return type(value) is int and value >= 0
    return type(value) is hint


def _type_name(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
