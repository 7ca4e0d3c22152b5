"""Make miniwdl's numbers conform to the specification where they behave like Python's.

- ``round`` rounds halves up: ``round(-2.5)`` is -2 (1.1, "round").
- The quotient of two Ints is truncated, and ``%`` is the remainder: ``-7 / 2`` is -3, ``-7 % 2`` is -1.
- An Int has 64 bits, and a Float is finite (1.1, "Primitive Types"); any other result is an error.
- An Int with a leading zero is octal: ``010`` is 8 (1.0, "Whitespace, Strings, Identifiers, Constants").
- A text can be converted to a number only if it is written like one: no underscores, no spaces, no ``nan``.
- In JSON, true is not a number, 1 is not a Boolean, and an object for a struct must not have additional members
  (1.1, "Struct Types").
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from WDL import Error, Expr, StdLib, Type, Value

__all__ = ["parsers", "patch_miniwdl", "rounding"]

_LEAST, _MOST = -(2**63), 2**63 - 1
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def patch_miniwdl() -> None:
    """Patch miniwdl to follow these rules. May be called again."""
    if StdLib._DivisionOperator._call_eager is _divide:
        return
    for operator in (StdLib._ArithmeticOperator, StdLib._ExponentiationOperator):
        operator._call_eager = _checked(operator._call_eager)  # type: ignore[method-assign]
    StdLib._DivisionOperator._call_eager = _divide  # type: ignore[method-assign]
    Value.String.coerce = _strict(Value.String.coerce)  # type: ignore[method-assign]
    for holder in (Value.Struct, Value.Map):
        holder.coerce = _only_members(holder.coerce)  # type: ignore[method-assign]
    Value.from_json = _from_json(Value.from_json)  # type: ignore[assignment]


def rounding() -> dict[str, Callable[..., Value.Base]]:
    """Return the library functions that convert numbers to Ints, by name."""
    return {
        "floor": lambda value: _int(math.floor(value.value)),
        "ceil": lambda value: _int(math.ceil(value.value)),
        "round": lambda value: _int(_half_up(value.value)),
        "_rem": lambda left, right: Value.Int(left.value - right.value * _quotient(left.value, right.value)),
    }


def parsers() -> dict[str, Callable[[str], Value.Base]]:
    """Return functions that parse the contents of files, by the names of the library functions."""
    return {
        "read_int": lambda text: _read(text, Type.Int()),
        "read_float": lambda text: _read(text, Type.Float()),
        "read_string": lambda text: Value.String(text.rstrip("\r\n")),
    }


def _read(text: str, kind: Type.Base) -> Value.Base:
    read = Value.String(text.strip()).coerce(kind)
    return _int(read.value) if isinstance(read, Value.Int) else read


def _half_up(number: float) -> int:
    below = math.floor(number)
    return below + 1 if number - below >= 0.5 else below  # adding 0.5 would introduce a rounding error


def _quotient(left: int, right: int) -> int:
    size = abs(left) // abs(right)
    return size if (left < 0) == (right < 0) else -size


def _int(number: int) -> Value.Int:
    if not _LEAST <= number <= _MOST:
        raise Error.InputError(f"{number} does not fit into an Int, which has 64 bits")
    return Value.Int(number)


def _divide(self: Any, expr: Expr.Apply, arguments: list[Value.Base]) -> Value.Base:
    kind = self.infer_type(expr)
    left, right = (argument.coerce(kind).value for argument in arguments)
    if not right:
        raise Error.EvalError(expr, "division by zero")
    is_float = isinstance(kind, Type.Float)
    return _fitting(expr, Value.Float(left / right) if is_float else Value.Int(_quotient(left, right)))


def _checked(calculate: Callable[..., Value.Base]) -> Callable[..., Value.Base]:
    def call(self: Any, expr: Expr.Apply, arguments: list[Value.Base]) -> Value.Base:
        try:
            return _fitting(expr, calculate(self, expr, arguments))
        except OverflowError:
            raise Error.EvalError(expr, "the result does not fit into a Float") from None

    return call


def _fitting(expr: Expr.Apply, value: Value.Base) -> Value.Base:
    if isinstance(value, Value.Int) and not _LEAST <= value.value <= _MOST:
        raise Error.EvalError(expr, f"the result {value.value} does not fit into an Int, which has 64 bits")
    if isinstance(value, Value.Float) and not math.isfinite(value.value):
        raise Error.EvalError(expr, f"the result {value.value} is not a finite Float")
    return value


def _strict(coerce: Callable[..., Value.Base]) -> Callable[..., Value.Base]:
    def call(self: Value.String, desired_type: Type.Base | None = None) -> Value.Base:
        if isinstance(desired_type, (Type.Int, Type.Float)) and not _NUMBER.fullmatch(self.value):
            message = f"coercing 'String' to '{desired_type}': {self.value!r} is not a number"
            raise Error.EvalError(self.expr, message) if self.expr else Error.RuntimeError(message)
        if isinstance(desired_type, Type.Float) and math.isinf(float(self.value)):
            raise Error.RuntimeError(f"{self.value!r} does not fit into a Float")
        return coerce(self, desired_type)

    return call


def _only_members(coerce: Callable[..., Value.Base]) -> Callable[..., Value.Base]:
    """Wrap a coercion to refuse members of an Object or a Map that a struct does not have."""

    def call(self: Any, desired_type: Type.Base | None = None) -> Value.Base:
        if isinstance(desired_type, Type.StructInstance) and not isinstance(self.type, Type.StructInstance):
            names = self.value if isinstance(self, Value.Struct) else [str(key.value) for key, _ in self.value]
            refusal = _refusal(desired_type, names)
            if refusal:
                raise Error.EvalError(self.expr, refusal) if self.expr else Error.RuntimeError(refusal)
        return coerce(self, desired_type)

    return call


def _refusal(wanted: Type.StructInstance, names: Any) -> str:
    members = wanted.members or {}
    strange = [name for name in names if name not in members]
    if not strange:
        return ""
    near = get_close_matches(strange[0], members, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(members)}"
    return f"struct {wanted.type_name} has no member {', '.join(map(repr, strange))}{hint}"


def _from_json(read: Callable[[Type.Base, Any], Value.Base]) -> Callable[[Type.Base, Any], Value.Base]:
    def call(type: Type.Base, value: Any) -> Value.Base:
        if _is_other(type, value):
            raise Error.InputError(f"couldn't construct '{type}' from {value!r}")
        if isinstance(type, Type.StructInstance) and isinstance(value, dict):
            refusal = _refusal(type, value)
            if refusal:
                raise Error.InputError(refusal)
        return read(type, value)

    return call


def _is_other(kind: Type.Base, value: Any) -> bool:
    """Return whether a JSON value is not of a type, although Python's type check would accept it."""
    if isinstance(kind, Type.Any) or value is None:
        return False
    if isinstance(kind, Type.Boolean):
        return not isinstance(value, bool)
    if not isinstance(kind, (Type.Int, Type.Float)) or not isinstance(value, (bool, int, float)):
        return False
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return True
    return isinstance(value, int) and not _LEAST <= value <= _MOST
