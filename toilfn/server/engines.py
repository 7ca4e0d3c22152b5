"""The kinds of workflows that a server runs, the options that people may give, and the command that runs them."""

from __future__ import annotations

import json
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from toilfn.config.settings import Settings
from toilfn.errors import InputError

__all__ = ["ENGINE", "INPUTS", "KINDS", "Kind", "command", "engine_options", "kind_of", "program"]

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
