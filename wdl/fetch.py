"""Fetch documents from files, URLs, tool registries and archives.

Registries implement the GA4GH Tool Registry Service API, version 2, as Dockstore does. Archives are those of
``miniwdl zip``: ``MANIFEST.json`` names the main document and default inputs. It has the format of the Amazon Genomics
CLI ("workflow.zip": ``mainWorkflowURL``, ``inputFileURLs``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urljoin

from WDL import Tree, read_source_default
from WDL.Tree import ReadSourceResult

from toilfn import confined
from toilfn.errors import InputError
from toilfn.files import transfer
from toilfn.files.downloads import user_cache_dir
from toilfn.wdl.paths import is_url
from toilfn.wdl.syntax import with_plain_version

__all__ = ["Opened", "located", "opened", "reader"]

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


_MANIFEST = "MANIFEST.json"


class Opened(NamedTuple):
    """The main document of an archive, and its inputs."""

    document: str
    inputs: list[str]
    """Input files to read before those of the user."""


def opened(place: str) -> Opened:
    """Find the main document of an archive or an unpacked archive; any other path is a document itself.

    Archives are unpacked in the user's cache directory, where a resumed run finds their files again.

    Raises
    ------
    InputError
        If the main document cannot be determined.
    """
    path = Path(place)
    if path.is_dir():
        return _main(path)
    if path.suffix == ".zip" and path.is_file():
        return _main(_unpacked(path))
    return Opened(place, [])


def _main(folder: Path) -> Opened:
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        return Opened(
            str(confined.inside(folder, manifest["mainWorkflowURL"])),
            [str(confined.inside(folder, name)) for name in manifest.get("inputFileURLs", [])],
        )
    except FileNotFoundError:
        raise InputError(f"{folder} is a directory without a {_MANIFEST}; it cannot be run as WDL") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / _MANIFEST} does not name the main document as mainWorkflowURL: {error}") from None


def _unpacked(archive: Path) -> Path:
    folder = user_cache_dir() / "wdl-archives" / hashlib.blake2b(archive.read_bytes(), digest_size=16).hexdigest()
    if folder.exists():
        return folder
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as content:
            content.extractall(draft)
        draft.rename(folder)
    except zipfile.BadZipFile as error:
        raise InputError(f"{archive} is not a valid archive: {error}") from None
    except OSError:
        if not folder.exists():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder
