"""Numbers about the code: ``python -m tests.house.numbers [CHECKOUT ...]`` prints a column for each checkout."""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.house.rooms import ROOT, modules

Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def imports(name: str, tree: ast.Module, known: set[str]) -> set[str]:
    """Return the modules that a module imports when it is imported itself or later, but not for type checkers only."""
    found = set()
    for node in _walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in known else node.module for name in inner}
    return {other for other in found if other in known and other != name}


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _walk(child)


def components(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of nodes that reach each other, of two or more (Tarjan's algorithm)."""
    numbers: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        numbers[node] = low[node] = len(numbers)
        stack.append(node)
        for other in graph[node]:
            if other not in numbers:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], numbers[other])
        if low[node] == numbers[node]:
            group = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(group)

    for node in graph:
        if node not in numbers:
            visit(node)
    return found


def arrows(graph: dict[str, set[str]], packages: set[str]) -> dict[str, set[str]]:
    """Return the imports between the entries of each folder: its modules and subfolders, its ``__init__.py`` by itself.

    An import is drawn in the folder that holds both sides, between the two entries in which they are.
    """
    paths = {name: [*name.split("."), *(["__init__"] if name in packages else [])] for name in graph}
    found: dict[str, set[str]] = {}
    for name, others in graph.items():
        for other in others:
            common = next(n for n, (a, b) in enumerate(zip(paths[name], paths[other], strict=False)) if a != b)
            start, end = (".".join(paths[side][: common + 1]) for side in (name, other))
            found.setdefault(start, set()).add(end)
            found.setdefault(end, set())
    return found


def cycles(root: Path = ROOT) -> list[set[str]]:
    """Return the groups of entries of a folder, packages or modules, that import each other in a circle."""
    found = modules(root)
    graph = {name: imports(name, module.tree, set(found)) for name, module in found.items()}
    return components(arrows(graph, {name for name, module in found.items() if module.is_package}))


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function, without its decorators and its docstring."""
    first = function.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    docstring = (first.end_lineno or 0) - first.lineno + 1 if is_text else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def numbers(root: Path) -> dict[str, str]:
    """Return the rows of the table for one checkout."""
    found = modules(root)
    texts = {name: module.path.read_text() for name, module in found.items()}
    graph = {name: imports(name, module.tree, set(found)) for name, module in found.items()}
    packages = {name for name, module in found.items() if module.is_package}
    single = [name for name in set(texts) - packages if sum(name in others for others in graph.values()) == 1]
    functions = [node for module in found.values() for node in ast.walk(module.tree) if isinstance(node, Function)]
    lengths = sorted(map(lines_of, functions))
    lines = [line.strip() for text in texts.values() for line in text.splitlines()]
    comments = sum(line.startswith("#") for line in lines)
    documented = sum(ast.get_docstring(node) is not None for node in functions)
    return {
        "modules": str(len(texts)),
        "lines": f"{len(lines):,}",
        "lines of the median module": f"{statistics.median(len(text.splitlines()) for text in texts.values()):.0f}",
        "modules with one importer": str(len(single)),
        "... of fewer than 60 lines": str(sum(len(texts[name].splitlines()) < 60 for name in single)),
        "modules in import cycles": str(sum(map(len, components(graph)))),
        "entries of a folder (packages, modules) in import cycles": str(sum(map(len, cycles(root)))),
        "functions": f"{len(functions):,}",
        "lines of the median function": str(lengths[len(lengths) // 2]),
        "lines of nine in ten functions, at most": str(lengths[len(lengths) * 9 // 10]),
        "lines of the longest function": str(lengths[-1]),
        "lines that are comments": f"{comments / len(lines):.2%}",
        "functions with a docstring": f"{documented / len(functions):.0%}",
    }


def main(roots: list[str]) -> None:
    """Print the table."""
    columns = [numbers(Path(root)) for root in roots or [str(ROOT)]]
    for row in columns[0]:
        print("| " + " | ".join([row, *(column[row] for column in columns)]) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
