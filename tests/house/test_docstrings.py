"""Numpydoc "Parameters" sections name the parameters of the signatures."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TypeAlias

import pytest

from tests.house.rooms import Module, modules

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def documented(docstring: str) -> list[str] | None:
    """The names in a docstring's "Parameters" section, in order; None without one."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+$|\Z)", docstring, re.DOTALL | re.MULTILINE)
    if section is None:
        return None
    heads = [line.partition(":")[0] for line in section[1].splitlines() if line and not line[0].isspace()]
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


def accepted(function: Function) -> list[str]:
    """The parameters of a function, in order, without self and cls."""
    a = function.args
    names = [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs, *([a.kwarg] if a.kwarg else [])]
    return [arg.arg for arg in names if arg.arg not in ("self", "cls")]


def fields(cls: ast.ClassDef) -> list[str]:
    """What a class is built from: the parameters of its `__init__`, or its annotated fields."""
    for node in cls.body:
        if isinstance(node, Function) and node.name == "__init__":
            return accepted(node)
    annotated = [node.target for node in cls.body if isinstance(node, ast.AnnAssign)]
    return [target.id for target in annotated if isinstance(target, ast.Name)]


def definitions(module: Module) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each public definition that documents parameters: where, documented, accepted."""
    for node in ast.walk(module.tree):
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        names = documented(ast.get_docstring(node) or "")
        if names is not None:
            real = fields(node) if isinstance(node, ast.ClassDef) else accepted(node)
            yield f"{module.name}.{node.name}", names, real


@pytest.mark.parametrize("module", modules().values(), ids=lambda module: module.name)
def test_parameters_match_the_signature(module):
    for where, names, real in definitions(module):
        assert names == real, where


def test_sections_are_read():
    text = "Do.\n\nParameters\n----------\na, b : int\n    Two.\n*rest\n    More.\n\nReturns\n-------\nint\n    A sum."
    assert documented(text) == ["a", "b", "rest"]
    assert documented("Do.") is None
    (function,) = ast.parse("def f(self, a, /, b, *rest, c=1, **more): ...").body
    assert accepted(function) == ["a", "b", "rest", "c", "more"]
