"""Check the requests of clients, and build the command for a run.

`KINDS` has the kinds of workflows, and the options that clients may pass for each. `request_of` checks the fields of a
form, and converts them to the request in the run's record. `command` builds the command from that request.
"""

from __future__ import annotations

import json
import os
import re
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from toilfn import __version__, confined
from toilfn.config.settings import Settings
from toilfn.errors import InputError
from toilfn.server import uploads
from toilfn.server.uploads import LONE

__all__ = [
    "ENGINE", "FETCHED", "INPUTS", "KINDS", "Kind", "Policy", "command", "document_of", "engine_options", "kind_of",
    "kinds_offered", "program", "read_object", "request_of",
]  # fmt: skip

ENGINE = "toilfn"
"""The name of this engine in requests."""

INPUTS = "wes_inputs.json"
"""The name of the file with the inputs of a run, in the folder of the uploaded files."""

_VALUES = [
    "default-cores",
    "default-memory",
    "default-disk",
    "default-walltime",
    "default-accelerators",
    "max-cores",
    "max-memory",
    "max-disk",
    "max-jobs",
    "max-local-jobs",
    "max-service-tasks",
    "workers",
    "bundle",
    "gather",
    "retries",
    "retry-backoff",
    "memory-retries",
    "walltime-retries",
    "preempted-retries",
    "lost-retries",
    "log-level",
    "log-limit",
    "cache-size",
    "clean-work-dir",
]
_FLAGS = ["default-preemptible", "double-memory", "double-walltime", "stream-logs", "fresh-process", "progress"]

_CHOSEN = ["outdir", "output-directory", "tmpdir-prefix", "tmp-outdir-prefix", "basedir", "job-store", "store", "clean"]
"""Options that clients for Toil send but the server chooses itself; they are ignored."""

_TOILS = {
    "retry-count": "retries",
    "double-mem": "double-memory",
    "default-preemptable": "default-preemptible",
    "log-debug": "log-level=debug",
    "log-info": "log-level=info",
    "log-warning": "log-level=warning",
    "log-error": "log-level=error",
    "log-critical": "log-level=critical",
}
"""Other names for options of toilfn."""


class Kind(NamedTuple):
    """A kind of workflow."""

    name: str
    versions: tuple[str, ...]
    aliases: frozenset[str]
    """Other names of the kind and of its versions, in lower case."""
    suffix: str
    values: frozenset[str]
    """Options with a value, in addition to those of every run."""
    flags: frozenset[str]


def _kind(name: str, versions: str, aliases: str, suffix: str, values: str, flags: str) -> Kind:
    return Kind(
        name, tuple(versions.split()), frozenset(aliases.split()), suffix,
        frozenset([*_VALUES, *values.split()]), frozenset([*_FLAGS, *flags.split()]),
    )  # fmt: skip


KINDS = {
    kind.name: kind
    for kind in (
        _kind(
            "CWL", "v1.0 v1.1 v1.2", "1.0 1.1 1.2", "cwl", "default-container target",
            "quiet debug no-reuse enable-ext enable-dev strict non-strict relax-path-checks skip-schemas "
            "no-container docker podman singularity udocker strict-memory-limit strict-cpu-limit bypass-file-store",
        ),
        _kind(
            "WDL", "draft-2 1.0 1.1 1.2 1.3", "draft-3 v1.0 v1.1 v1.2", "wdl",
            "container default-container runtime-defaults runtime-cpu-max runtime-memory-max entrypoint "
            "output-dialect none empty",
            "use-relative-output-paths all-call-outputs copy-input-files no-cache quant-check",
        ),
        _kind("PYTHON", "3 3.10 3.11 3.12 3.13", "py python 2.7 3.7 3.8 3.9 3.14", "py", "", ""),
    )
}  # fmt: skip


def kind_of(name: str, version: str, allowed: Iterable[str]) -> Kind:
    """Return the kind of workflow that a request names, ignoring case.

    Raises
    ------
    InputError
        If this server does not run workflows of this kind; the message lists the kinds that it runs.
    """
    known = [KINDS[each] for each in allowed]
    kind = next((k for k in known if name.lower() in {k.name.lower(), *k.aliases} and not name[:1].isdigit()), None)
    if kind is None:
        names = ", ".join(k.name for k in known)
        raise InputError(f"workflow_type: this server does not run {name!r}", hint=f"it runs {names}")
    if version.lower() not in {*kind.versions, *kind.aliases}:
        raise InputError(
            f"workflow_type_version: this server does not run version {version!r} of {kind.name}",
            hint=f"it runs {', '.join(kind.versions)}",
        )
    return kind


def engine_options(kind: Kind, parameters: Mapping[str, Any], origin: str) -> Iterator[str]:
    """Yield the command's options for the engine parameters of a request.

    Parameters
    ----------
    kind : Kind
    parameters : mapping
        Values by the names of options, with or without dashes, in the spelling of toilfn or Toil. The value None means
        that the option is a flag.
    origin : str
        The field or option that has the parameters, for errors.

    Raises
    ------
    InputError
        If an option is not allowed, or its value is wrong.
    """
    for given, value in parameters.items():
        name = _spelled(given)
        name, _, fixed = _TOILS.get(name, name).partition("=")
        if name == "debug" and name not in kind.flags:
            name, fixed = "log-level", "debug"
        if name in _CHOSEN:
            continue
        if name in kind.flags:
            yield from _flag(name, value, f"{origin}: {given}")
        elif name in kind.values:
            yield f"--{name}={_value(name, fixed or value, f'{origin}: {given}')}"
        else:
            allowed = sorted(kind.values | kind.flags)
            near = get_close_matches(name, allowed, n=1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"{origin}: {given!r} is not an allowed option", hint=f"{meant}allowed are {', '.join(allowed)}"
            )


def _spelled(name: str) -> str:
    """Convert names such as ``--maxCores`` and ``max_cores`` to ``max-cores``."""
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name.lstrip("-")).lower()
    return parts.replace("_", "-")


def _flag(name: str, value: Any, where: str) -> Iterator[str]:
    if value is None or value is True or str(value).lower() in ("", "true", "yes", "1"):
        yield f"--{name}"
    elif not (value is False or str(value).lower() in ("false", "no", "0")):
        raise InputError(f"{where} is a flag", hint="its value must be null, true or false")


def _value(name: str, value: Any, where: str) -> str:
    if value is None or isinstance(value, (dict, list, bool)):
        raise InputError(f"{where} needs a value, as a string")
    text = str(value)
    if "\0" in text:
        raise InputError(f"{where} contains a null character")
    if name == "runtime-defaults" and not text.lstrip().startswith("{"):
        raise InputError(f"{where} must be a JSON object")
    setting = next((entry for entry in fields(Settings) if entry.name == name.replace("-", "_")), None)
    if setting is not None:
        try:
            setting.metadata["parse"](text)
        except (ValueError, InputError) as error:
            raise InputError(f"{where}: {text!r} is not valid: {error}") from None
    return text


def program(name: str) -> str:
    """Return the path of a command that was installed with toilfn."""
    return str(Path(sysconfig.get_path("scripts"), name))


def command(request: Mapping[str, Any], folder: Path, store: str, outputs: str) -> list[str]:
    """Return the command for a run, which must be started in the folder of the uploaded files.

    Parameters
    ----------
    request : mapping
        The request from `request_of`.
    folder : Path
        The run's folder.
    store : str
        Path or URL of the run's job store.
    outputs : str
        Directory or URL for outputs.
    """
    options, document = [*request["options"], f"--store={store}"], str(request["document"])
    inputs = str(folder / "files" / INPUTS)
    if "://" not in document:
        document = str(folder / "files" / document) if not document.startswith("/") else document
    if request["kind"] == "CWL":
        return [program("toilfn-cwl-runner"), *options, f"--outdir={outputs}", document, inputs]
    if request["kind"] == "WDL":
        given = ["-i", inputs] if request["params"] else []
        return [program("toilfn-wdl-runner"), *options, "-o", outputs, document, *given]
    words = list(script_words(request["params"]))
    return [program("toilfn"), "run", document, *options, *(["--", *words] if words else [])]


def script_words(params: Mapping[str, Any]) -> Iterator[str]:
    """Yield the command-line arguments for the inputs of a script.

    Inputs become ``--name=value``, or ``--name`` if the value is true. The items of the input ``args`` are passed
    unchanged.

    Raises
    ------
    InputError
        If a name is not valid as the name of an option.
    """
    for name, value in params.items():
        if name == "args" and isinstance(value, list):
            yield from map(str, value)
            continue
        if not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
            raise InputError(f"workflow_params: {name!r} is not a valid name for an option of a script")
        for each in value if isinstance(value, list) else [value]:
            if each is None or each is True:
                yield f"--{name}"
            elif each is not False:
                yield f"--{name}={each if isinstance(each, str) else json.dumps(each)}"


FETCHED = ("s3", "gs", "gcs")
"""URL schemes of documents that the leader downloads, since the engines do not read them."""

_REMOTE = ("http", "https", *FETCHED)
_DEEPEST = 100
"""Maximum number of nested levels in the JSON of a request."""

_TOOL = re.compile(r"[\w-]+(\.[\w-]+)+/[\w./-]+:[\w.-]+")
"""The id of a tool in a registry, with its version."""


@dataclass(frozen=True)
class Policy:
    """The operator's settings for runs.

    Attributes
    ----------
    kinds : tuple of str
        Kinds of workflows that the server runs.
    folders : tuple of str
        Folders from which documents with ``file:`` URLs may come.
    defaults : tuple of str
        Options for the command of every run. They come before those of the request, which can override them.
    cluster : str or None
        The cluster that runs the tasks; None means the local cluster.
    store_base, outputs_base : str or None
        The URL under which each run has its job store, or its outputs. None means in the run's folder.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    folders: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()
    cluster: str | None = None
    store_base: str | None = None
    outputs_base: str | None = None
    limits: uploads.Limits = field(default_factory=uploads.Limits)


def request_of(fields: Mapping[str, str], files: Path, owner: str, id: str, policy: Policy) -> dict[str, Any]:
    """Check the fields of a form, and return the request for the run's record.

    Parameters
    ----------
    fields : mapping of str to str
    files : Path
        The folder of attachments. If the document is an archive, it is unpacked there, and the file with the inputs is
        written there.
    owner : str
        The name of the user.
    id : str
        The id of the run.
    policy : Policy

    Raises
    ------
    InputError
        If the request cannot be run. The message names the field.
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
        unpacked = uploads.unpack(confined_path(files, document), files, kind.suffix, policy.limits)
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
    """Return the request in the form in which clients can read it later."""
    names = ("workflow_type", "workflow_type_version", "workflow_engine", "workflow_engine_version", "workflow_url")
    plain = {name: fields[name] for name in names if fields.get(name)}
    return {**plain, "workflow_params": params, "workflow_engine_parameters": parameters, "tags": tags}


def read_object(name: str, text: str | None) -> dict[str, Any]:
    """Parse a field with a JSON object; a missing or empty field means an empty object.

    Raises
    ------
    InputError
        If the field is not a JSON object, or is nested too deeply.
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
        raise InputError("workflow_engine: is missing, and required because of workflow_engine_version")
    if engine and engine.lower() != ENGINE:
        raise InputError(f"workflow_engine: this server does not have {engine!r}; it has {ENGINE}")
    if version and version != __version__:
        raise InputError(f"workflow_engine_version: this server does not have {version!r}; it has {__version__}")


def document_of(url: str, files: Path, kind: Kind, policy: Policy) -> str:
    """Return the document that a ``workflow_url`` names: by a URL, an absolute path, or the name of an attachment.

    Raises
    ------
    InputError
        If the document does not exist, or the server is not allowed to read it.
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
        raise InputError(
            f"workflow_url: {url!r} cannot be read", hint="use a relative path, or an http, https, s3, gs or trs URL"
        )
    try:
        if confined.inside(files, name).is_file():
            return confined.relative(name) + (f"#{parts.fragment}" if parts.fragment else "")
    except InputError as error:
        raise InputError(f"workflow_url: {error}") from None
    if _TOOL.fullmatch(url):
        return url
    raise InputError(f"workflow_url: {url!r} is relative, and no workflow_attachment has this name")


def _attached(name: str, files: Path) -> str:
    """Return the name of the attachment that a relative URL names.

    If toil-wes-cwl-runner uploads only a document, the URL that it sends is the path of the document's parent folder.
    """
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
    """Return the URL of the document ``trs://HOST/ID/VERSION`` in its tool registry (TRS, version 2)."""
    host, _, rest = url.removeprefix("trs://").partition("/")
    tool, _, version = rest.rpartition("/")
    if not (tool and version):
        raise InputError(f"workflow_url: {url!r} does not have the form trs://HOST/ID/VERSION")
    tool, version = quote(unquote(tool), safe=""), quote(unquote(version), safe="")
    return f"https://{host}/ga4gh/trs/v2/tools/{tool}/versions/{version}/PLAIN_{kind.name}/descriptor"


def confined_path(files: Path, name: str) -> Path:
    """Return the path of an attachment; an absolute path, which `document_of` has allowed, is returned unchanged."""
    return Path(name) if name.startswith("/") else confined.inside(files, name)


def _write_inputs(files: Path, params: Mapping[str, Any]) -> None:
    files.mkdir(parents=True, exist_ok=True)
    path = files / INPUTS
    if path.exists() or path.is_symlink():
        raise InputError(
            f"workflow_attachment: the name {INPUTS} is reserved for the inputs", hint="choose another name"
        )
    path.write_text(json.dumps(params, indent=1))


def _below(base: str | None, id: str) -> str | None:
    return f"{base.rstrip('/')}/{id}" if base else None


def kinds_offered(policy: Policy) -> list[Kind]:
    """Return the kinds of workflows that a server runs."""
    return [KINDS[name] for name in policy.kinds]
