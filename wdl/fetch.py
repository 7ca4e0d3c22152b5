"""Where documents come from: files, URLs, and registries of tools."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urljoin

from WDL import Tree, read_source_default
from WDL.Tree import ReadSourceResult

from toilfn.wdl.paths import is_url

__all__ = ["reader"]

Reader = Callable[[str, "list[str]", "Tree.Document | None"], Awaitable[ReadSourceResult]]


def reader() -> Reader:
    """Make what `WDL.load` reads documents with."""

    async def read(uri: str, path: list[str], importer: Tree.Document | None) -> ReadSourceResult:
        place = _relative_to(uri, importer)
        if not is_url(place):
            return await read_source_default(place, path, importer)
        return ReadSourceResult(source_text=_fetch(place), abspath=place)

    return read


def _relative_to(uri: str, importer: Tree.Document | None) -> str:
    if uri.startswith("file://"):
        return uri.removeprefix("file://")
    if importer is not None and is_url(importer.pos.abspath) and not is_url(uri):
        return urljoin(importer.pos.abspath, uri)
    return uri


def _fetch(url: str) -> str:
    import fsspec

    with fsspec.open(url, "r", encoding="utf-8") as stream:
        return str(stream.read())
