"""Fetch documents from files, URLs and tool registries.

Registries implement the GA4GH Tool Registry Service API, version 2, as Dockstore does.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable
from urllib.parse import quote, urljoin

from WDL import Tree, read_source_default
from WDL.Tree import ReadSourceResult

from toilfn.errors import InputError
from toilfn.files import transfer
from toilfn.wdl.paths import is_url
from toilfn.wdl.syntax import with_plain_version

__all__ = ["located", "reader"]

Reader = Callable[[str, "list[str]", "Tree.Document | None"], Awaitable[ReadSourceResult]]

_TOOL = re.compile(r"(?P<id>(#workflow/|#notebook/)?[\w.-]+\.[a-z]+/[\w./-]+):(?P<version>[\w./-]+)")
_REGISTRY = "https://dockstore.org/api"
"""The default registry; the environment variable ``TOILFN_TRS_SERVER`` overrides it."""


def located(place: str) -> str:
    """Return the path or URL of a document; look up the id of a tool in its registry."""
    tool = None if os.path.exists(place) else _TOOL.fullmatch(place)
    return _registered(tool["id"], tool["version"]) if tool else place


def reader() -> Reader:
    """Return the function with which `WDL.load` reads documents."""

    async def read(uri: str, path: list[str], importer: Tree.Document | None) -> ReadSourceResult:
        place = _relative_to(uri, importer)
        if is_url(place):
            return ReadSourceResult(source_text=with_plain_version(_fetch(place), place), abspath=place)
        found = await read_source_default(place, path, importer)
        return ReadSourceResult(with_plain_version(found.source_text, found.abspath), found.abspath)

    return read


def _relative_to(uri: str, importer: Tree.Document | None) -> str:
    if uri.startswith("file://"):
        return uri.removeprefix("file://")
    if importer is not None and is_url(importer.pos.abspath) and not is_url(uri):
        return urljoin(importer.pos.abspath, uri)
    return uri


def _registered(tool: str, version: str) -> str:
    """Return the URL of a tool's document from a registry."""
    server = os.environ.get("TOILFN_TRS_SERVER", _REGISTRY).rstrip("/")
    name = tool if tool.startswith("#") else f"#workflow/{tool}"
    where = f"{server}/ga4gh/trs/v2/tools/{quote(name, safe='')}/versions/{quote(version, safe='')}/WDL/descriptor"
    answer = json.loads(_fetch(where))
    if not isinstance(answer, dict) or not answer.get("url"):
        raise InputError(f"registry {server} has no URL for the document of {tool}:{version}")
    return str(answer["url"])


def _fetch(url: str) -> str:
    try:
        return transfer.read(url).decode().replace("\r\n", "\n")
    except OSError as error:
        raise FileNotFoundError(f"{url}: {error}") from error
