"""Requests of clients: the fields of a form, checked, and made into the request that a run's record keeps."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from toilfn import __version__, confined
from toilfn.errors import InputError
from toilfn.server import archives
from toilfn.server.engines import ENGINE, INPUTS, KINDS, Kind, engine_options, kind_of, script_words
from toilfn.server.uploads import LONE

__all__ = ["FETCHED", "Policy", "document_of", "kinds_offered", "read_object", "request_of"]

FETCHED = ("s3", "gs", "gcs")
"""Schemes of documents that are fetched before the engine sees them."""

_REMOTE = ("http", "https", *FETCHED)
_DEEPEST = 100
"""Levels of nesting that JSON may have."""

_TOOL = re.compile(r"[\w-]+(\.[\w-]+)+/[\w./-]+:[\w.-]+")
"""A tool's id in a registry, with its version."""


@dataclass(frozen=True)
class Policy:
    """The operator's choices.

    Attributes
    ----------
    kinds : tuple of str
        Kinds of workflows that are run.
    folders : tuple of str
        Where documents of ``file:`` URLs may be.
    defaults : tuple of str
        Options of the command that come before those of requests.
    cluster : str or None
        Where tasks run.
    store_base, outputs_base : str or None
        A URL under which each run has its job store, or its outputs; by default they are in its folder.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    folders: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()
    cluster: str | None = None
    store_base: str | None = None
    outputs_base: str | None = None
    limits: archives.Limits = field(default_factory=archives.Limits)


def request_of(fields: Mapping[str, str], files: Path, owner: str, id: str, policy: Policy) -> dict[str, Any]:
    """Check the fields of a form, and return the request for the run's record.

    Parameters
    ----------
    fields : mapping of str to str
    files : Path
        The folder of attachments; an archive among them is opened, and the file of inputs is written there.
    owner : str
    id : str
        The run's.
    policy : Policy

    Raises
    ------
    InputError
        If the request cannot be run; names the field.
    """
    for name in ("workflow_type", "workflow_type_version", "workflow_url"):
        if not fields.get(name, "").strip():
            raise InputError(f"{name}: is missing")
    kind = kind_of(fields["workflow_type"].strip(), fields["workflow_type_version"].strip(), policy.kinds)
    _check_engine(fields.get("workflow_engine", ""), fields.get("workflow_engine_version", ""))
    tags = _strings("tags", read_object("tags", fields.get("tags")))
    parameters = read_object("workflow_engine_parameters", fields.get("workflow_engine_parameters"))
    params = read_object("workflow_params", fields.get("workflow_params"))
    document = document_of(fields["workflow_url"].strip(), files, kind, policy)
    if document.endswith(".zip") and "://" not in document:
        unpacked = archives.unpack(confined_path(files, document), files, kind.suffix, policy.limits)
        document, params, parameters = unpacked.document, unpacked.params | params, unpacked.options | parameters
    options = [
        *(f"--cluster={policy.cluster}" for _ in [policy.cluster] if policy.cluster),
        *policy.defaults,
        *engine_options(kind, parameters, "workflow_engine_parameters"),
    ]
    if kind.name == "PYTHON":
        list(script_words(params))
    _write_inputs(files, params)
    return {
        "run_id": id, "owner": owner, "submitted": time.time(), "kind": kind.name, "document": document,
        "options": options, "params": params, "store": _below(policy.store_base, id),
        "outputs": _below(policy.outputs_base, id),
        "request": _told(fields, params, _strings("workflow_engine_parameters", parameters), tags),
    }  # fmt: skip


def _told(fields: Mapping[str, str], params: Any, parameters: dict[str, str], tags: dict[str, str]) -> dict[str, Any]:
    """Return the request as a client reads it again."""
    names = ("workflow_type", "workflow_type_version", "workflow_engine", "workflow_engine_version", "workflow_url")
    plain = {name: fields[name] for name in names if fields.get(name)}
    return {**plain, "workflow_params": params, "workflow_engine_parameters": parameters, "tags": tags}


def read_object(name: str, text: str | None) -> dict[str, Any]:
    """Read a field that is a JSON object; nothing stands for an empty one.

    Raises
    ------
    InputError
        If it is not JSON, is nested too deeply, or is something else than an object.
    """
    if text is None or not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise InputError(f"{name}: is nested too deeply; {_DEEPEST} levels are allowed") from None
    except ValueError as error:
        raise InputError(f"{name}: is not JSON: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{name}: must be a JSON object")
    if _is_deeper([value], _DEEPEST):
        raise InputError(f"{name}: is nested too deeply; {_DEEPEST} levels are allowed")
    return value


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not allowed")


def _is_deeper(values: Sequence[Any], levels: int) -> bool:
    while values and levels:
        values = [each for value in values for each in _parts(value)]
        levels -= 1
    return bool(values)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _strings(name: str, values: Mapping[str, Any]) -> dict[str, str]:
    for key, value in values.items():
        if isinstance(value, (dict, list)):
            raise InputError(f"{name}: the value of {key!r} must be a string")
    return {key: _string(value) for key, value in values.items()}


def _string(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _check_engine(engine: str, version: str) -> None:
    if version and not engine:
        raise InputError("workflow_engine: is missing; it is required where workflow_engine_version is given")
    if engine and engine.lower() != ENGINE:
        raise InputError(f"workflow_engine: {engine!r} is not an engine of this server; it has {ENGINE}")
    if version and version != __version__:
        raise InputError(f"workflow_engine_version: {version!r} is not the version that runs here: {__version__}")


def document_of(url: str, files: Path, kind: Kind, policy: Policy) -> str:
    """Interpret a ``workflow_url``: as a URL, an absolute path, or the name of an attachment.

    Raises
    ------
    InputError
        If it cannot be read, or may not be.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if any(ord(letter) < 0x20 or letter == "\x7f" for letter in url):
        raise InputError("workflow_url: contains a control character")
    if scheme in _REMOTE and parts.netloc:
        return url
    if scheme == "trs" and parts.netloc:
        return _of_registry(url, kind)
    if (scheme == "file" and parts.netloc in ("", "localhost")) or url.startswith("/"):
        return _allowed(unquote(parts.path), parts.fragment, policy.folders)
    name = _attached(unquote(url.partition("#")[0]), files)
    if scheme and not (files / name).is_file() and not _TOOL.fullmatch(url):
        raise InputError(f"workflow_url: {url!r} cannot be read; give a relative path, or http, https, s3, gs or trs")
    try:
        if confined.inside(files, name).is_file():
            return confined.relative(name) + (f"#{parts.fragment}" if parts.fragment else "")
    except InputError as error:
        raise InputError(f"workflow_url: {error}") from None
    if _TOOL.fullmatch(url):
        return url
    raise InputError(f"workflow_url: {url!r} is relative, and no workflow_attachment has this name")


