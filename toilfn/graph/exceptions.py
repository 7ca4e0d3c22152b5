"""Pickle exceptions whose class takes other arguments than those that it passes on to Python."""

from __future__ import annotations

import copyreg
from types import MethodDescriptorType, WrapperDescriptorType
from typing import Any

__all__ = ["reduced"]


def reduced(error: BaseException) -> Any:
    """Return what a pickler needs to know of an exception; NotImplemented where its class says that itself.

    Python calls the class again with what is in ``args``. If the class has an `__init__` of its own, this may fail, or
    build the message a second time, so that method is left out: the attributes that it has set are pickled, too.
    """
    kind = type(error)
    own = getattr(copyreg.dispatch_table.get(kind), "__module__", None)
    native = isinstance(kind.__reduce__, MethodDescriptorType) and isinstance(kind.__reduce_ex__, MethodDescriptorType)
    if not native or own not in (None, _TBLIB):
        return NotImplemented
    plain: Any = error.__reduce__()
    if isinstance(kind.__init__, WrapperDescriptorType) or "__new__" in _names_in_python(kind):
        return plain
    return _made, plain[:2], *plain[2:]


_TBLIB = "tblib.pickling_support"
"""The module whose functions distributed registers for all exceptions: SystemExit, for one, loses its code."""


def _names_in_python(kind: type) -> set[str]:
    """Return the names of what a class and its bases define in Python."""
    own = kind.__mro__[: kind.__mro__.index(_base_in_c(kind))]
    return {name for base in own for name in vars(base)}


def _base_in_c(kind: type) -> type:
    """Return the nearest class whose `__init__` is Python's own."""
    return next(base for base in kind.__mro__ if isinstance(vars(base).get("__init__"), WrapperDescriptorType))


def _made(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    error = kind.__new__(kind, *args)
    vars(_base_in_c(kind))["__init__"](error, *args)
    return error
