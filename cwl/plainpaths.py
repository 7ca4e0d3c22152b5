"""Make cwltool read paths in documents, input objects and arguments literally, even with ``%`` or ``#`` in them.

In CWL, a ``location`` is a URL and a ``path`` is a path (CWL v1.2, "File"), but cwltool reads both as URLs, so that
``a%20b`` would mean the file ``a b``. Paths are therefore escaped before cwltool reads them.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote, urljoin

import cwltool.load_tool
import cwltool.main
from cwltool.argparser import generate_parser
from schema_salad.ref_resolver import Loader

__all__ = ["patch_cwltool"]

_KEPT = ("file:", "data:", "_:", "$(", "${")
"""Beginnings of texts that are not paths: URLs, names of literals, expressions."""


class PathLoader(Loader):
    """Loads documents and input objects, with escaped paths."""

    def resolve_all(self, document: Any, *arguments: Any, **named: Any) -> Any:
        """Resolve the references in a part of a document."""
        if isinstance(document, MutableMapping) and document.get("class") in ("File", "Directory"):
            path = document.get("path")
            if isinstance(path, str):
                document["path"] = _escaped(path)
        return super().resolve_all(document, *arguments, **named)


def patch_cwltool() -> None:
    """Patch cwltool to read paths literally. May be called again."""
    cwltool.main.Loader = cwltool.load_tool.Loader = PathLoader  # type: ignore[attr-defined]
    cwltool.main.generate_parser = _with_paths  # type: ignore[assignment, attr-defined]


def _with_paths(parser: Any, tool: Any, names: Any, records: Any, required: bool, join: Any, base: str) -> Any:
    """Build the parser for a document's inputs; it escapes paths, and accepts only full names."""
    parser.allow_abbrev = False
    return generate_parser(parser, tool, names, records, required, _joined, base)


def _joined(base: str, path: str) -> str:
    return urljoin(base, _escaped(path))


def _escaped(path: str) -> str:
    return path if "://" in path or path.startswith(_KEPT) else quote(path)
