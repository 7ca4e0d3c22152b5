"""Placeholders that conform to the specifications where those of miniwdl do not."""

from __future__ import annotations

from collections.abc import Iterator

from WDL import Env, Error, Expr, StdLib, Type, Value

__all__ = ["EmptyingPlaceholder", "TextPlaceholder", "UnionPlaceholder"]


class TextPlaceholder(Expr.Placeholder):
    """A placeholder in a string of WDL 1.0, outside commands."""

    def _infer_type(self, type_env: Env.Bindings[Type.Base]) -> Type.Base:
        return Type.String()

    def _eval(self, env: Env.Bindings[Value.Base], stdlib: StdLib.Base) -> Value.String:
        value = self.expr.eval(env, stdlib)
        if isinstance(value, Value.Null):
            return Value.String("")
        return value if isinstance(value, Value.String) else Value.String(str(value))


class UnionPlaceholder(Expr.Placeholder):
    """A placeholder whose options can be checked only against its value, such as the result of ``read_json``."""

    def _infer_type(self, type_env: Env.Bindings[Type.Base]) -> Type.Base:
        return Type.String() if isinstance(self.expr.type, Type.Any) else super()._infer_type(type_env)

    def _eval_impl(self, env: Env.Bindings[Value.Base], stdlib: StdLib.Base) -> Value.String:
        if isinstance(self.expr.type, Type.Any):
            self._check(self.expr.eval(env, stdlib))
        return super()._eval_impl(env, stdlib)

    def _check(self, value: Value.Base) -> None:
        if isinstance(value, Value.Null):
            return
        if "sep" in self.options and not isinstance(value, Value.Array):
            raise Error.EvalError(self, f"the option sep needs an Array, not {value.type}")
        if "true" in self.options and not isinstance(value, Value.Boolean):
            raise Error.EvalError(self, f"the options true and false need a Boolean, not {value.type}")
        if "sep" not in self.options and isinstance(value, Value.Array):
            raise Error.EvalError(self, f"{value.type} needs the option sep, such as ~{{sep=' ' ...}}")


class EmptyingPlaceholder(UnionPlaceholder):
    """A placeholder of WDL 1.2 and later: it is empty if a None in it causes an error.

    Any other error is raised ("If an expression within a placeholder evaluates to None, and either causes the entire
    placeholder to evaluate to None or causes an error, then the placeholder is replaced by the empty string": 1.2,
    "Expression Placeholder Coercion").
    """

    def _eval(self, env: Env.Bindings[Value.Base], stdlib: StdLib.Base) -> Value.String:
        try:
            return super()._eval(env, stdlib)
        except Error.EvalError as problem:
            if isinstance(problem, Error.NullValue) or _failed_on_none(problem, env, stdlib):
                return Value.String("")
            raise


def _failed_on_none(problem: Error.EvalError, env: Env.Bindings[Value.Base], stdlib: StdLib.Base) -> bool:
    """Return whether a part of the failed expression is None, or an array of None."""
    if not isinstance(problem.node, Expr.Base):
        return False
    return any(_is_none(part.eval(env, stdlib)) for part in _parts(problem.node))


def _parts(expr: Expr.Base) -> Iterator[Expr.Base]:
    """Iterate over the parts that were evaluated before an expression failed."""
    for child in expr.children:
        if isinstance(child, Expr.Base):
            yield child


def _is_none(value: Value.Base) -> bool:
    if isinstance(value, Value.Array):
        return bool(value.value) and all(map(_is_none, value.value))
    return isinstance(value, Value.Null)
