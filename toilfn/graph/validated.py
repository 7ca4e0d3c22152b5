"""Make functions that pydantic's `validate_call` checks anew in workers.

What the decorator leaves refers to the whole namespace of the script, and cannot be pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple, get_type_hints

__all__ = ["Validation", "validated", "validation_of"]


class Validation(NamedTuple):
    """A function under `validate_call`, its signature, and the arguments of the decorator."""

    function: Callable[..., Any]
    config: Any
    validate_return: bool
    hints: dict[str, Any]
    """Types by the names of parameters."""
    defaults: tuple[Any, ...]
    """What a function that calls itself does not have yet when it is wrapped: its two attributes for defaults."""


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
