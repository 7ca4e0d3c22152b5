"""Extend miniwdl by features that the specifications allow but miniwdl does not support.

- ``Object`` is a type (draft-2, 1.0; "deprecated" in 1.1 and 1.2), whose members can have any type.
- A placeholder in a string of WDL 1.0 can contain quotes of the same kind as the string, and options, which have an
  effect only in commands (1.0, "Expression Placeholder Options"), as in Cromwell.
- From 1.2 on, a placeholder is empty if a None in it causes an error ("Expression Placeholder Coercion").
- ``write_object`` and ``write_objects`` (draft-2 to 1.2, "write_object").
- A call may have the same name as the workflow that contains it.
- A called workflow without an output section returns the outputs of its calls.
- Hints that have an effect are preserved (1.2, "Hints Section").
- From WDL 1.1 on, compound values are not coerced to String (1.1, "Type Coercion").
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterator
from typing import IO, Any

import lark
from WDL import Env, Error, Expr, StdLib, Tree, Type, Value, _grammar, _parser

from toilfn.wdl import numbers
from toilfn.wdl.language import is_at_least
from toilfn.wdl.syntax import extend_grammars, parse

__all__ = [
    "HINTS",
    "EmptyingPlaceholder",
    "ObjectType",
    "TextPlaceholder",
    "UnionPlaceholder",
    "check",
    "patch_miniwdl",
]


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


HINTS = ("shortTask", "short_task")
"""The hints (1.2) that have an effect."""


class ObjectType(Type.Any):
    """The type ``Object``, whose members are known only at run time."""

    def __str__(self) -> str:
        return "Object" + ("?" if self.optional else "")


class Member(Expr.Get):
    """A member access that also supports ``Object``."""

    def _infer_type(self, type_env: Env.Bindings[Type.Base]) -> Type.Base:
        try:
            return super()._infer_type(type_env)
        except Error.NoSuchMember:
            if isinstance(self.expr._type, ObjectType):  # missing if the name before it is invalid
                return ObjectType()
            raise

    def _eval(self, env: Env.Bindings[Value.Base], stdlib: StdLib.Base) -> Value.Base:
        if not isinstance(self.expr.type, ObjectType) or not self.member:
            return super()._eval(env, stdlib)
        holder = self.expr.eval(env, stdlib)
        members = _members(holder) if isinstance(holder, (Value.Struct, Value.Map)) else {}
        if self.member not in members:
            raise Error.EvalError(self, f"the object has no member {self.member!r}")
        return members[self.member]


class DocumentTransformer(_parser._DocTransformer):
    """Transforms a parse tree into a document."""

    @lark.v_args(meta=True)
    def get_name(self, meta: Any, items: list[Any]) -> Expr.Base:
        """Build a member access."""
        return Member(super().get_name(meta, items).pos, items[0], items[1].value)

    @lark.v_args(meta=True)
    def type(self, meta: Any, items: list[Any]) -> Type.Base:
        """Build a type."""
        plain: Any = super()
        found: Type.Base = plain.type(meta, items)
        if isinstance(found, Type.StructInstance) and found.type_name == "Object":
            return ObjectType(optional=found.optional)
        return found

    @lark.v_args(meta=True)
    def string(self, meta: Any, items: list[Any]) -> Expr.Base:
        """Build a string."""
        if self._version == "1.0":
            items = [
                TextPlaceholder(item.pos, {}, item.expr) if isinstance(item, Expr.Placeholder) else item
                for item in items
            ]
        return super().string(meta, items)

    @lark.v_args(meta=True)
    def placeholder(self, meta: Any, items: list[Any]) -> Expr.Base:
        """Build a placeholder in a command."""
        plain: Any = super()
        found: Expr.Placeholder = plain.placeholder(meta, items)
        kind = EmptyingPlaceholder if is_at_least(self._version or "draft-2", "1.2") else UnionPlaceholder
        return kind(found.pos, found.options, found.expr)

    @lark.v_args(meta=True)
    def int(self, meta: Any, items: list[Any]) -> Expr.Base:
        """Build an Int, including hexadecimal and octal ones."""
        digits = items[0].lstrip("+-")
        base = 16 if "x" in digits.lower() else 8 if len(digits) > 1 and digits[0] == "0" else 10
        try:
            return Expr.Int(self._place(meta), int(items[0], base))
        except ValueError:
            problem = f"{items[0]} begins with a zero, so it is octal, and has no digits above 7"
            raise Error.ValidationError(self._place(meta), problem) from None

    @lark.v_args(meta=True)
    def float(self, meta: Any, items: list[Any]) -> Expr.Base:
        """Build a Float, which must be finite."""
        plain: Any = super()
        found: Expr.Base = plain.float(meta, items)
        if math.isinf(found.value):  # type: ignore[attr-defined]
            raise Error.ValidationError(self._place(meta), f"{items[0]} does not fit into a Float")
        return found

    @lark.v_args(meta=True)
    def minus(self, meta: Any, items: list[Any]) -> Expr.Base:
        """Build a negated number."""
        place = self._place(meta)
        return Expr.Apply(place, "_sub", [Expr.Int(place, 0), *items])

    @lark.v_args(meta=True)
    def plus(self, meta: Any, items: list[Any]) -> Expr.Base:
        """Build a number with a plus sign."""
        place = self._place(meta)
        return Expr.Apply(place, "_sub", [*items, Expr.Int(place, 0)])

    @lark.v_args(meta=True)
    def call(self, meta: Any, items: list[Any]) -> Tree.Call:
        """Build a call."""
        plain: Any = super()
        return _own(plain.call(meta, items))

    @lark.v_args(meta=True)
    def call_as(self, meta: Any, items: list[Any]) -> Tree.Call:
        """Build a call with an alias."""
        plain: Any = super()
        return _own(plain.call_as(meta, items))

    @lark.v_args(meta=True)
    def task(self, meta: Any, items: list[Any]) -> Tree.Task:
        """Build a task. Hints that have an effect become runtime attributes, as in WDL 1.1."""
        plain: Any = super()
        found: Tree.Task = plain.task(meta, items)
        for item in items:
            if isinstance(item, dict) and "hints" in item:
                found.runtime.update(pair.children for pair in item["hints"].children if pair.children[0] in HINTS)
        return found

    def _place(self, meta: Any) -> Error.SourcePosition:
        plain: Any = self
        place: Error.SourcePosition = plain._sp(meta)
        return place


class Call(Tree.Call):
    """A call that may have the same name as its workflow, or call a workflow without an output section.

    miniwdl refuses such calls, but no specification forbids them.
    """

    def resolve(self, doc: Tree.Document) -> None:
        """Find the callee."""
        try:
            super().resolve(doc)
        except Error.MultipleDefinitions:
            if self.callee is None:
                raise
        except Error.UncallableWorkflow:
            called = next(each.doc for each in doc.imports if each.namespace == self.callee_id[0])
            if called is None or called.workflow is None or not called.workflow.complete_calls:
                raise
            self.callee = called.workflow


def _own(call: Tree.Call) -> Call:
    return Call(call.pos, call.callee_id, call.name, call.inputs, call.after)


class WriteObjects(StdLib.Function):
    """The functions ``write_object`` and ``write_objects``: a table with a row of names and rows of values.

    Parameters
    ----------
    many : bool
        Whether the argument is an array.
    """

    def __init__(self, *, many: bool) -> None:
        self._many = many

    def infer_type(self, expr: Expr.Apply) -> Type.Base:
        """Check the argument, and return the type of the result."""
        if len(expr.arguments) != 1:
            raise Error.WrongArity(expr, 1)
        given = expr.arguments[0].type
        item = given.item_type if self._many and isinstance(given, Type.Array) else given
        if not isinstance(item, (Type.Any, Type.Object, Type.StructInstance, Type.Map)):
            wanted: Type.Base = ObjectType()
            raise Error.StaticTypeMismatch(expr.arguments[0], Type.Array(wanted) if self._many else wanted, given)
        return Type.File()

    def __call__(self, expr: Expr.Apply, env: Env.Bindings[Value.Base], stdlib: StdLib.Base) -> Value.Base:
        """Write the table."""
        value = expr.arguments[0].eval(env, stdlib)
        rows = [_members(item) for item in (value.value if self._many else [value])]
        names = list(rows[0]) if rows else []
        if any(list(row) != names for row in rows):
            raise Error.EvalError(expr, "write_objects(): the objects have different members")
        lines = [names, *([str(row[name].coerce(Type.String()).value) for name in names] for row in rows)]
        text = "".join("\t".join(line) + "\n" for line in lines) if rows else ""

        def write(_: Value.Base, stream: IO[bytes]) -> None:
            stream.write(text.encode())

        written: Value.Base = stdlib._write(write)(value)
        return written


def _members(value: Value.Base) -> dict[str, Value.Base]:
    """Return the members of an Object, a Struct or a Map by name."""
    if isinstance(value, Value.Map):
        return {str(key.value): item for key, item in value.value}
    return dict(value.value)


def patch_miniwdl() -> None:
    """Patch miniwdl with the features of this module. May be called again."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), _DEPTH))
    numbers.patch_miniwdl()
    for name, many in (("write_object", False), ("write_objects", True)):
        setattr(StdLib.Base, name, WriteObjects(many=many))
    extend_grammars()
    Value.Base.expr = property(operator.attrgetter("_expr"), _note_expression)  # type: ignore[method-assign, assignment]
    _parser.parse = parse
    _parser._DocTransformer = DocumentTransformer  # type: ignore[misc]  # miniwdl has no public interface for this
    if "_EITHER_DELIM expr" in _grammar.versions["1.0"]:
        _grammar.versions["1.0"] = _grammar.versions["1.0"].replace("_EITHER_DELIM expr", "_EITHER_DELIM placeholder")


