"""Requests of clients: which workflows and options they may have, and the request that a run's record keeps.

`KINDS` has the kinds of workflows, each with its command and the options that people may give. `request_of` makes the
fields of a form, checked, into a request.
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
"""The file with the inputs of a run, beside the uploaded files."""

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
"""Options that clients send out of habit, and that the server chooses itself."""

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
"""Other names of our options."""


class Kind(NamedTuple):
    """A kind of workflow."""

    name: str
    versions: tuple[str, ...]
    aliases: frozenset[str]
    """Other names, and other names of versions, in lower case."""
    suffix: str
    values: frozenset[str]
    """Options with a value, beside those of every run."""
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
    """Return the kind of workflow that a request names, in whatever case.

    Raises
    ------
    InputError
        If this server does not run workflows of this kind; the message lists the kinds that it runs.
    """
    known = [KINDS[each] for each in allowed]
    kind = next((k for k in known if name.lower() in {k.name.lower(), *k.aliases} and not name[:1].isdigit()), None)
    if kind is None:
        names = ", ".join(k.name for k in known)
        raise InputError(f"workflow_type: {name!r} is not a kind of workflow that this server runs; it runs {names}")
    if version.lower() not in {*kind.versions, *kind.aliases}:
        raise InputError(
            f"workflow_type_version: {version!r} is not a version of {kind.name} that this server runs; "
            f"it runs {', '.join(kind.versions)}"
        )
    return kind


def engine_options(kind: Kind, parameters: Mapping[str, Any], origin: str) -> Iterator[str]:
    """Translate parameters for the engine into options of the command.

    Parameters
    ----------
    kind : Kind
    parameters : mapping
        Values by the names of options, with or without dashes, in our spelling or Toil's. None stands for a flag.
    origin : str
        What to blame in errors.

    Raises
    ------
    InputError
        If an option is not allowed, or its value is not one.
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
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{origin}: {given!r} is not an allowed option{meant}; allowed are {', '.join(allowed)}")


def _spelled(name: str) -> str:
    """Spell ``--maxCores`` and ``max_cores`` as ``max-cores``."""
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name.lstrip("-")).lower()
    return parts.replace("_", "-")


def _flag(name: str, value: Any, where: str) -> Iterator[str]:
    if value is None or value is True or str(value).lower() in ("", "true", "yes", "1"):
        yield f"--{name}"
    elif not (value is False or str(value).lower() in ("false", "no", "0")):
        raise InputError(f"{where} is a flag; give it null, true or false")


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
            raise InputError(f"{where} cannot be {text!r}: {error}") from None
    return text


def program(name: str) -> str:
    """Return the path of a command that was installed with toilfn."""
    return str(Path(sysconfig.get_path("scripts"), name))


def command(request: Mapping[str, Any], folder: Path, store: str, outputs: str) -> list[str]:
    """Return the command for a run, as a user would type it in the folder of the run's files.

    Parameters
    ----------
    request : mapping
        What `toilfn.server.submission.Submission.request` made.
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
    """Turn the inputs of a script into its own command line: ``--name=value``, ``--flag``, or ``args`` as they are.

    Raises
    ------
    InputError
        If a name cannot be that of an option.
    """
    for name, value in params.items():
        if name == "args" and isinstance(value, list):
            yield from map(str, value)
            continue
        if not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
            raise InputError(f"workflow_params: {name!r} cannot be the name of an option of a script")
        for each in value if isinstance(value, list) else [value]:
            if each is None or each is True:
                yield f"--{name}"
            elif each is not False:
                yield f"--{name}={each if isinstance(each, str) else json.dumps(each)}"


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
    limits: uploads.Limits = field(default_factory=uploads.Limits)


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