def _attached(name: str, files: Path) -> str:
    """Return the name of an attachment that a relative URL means: of a lone document, the client names the parent."""
    is_lone = re.fullmatch(r"\.|\.\./(?!\.\.$)[^/]+", name)
    return LONE if is_lone and (files / LONE).is_file() else name


def _allowed(path: str, fragment: str, folders: Iterable[str]) -> str:
    """Return the path of a document on this machine, if it is in one of the allowed folders."""
    if "\0" in path:
        raise InputError("workflow_url: contains a null character")
    real = os.path.realpath(path)
    for folder in folders:
        root = os.path.realpath(folder)
        if real.startswith(root.rstrip("/") + "/") and os.path.isfile(real):
            return real + (f"#{fragment}" if fragment else "")
    raise InputError(f"workflow_url: {path!r} is not a file in a folder from which this server runs documents")


def _of_registry(url: str, kind: Kind) -> str:
    """Return where a tool registry (TRS, version 2) has the document of ``trs://HOST/ID/VERSION``."""
    host, _, rest = url.removeprefix("trs://").partition("/")
    tool, _, version = rest.rpartition("/")
    if not (tool and version):
        raise InputError("workflow_url: a tool's URL must be trs://HOST/ID/VERSION")
    tool, version = quote(unquote(tool), safe=""), quote(unquote(version), safe="")
    return f"https://{host}/ga4gh/trs/v2/tools/{tool}/versions/{version}/PLAIN_{kind.name}/descriptor"


def confined_path(files: Path, name: str) -> Path:
    """Return the path of an attachment, or of a file that was already allowed."""
    return Path(name) if name.startswith("/") else confined.inside(files, name)


def _write_inputs(files: Path, params: Mapping[str, Any]) -> None:
    files.mkdir(parents=True, exist_ok=True)
    path = files / INPUTS
    if path.exists() or path.is_symlink():
        raise InputError(f"workflow_attachment: {INPUTS} is the name of the file of inputs; choose another one")
    path.write_text(json.dumps(params, indent=1))


def _below(base: str | None, id: str) -> str | None:
    return f"{base.rstrip('/')}/{id}" if base else None


def kinds_offered(policy: Policy) -> list[Kind]:
    """Return the kinds of workflows that a server runs."""
    return [KINDS[name] for name in policy.kinds]
