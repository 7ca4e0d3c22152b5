"""Paths in documents, input objects and arguments mean what they say, also with ``%`` or ``#`` in them.

A ``location`` is a URL, a ``path`` is a path (CWL v1.2, "File"), and cwltool reads both as URLs: ``a%20b`` would be the
file ``a b``. So paths are escaped before they are read.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote, urljoin

import cwltool.load_tool
import cwltool.main
from cwltool.argparser import generate_parser
from schema_salad.ref_resolver import Loader

__all__ = ["teach"]

_KEPT = ("file:", "data:", "_:", "$(", "${")
"""What is not a path: URLs, names of literals, expressions."""


class PathLoader(Loader):
    """Loads documents and input objects."""

    def resolve_all(self, document: Any, *arguments: Any, **named: Any) -> Any:
        """Resolve what a part of a document refers to."""
        if isinstance(document, MutableMapping) and document.get("class") in ("File", "Directory"):
            path = document.get("path")
            if isinstance(path, str):
                document["path"] = _escaped(path)
        return super().resolve_all(document, *arguments, **named)


def teach() -> None:
    """Have cwltool read paths as this module says. It may be called again."""
    cwltool.main.Loader = cwltool.load_tool.Loader = PathLoader  # type: ignore[attr-defined]
    cwltool.main.generate_parser = _with_paths  # type: ignore[assignment, attr-defined]


def _with_paths(parser: Any, tool: Any, names: Any, records: Any, required: bool, join: Any, base: str) -> Any:
    """Build the parser of a document's inputs, which accepts their full names only; `join` makes URLs of paths."""
    parser.allow_abbrev = False
    return generate_parser(parser, tool, names, records, required, _joined, base)


def _joined(base: str, path: str) -> str:
    return urljoin(base, _escaped(path))


def _escaped(path: str) -> str:
    return path if "://" in path or path.startswith(_KEPT) else quote(path)
