"""Functions stay small enough to read in one sitting; modules hold one whole idea, neither a page nor a drawer."""

from __future__ import annotations

import ast

import pytest

from tests.house.numbers import imports
from tests.house.rooms import modules

LONGEST_FUNCTION = 50
LONGEST_MODULE = 700
"""A batch system, with its settings and the readers of its answers, is one subject and takes up to 660 lines."""
SHORT_MODULE = 60

SHORT_WITH_A_REASON: dict[str, str] = {}
"""Modules of fewer lines that only one other module imports. Any other such module belongs into that one."""


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("module", modules().values(), ids=lambda module: module.name)
def test_sizes(module):
    functions = [n for n in ast.walk(module.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [(f.name, code_lines(f)) for f in functions if code_lines(f) > LONGEST_FUNCTION] == []
    assert len(module.path.read_text().splitlines()) <= LONGEST_MODULE


def test_short_modules_have_several_users():
    known = set(modules())
    users: dict[str, list[str]] = {name: [] for name in known}
    for name, module in modules().items():
        for other in imports(name, module.tree, known):
            users[other].append(name)
    short = {
        name
        for name, module in modules().items()
        if len(users[name]) == 1 and not module.is_package and module.path.read_text().count("\n") < SHORT_MODULE
    }
    assert short == set(SHORT_WITH_A_REASON)


def test_code_lines_leave_the_docstring_out():
    (function,) = ast.parse('def f(a,\n      b):\n    """Two\n    lines."""\n    x = 1\n    return x\n').body
    assert code_lines(function) == 2
