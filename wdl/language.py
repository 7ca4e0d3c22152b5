"""Wrappers for undocumented parts of miniwdl.

These parts change between its releases, so its version is pinned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from WDL import Env, Error, Expr, StdLib, Tree, Type, Value
from WDL._util import byte_size_units

__all__ = [
    "Size",
    "binding_type",
    "identifiers",
    "is_at_least",
    "ordered",
    "plain_meta",
    "task_type",
    "task_uses",
    "types_in",
]

_VERSIONS = ("draft-2", "1.0", "1.1", "1.2", "1.3", "development")


def is_at_least(version: str, least: str) -> bool:
    """Compare two WDL versions; "development" is the newest."""
    return _VERSIONS.index(version) >= _VERSIONS.index(least)


def types_in(section: Tree.Workflow | Tree.WorkflowSection) -> Env.Bindings[Type.Base]:
    """Return the types of all names in scope in the body of a workflow or a section."""
    types = section._type_env
    assert types is not None, "the document was type-checked"
    return types


def binding_type(decl: Tree.Decl) -> Type.Base:
    """Return the type of the values that can be bound to an input; an input with a default is optional."""
    return decl.type.copy(optional=True) if decl.expr else decl.type


def identifiers(expr: Expr.Base | None) -> Iterator[Any]:
    """Iterate over the referents of the names in an expression: declarations, calls, gathers and scatters."""
    if expr is None:
        return
    if isinstance(expr, Expr.Ident):
        yield expr.referee
    for child in expr.children:
        assert isinstance(child, Expr.Base)
        yield from identifiers(child)


def ordered(decls: Iterable[Tree.Decl]) -> list[Tree.Decl]:
    """Return declarations in an order in which they can be evaluated."""
    by_id = {decl.workflow_node_id: decl for decl in decls}
    found: dict[str, Tree.Decl] = {}

    def visit(decl: Tree.Decl) -> None:
        for needed in sorted(decl.workflow_node_dependencies):
            if needed in by_id and needed not in found and needed != decl.workflow_node_id:
                visit(by_id[needed])
        found[decl.workflow_node_id] = decl

    for decl in by_id.values():
        if decl.workflow_node_id not in found:
            visit(decl)
    return list(found.values())


def task_uses(task: Tree.Task) -> set[str]:
    """Return the names of the declarations that a task's command, environment, outputs or other declarations use."""
    decls = [*(task.inputs or []), *task.postinputs]
    expressions = [task.command, *(decl.expr for decl in (*decls, *task.outputs))]
    used = {getattr(referee, "name", "") for expr in expressions for referee in identifiers(expr)}
    return used | {decl.name for decl in decls if decl.decor.get("env") is True}


def task_type(task: Tree.Task, *, with_return_code: bool) -> Type.StructInstance:
    """Return the type of the variable ``task`` of WDL 1.2."""
    return task.task_runtime_info_struct_type(output_section=with_return_code)


class Size(StdLib._Size):
    """The function ``size``, which calls the library's method ``size_of`` instead of opening files."""

    def _call_eager(self, expr: Expr.Apply, arguments: list[Value.Base]) -> Value.Base:
        sizes: list[int] = []

        def collect(place: Value.File | Value.Directory) -> str:
            directory = isinstance(place, Value.Directory)
            sizes.append(self.stdlib.size_of(place.value.rstrip("/") + "/" if directory else place.value))  # type: ignore[attr-defined]  # our library
            return str(place.value)

        Value.rewrite_paths(self._coerce_paths_argument(arguments[0], expr.arguments[0].type), collect)
        unit = arguments[1].value if len(arguments) > 1 else "B"
        if unit not in byte_size_units:
            raise Error.EvalError(expr, f"size(): {unit!r} is not a unit; choose from {', '.join(byte_size_units)}")
        return Value.Float(sum(sizes) / float(byte_size_units[unit]))


def plain_meta(meta: dict[str, Any]) -> Any:
    """Return a meta section as JSON values."""
    return Expr._meta_value_to_json(meta)