def _note_expression(value: Value.Base, expr: Expr.Base) -> None:
    """Record the expression of a value, but not in the values inside it.

    miniwdl would also record it in all nested values, at each access, which is slow for large arrays.
    """
    value._expr = expr


def check(document: Tree.Document) -> None:
    """Refuse documents that miniwdl wrongly accepts.

    Raises
    ------
    WDL.Error.StaticTypeMismatch
        If an array literal would coerce a compound value to String.
    """
    if not is_at_least(document.effective_wdl_version, "1.1"):
        return
    for array in _array_literals(document):
        assert isinstance(array.type, Type.Array)
        for item in array.items:
            if isinstance(array.type.item_type, Type.String) and isinstance(item.type, _COMPOUND):
                raise Error.StaticTypeMismatch(item, Type.String(), item.type, "in an array literal")


_DEPTH = 10_000
"""Python's recursion limit: a few calls for each term of a sum, and for each declaration in a chain of dependencies."""

_COMPOUND = (Type.Array, Type.Map, Type.Pair, Type.StructInstance, Type.Object)


def _array_literals(node: Any) -> Iterator[Expr.Array]:
    stack = [node]
    while stack:
        found = stack.pop()
        if isinstance(found, Expr.Array):
            yield found
        stack.extend(found.children)
