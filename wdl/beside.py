"""Find the files that a document names: when one of them changes, the tasks that may read it run again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from WDL import Expr, Tree, Type

from toilfn.files.transfer import state_of_target

__all__ = ["states"]


def states(nodes: Mapping[tuple[str, ...], Any]) -> dict[tuple[str, ...], str]:
    """Return digests of the states of the files that tasks and workflows name, including those of their callees.

    Parameters
    ----------
    nodes : mapping
        The `WDL.Tree.Task` and `WDL.Tree.Workflow` objects of a document by their paths.

    Returns
    -------
    dict
        Digests by path, only for nodes that name existing files.
    """
    own = {path: sorted(_named(node)) for path, node in nodes.items()}
    found = {}
    for path, node in nodes.items():
        within = path[:-1] if isinstance(node, Tree.Workflow) else path
        named = sorted({item for other, items in own.items() if other[: len(within)] == within for item in items})
        if named:
            found[path] = hashlib.sha256(repr(named).encode()).hexdigest()
    return found


def _named(node: Any) -> Iterator[tuple[str, str]]:
    """Iterate over the existing files and directories that a node names, with their states."""
    folder = os.path.dirname(str(node.pos.abspath))
    outputs = set(map(id, node.outputs or ())) if isinstance(node, Tree.Task) else set()  # created by the command
    for part in node.children:
        for text, kind in _texts(part, "") if id(part) not in outputs else ():
            place = os.path.join(folder, text)
            if os.path.isfile(place) or (kind == "Directory" and os.path.isdir(place)):
                yield place, str(state_of_target(place))


def _texts(part: Any, kind: str) -> Iterator[tuple[str, str]]:
    """Iterate over the texts that may be paths: Files, Directories, and arguments of functions that read files."""
    if isinstance(part, Tree.Decl):
        kind = _kind(part.type)
    if isinstance(part, Expr.Apply) and part.function_name.startswith(_READERS):
        kind = "File"
    if isinstance(part, Tree.Call) and part.callee is not None:
        for name, expr in part.inputs.items():
            yield from _texts(expr, _kind(part.callee.available_inputs[name].type))
        return
    if kind and isinstance(part, Expr.String) and part.literal is not None:
        yield part.literal.value, kind
    for child in part.children:
        yield from _texts(child, kind)


_READERS = ("read_", "size")


def _kind(declared: Type.Base) -> str:
    return next((kind for kind in ("Directory", "File") if kind in str(declared)), "")
