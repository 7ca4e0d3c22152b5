"""Pickle exceptions, and functions under `validate_call`, that Python and cloudpickle do not restore correctly.

If the class of an exception has an `__init__` of its own, the exception is restored without calling that method.
A function under pydantic's `validate_call` is decorated again where it is loaded, because the decorated function refers
to the whole namespace of the script.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from types import FunctionType, MethodDescriptorType, WrapperDescriptorType
from typing import Any, NamedTuple, get_type_hints

__all__ = ["Validation", "reduced_exception", "validated", "validation_of"]


def reduced_exception(error: BaseException) -> Any:
    """Return the parts from which an exception is restored; NotImplemented if its class defines them itself.

    Python would call the class with the values in ``args``. If the class has an `__init__` of its own, this may fail
    or build the message twice, so that method is not called: the attributes that it has set are pickled as well.
    """
    kind = type(error)
    own = getattr(copyreg.dispatch_table.get(kind), "__module__", None)
    native = isinstance(kind.__reduce__, MethodDescriptorType) and isinstance(kind.__reduce_ex__, MethodDescriptorType)
    if not native or own not in (None, _TBLIB):
        return NotImplemented
    plain: Any = error.__reduce__()
    if isinstance(kind.__init__, WrapperDescriptorType) or "__new__" in _names_in_python(kind):
        return plain
    return _exception, plain[:2], *plain[2:]


_TBLIB = "tblib.pickling_support"
"""The module whose functions distributed registers for all exceptions: SystemExit, for one, loses its code."""


def _names_in_python(kind: type) -> set[str]:
    """Return the names of what a class and its bases define in Python."""
    own = kind.__mro__[: kind.__mro__.index(_base_in_c(kind))]
    return {name for base in own for name in vars(base)}


def _base_in_c(kind: type) -> type:
    """Return the nearest class whose `__init__` is Python's own."""
    return next(base for base in kind.__mro__ if isinstance(vars(base).get("__init__"), WrapperDescriptorType))


def _exception(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    error = kind.__new__(kind, *args)
    vars(_base_in_c(kind))["__init__"](error, *args)
    return error


class Validation(NamedTuple):
    """A function under `validate_call`, its signature, and the arguments of the decorator."""

    function: Callable[..., Any]
    config: Any
    validate_return: bool
    hints: dict[str, Any]
    """Types by the names of parameters."""
    defaults: tuple[Any, ...]
    """The attributes for defaults, which a function that calls itself does not have yet when it is wrapped."""


def validation_of(value: Any) -> Validation | None:
    """Return what a callable was made of if `validate_call` made it, otherwise None."""
    raw = getattr(value, "raw_function", None) if type(value) is FunctionType else None
    if type(raw) is not FunctionType:
        return None
    for cell in value.__closure__ or ():
        check: Any = getattr(cell.cell_contents, "__self__", None)
        if type(check).__name__ == "ValidateCallWrapper" and type(check).__module__.startswith("pydantic."):
            config = check.config_wrapper.config_dict
            return Validation(raw, config, check.validate_return, _hints(raw), (raw.__defaults__, raw.__kwdefaults__))
    return None


def _hints(function: FunctionType) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:  # of something in the function that made it
        return function.__annotations__


def validated(*parts: Any) -> Callable[..., Any]:
    """Apply `validate_call` again to what `validation_of` returned."""
    from pydantic import validate_call

    made = Validation(*parts)
    function: Any = made.function
    function.__annotations__ = made.hints
    function.__defaults__, function.__kwdefaults__ = made.defaults
    checked: Callable[..., Any] = validate_call(config=made.config, validate_return=made.validate_return)(function)
    return checked
