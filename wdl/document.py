"""Read and check a document with miniwdl, from files, URLs, tool registries and archives.

Errors are reported in the format of compilers. Registries implement the GA4GH Tool Registry Service API, version 2, as
Dockstore does. Archives are those of ``miniwdl zip``: ``MANIFEST.json`` names the main document and default inputs. It
has the format of the Amazon Genomics CLI ("workflow.zip": ``mainWorkflowURL``, ``inputFileURLs``).
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin

import WDL
from WDL import Error, Expr, Lint, Tree, Type, read_source_default
from WDL.Tree import ReadSourceResult

from toilfn import confined
from toilfn.errors import InputError
from toilfn.files import transfer
from toilfn.files.downloads import user_cache_dir
from toilfn.files.trees import state_of_target
from toilfn.wdl import dialect
from toilfn.wdl.paths import is_url
from toilfn.wdl.problems import WDLError, where
from toilfn.wdl.program import Source, nodes
from toilfn.wdl.syntax import with_plain_version

__all__ = ["Opened", "entrypoint", "lint", "load_document", "located", "named_files", "opened", "reader", "source"]

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


_TOO_DEEP = (
    "an expression is nested too deeply, or too many declarations depend on each other; split it into several parts"
)


def load_document(place: str, *, path: Sequence[str] = (), strict: bool = True) -> Tree.Document:
    """Parse a document with all its imports, and check its types.

    Parameters
    ----------
    place : str
        A path, a URL, or the id of a tool in a registry (`toilfn.wdl.document`).
    path : sequence of str
        Additional directories to search for imports.
    strict : bool
        Whether optional and non-empty types are checked.

    Raises
    ------
    WDLError
        If the document is invalid. The message has one line for each problem, with file, line and column.
    """
    dialect.patch_miniwdl()
    try:
        return _loaded(place, path, strict=strict)
    except (Error.SyntaxError, Error.ImportError, Error.ValidationError, Error.MultipleValidationErrors) as error:
        raise WDLError("\n".join([*_lines(error), *(_advice(place, path) if strict else [])])) from error
    except FileNotFoundError:
        raise InputError(f"WDL document not found: {place}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{place} is not a WDL document: not UTF-8 text ({error.reason})") from None
    except RecursionError:
        raise WDLError(f"{place}: {_TOO_DEEP}") from None


def _loaded(place: str, path: Sequence[str], *, strict: bool) -> Tree.Document:
    document = WDL.load(located(place), path=list(path), check_quant=strict, read_source=reader())
    dialect.check(document)
    return document


def _advice(place: str, path: Sequence[str]) -> list[str]:
    """Suggest the option for documents with wrong uses of ``?`` and ``+``, as many documents for Cromwell have."""
    try:
        _loaded(place, path, strict=False)
    except Exception:  # the first error is reported anyway
        return []
    return ["if other runners accept it, use --no-quant-check (in Python quant_check=False), which ignores ? and +"]


def _lines(error: Any) -> list[str]:
    if isinstance(error, Error.MultipleValidationErrors):
        return [line for inner in error.exceptions for line in _lines(inner)]
    if isinstance(error, Error.ImportError):
        cause = error.__cause__
        if isinstance(cause, (Error.SyntaxError, Error.ImportError, Error.ValidationError)):
            return _lines(cause)
        if isinstance(cause, Error.MultipleValidationErrors):
            return _lines(cause)
        return [f"{where(error.pos)}: {error}{f': {cause}' if cause else ''}"]
    return [f"{where(error)}: {str(error).splitlines()[0]}"]


def lint(document: Tree.Document, suppress: Collection[str] = ()) -> list[str]:
    """Lint a document, and return the warnings, except those of some kinds; each has file, line and column."""
    try:
        Lint.lint(document)
    except Exception as error:  # an error of the linter itself: the document is valid
        return [f"{where(document)}: miniwdl's linter fails: {type(error).__name__}: {error} (LinterFailure)"]
    found = sorted({entry[:3] for entry in Lint.collect(document) if not entry[3] and entry[1] not in suppress})
    return [f"{where(pos)}: {text} ({kind})" for pos, kind, text in found]


def source(document: Tree.Document) -> Source:
    """Return a document as an argument of tasks."""
    digest = hashlib.sha256()
    states = named_files(dict(nodes(document)))
    for text in (*_texts(document), *states.values()):
        digest.update(f"{len(text)} {text}".encode())
    try:
        return Source(digest.hexdigest(), pickle.dumps((document, states)))
    except RecursionError:
        raise WDLError(f"{where(document)}: {_TOO_DEEP}") from None


def _texts(document: Tree.Document) -> list[str]:
    own = [document.pos.abspath, document.source_text]
    return own + [text for imported in document.imports if imported.doc for text in _texts(imported.doc)]


def entrypoint(document: Tree.Document, name: str | None = None) -> Any:
    """Find the workflow or task to run.

    Parameters
    ----------
    document : WDL.Tree.Document
    name : str, optional
        Its name; by default the workflow, or the only task.

    Raises
    ------
    WDLError
        If there is none, or it is ambiguous.
    """
    own: list[Any] = [*([document.workflow] if document.workflow else []), *document.tasks]
    named = {node.name: node for node in own}
    if name is not None:
        if name not in named:
            raise WDLError(f"{document.pos.uri} has no task or workflow {name!r}; it has {', '.join(named) or 'none'}")
        return named[name]
    if document.workflow:
        return document.workflow
    if len(named) != 1:
        found = f"the tasks {', '.join(named)}" if named else "no task"
        raise WDLError(f"{document.pos.uri} has no workflow, and {found}", hint="choose one with --task NAME")
    return document.tasks[0]


def named_files(nodes: Mapping[tuple[str, ...], Any]) -> dict[tuple[str, ...], str]:
    """Return a digest for each task and workflow that names files, as in ``File x = "/data/ref.fa"``.

    It is computed from the sizes and times of these files, and of the files that callees name.

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
        for text, kind in _possible_paths(part, "") if id(part) not in outputs else ():
            place = os.path.join(folder, text)
            if os.path.isfile(place) or (kind == "Directory" and os.path.isdir(place)):
                yield place, str(state_of_target(place))


def _possible_paths(part: Any, kind: str) -> Iterator[tuple[str, str]]:
    """Iterate over the texts that may be paths: Files, Directories, and arguments of functions that read files."""
    if isinstance(part, Tree.Decl):
        kind = _kind_of_path(part.type)
    if isinstance(part, Expr.Apply) and part.function_name.startswith(_READERS):
        kind = "File"
    if isinstance(part, Tree.Call) and part.callee is not None:
        for name, expr in part.inputs.items():
            yield from _possible_paths(expr, _kind_of_path(part.callee.available_inputs[name].type))
        return
    if kind and isinstance(part, Expr.String) and part.literal is not None:
        yield part.literal.value, kind
    for child in part.children:
        yield from _possible_paths(child, kind)


_READERS = ("read_", "size")


def _kind_of_path(declared: Type.Base) -> str:
    return next((kind for kind in ("Directory", "File") if kind in str(declared)), "")
