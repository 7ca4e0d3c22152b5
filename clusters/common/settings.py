"""Settings that several clusters share, and their job scripts.

A script runs one batch or an array of batches. Each array element looks up its batch in a table in the script, so that
names chosen by users never become part of a command line or a directive. The leader of a resumed run reads the same
table to learn which job runs which batch.
"""

from __future__ import annotations

import os
import re
import shlex
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import isfinite
from typing import Any, TypedDict, Union, get_args, get_origin, get_type_hints

from toilfn.clusters.base import LOG_LIMIT, OUTPUT_VARIABLE, Batch, RunContext, worker_command
from toilfn.errors import InputError, ResourceError
from toilfn.resources import Resources
from toilfn.units import parse_duration, parse_time_limit

__all__ = [
    "KEEP_OUTPUT", "SECTIONS", "ContainerSettings", "JobSettings", "Submission", "batch_names", "checked", "filtered",
    "image_of", "is_preemptible", "job_name", "kept_output", "prologue_script", "render", "resolved", "setting",
    "settings_of", "typed", "walltime_of", "word", "worker_words",
]  # fmt: skip

_WORDS = ("submit_args", "worker_command")
"""Settings whose value is a list of words of a command. A string is split into words by the rules of the shell."""

_LONGEST_NAME = 100
"""Maximum number of characters of `job_name`, which becomes part of file names."""


SECTIONS = {
    "local": "toilfn.clusters.local.cluster:LocalSettings",
    "slurm": "toilfn.clusters.slurm:SlurmSettings",
    "gridengine": "toilfn.clusters.gridengine:GridEngineSettings",
    "lsf": "toilfn.clusters.lsf:LSFSettings",
    "pbs": "toilfn.clusters.pbs:PBSSettings",
    "torque": "toilfn.clusters.pbs:PBSSettings",
    "htcondor": "toilfn.clusters.htcondor:HTCondorSettings",
    "parasol": "toilfn.clusters.parasol:ParasolSettings",
    "kubernetes": "toilfn.clusters.kubernetes.manifest:KubernetesSettings",
    "awsbatch": "toilfn.clusters.awsbatch.cluster:AWSBatchSettings",
    "tes": "toilfn.clusters.tes:TESSettings",
    "mesos": "toilfn.clusters.mesos.cluster:MesosSettings",
    "dask": "toilfn.clusters.dask:DaskSettings",
}
"""For each cluster's section in configuration files: the import path of the typed dictionary of its settings."""


class JobSettings(TypedDict, total=False):
    """Settings of every command-line system, passed as keywords or set in ``dask.config`` under ``toilfn.<system>``.

    Parameters
    ----------
    queue : str
        Queue of the jobs; for Slurm, the partition.
    account : str
        Account to charge.
    walltime : str or float
        Time limit of jobs whose tasks have no walltime, such as ``"2h"``.
    submit_args : sequence of str
        Additional arguments of the submit command. Default: the environment variable ``TOILFN_<SYSTEM>_ARGS``, split by
        the rules of the shell.
    job_extra_directives : sequence of str
        Additional directives, without the system's prefix (``"--reservation=mine"`` for Slurm).
    job_directives_skip : sequence of str
        Directives of toilfn that contain one of these texts are left out.
    job_script_prologue : sequence of str
        Shell lines to run before the worker.
    job_script_epilogue : sequence of str
        Shell lines to run after the worker.
    log_directory : str
        A folder shared by leader and nodes, for scripts and output. Default: the run's setting ``batch_logs``, else
        ``jobs`` in a store on a file system, else a folder in the home directory.
    keep_output : bool
        Whether to keep the output of jobs outside of tasks until the jobs end successfully. Default: the run's setting
        ``keep_batch_logs``.
    python : str
        Python interpreter on the nodes. Default: the leader's.
    shell : str
        Shell that runs the script. Default: ``/bin/sh``.
    job_name : str
        Prefix of job names, before the name of the workflow.
    max_jobs : int
        Maximum number of jobs in the system at the same time.
    max_array_size : int
        Maximum number of jobs in one submission. Default: the site's limit.
    poll_interval : str or float
        Time between two queries for all jobs. Default: 2 seconds.
    patience : str or float
        How long the system may be unreachable before the run ends. Default: 10 minutes.
    worker_command : sequence of str
        Command that runs a batch; the store's URL and the name of the batch are appended.
    """

    queue: str
    account: str
    walltime: str | float
    submit_args: Sequence[str]
    job_extra_directives: Sequence[str]
    job_directives_skip: Sequence[str]
    job_script_prologue: Sequence[str]
    job_script_epilogue: Sequence[str]
    log_directory: str
    keep_output: bool
    python: str
    shell: str
    job_name: str
    max_jobs: int
    max_array_size: int
    poll_interval: str | float
    patience: str | float
    worker_command: Sequence[str]


def resolved(owner: str, section: str, kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Merge keywords with the configuration. Keywords take precedence; None counts as not given.

    Parameters
    ----------
    owner : str
        The class, for error messages.
    section : str
        The section of the configuration under ``toilfn``.
    kind : type
        The TypedDict of the settings.
    given : mapping
        The keywords.

    Returns
    -------
    dict
        Values of the types in `kind`. A string instead of a list counts as a list of one item; settings that are parts
        of a command (`submit_args`, `worker_command`) are split by the rules of the shell.

    Raises
    ------
    TypeError
        If the setting does not exist. The message lists all settings.
    InputError
        If a value has the wrong type. The message names the setting.
    """
    import dask.config

    known = get_type_hints(kind)
    configured = dask.config.get(f"toilfn.{section}", None) or {}
    if not isinstance(configured, Mapping):
        raise InputError(f"toilfn.{section}: {configured!r} is not a mapping of settings; it has: {_listed(known)}")
    settings = {str(key).replace("-", "_"): value for key, value in configured.items()} | dict(given)
    for key in settings:
        if key not in known:
            raise TypeError(f"{owner} has no setting {key!r}; it has: {_listed(known)}")
    return checked(section, settings, known)


def settings_of(section: str) -> dict[str, Any]:
    """Return the names and types of a cluster's settings."""
    return get_type_hints(typed(section))


def typed(section: str) -> type:
    """Return the typed dictionary of a cluster's settings."""
    module, _, name = SECTIONS[section].partition(":")
    found: type = getattr(import_module(module), name)
    return found


def checked(section: str, settings: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Convert values to the types of their settings, leaving out None.

    Raises
    ------
    InputError
        If a value has the wrong type. The message names the setting.
    """
    return {key: _checked(section, key, value, known[key]) for key, value in settings.items() if value is not None}


def word(name: str, value: object) -> str:
    """Check that a setting's value is valid in a directive, which the system splits at whitespace, and return it.

    Raises
    ------
    InputError
        If the value contains whitespace, quotes or backslashes.
    """
    text = str(value)
    if not text or re.search(r"[\s\"'\\\x00-\x1f\x7f]", text):
        raise InputError(
            f"{name}={text!r} is not valid in a directive", hint="use a value without whitespace, quotes or backslashes"
        )
    return text


def job_name(name: str) -> str:
    """Check that a name is valid as the prefix of job names, and return it.

    Raises
    ------
    InputError
        If the name is too long or contains other characters than all systems allow.
    """
    if name and (len(name) > _LONGEST_NAME or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.+=&-]*", name)):
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:20]}..."
        raise InputError(
            f"job_name={shown!r} is not valid as a prefix of job names",
            hint=f"use at most {_LONGEST_NAME} letters, digits and '_.+=&-', beginning with a letter or '_'",
        )
    return name


def _listed(known: Mapping[str, Any]) -> str:
    return ", ".join(sorted(known))


def _checked(section: str, key: str, value: Any, kind: Any) -> Any:
    """Convert a value to the type of its setting."""
    union = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    kinds = [one if get_origin(one) is None else get_origin(one) for one in union]
    for one, convert in _CONVERTERS.items():  # numbers come first: where a text is also allowed, 8 stays a number
        if one in kinds and (converted := convert(key, value)) is not None:
            return _fit(section, key, converted, union[kinds.index(one)])
    if not any(one in _CONVERTERS for one in kinds):
        return value
    expected = " or ".join(_NAMES[one] for one in kinds if one in _NAMES)
    quoted = "write it in quotes" if isinstance(value, bool | float) and str in kinds else None
    got = f"got {type(value).__name__} {value!r}"
    raise InputError(f"toilfn.{section}.{key}: expected {expected}, {got}", hint=quoted)


def _fit(section: str, key: str, value: Any, kind: Any) -> Any:
    """Check that the value of a setting such as `walltime` is a time, and convert the values of a mapping."""
    if key in _TIMES:
        try:
            _TIMES[key](value)
        except ResourceError as error:
            raise InputError(f"toilfn.{section}.{key}: {error}") from None
    if get_origin(kind) is not Mapping:
        return value
    return {name: _checked(section, f"{key}.{name}", item, get_args(kind)[1]) for name, item in value.items()}


def _text(_: str, value: Any) -> str | None:
    """Return a text, a path or a whole number as text; None for any other value.

    Configuration files turn an account such as 4711 into a number, so whole numbers are accepted. Fractions are not,
    since 1e5 and 1.10 would become different texts.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _number(_: str, value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) else None


def _whole(_: str, value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _truth(_: str, value: Any) -> bool | None:
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in ("true", "yes", "on", "1") else False if word in ("false", "no", "off", "0") else None
    return bool(value) if isinstance(value, bool) or value in (0, 1) else None


def _list(key: str, value: Any) -> list[str] | None:
    if isinstance(value, str):
        try:
            return shlex.split(value) if key in _WORDS else [value] if value else []
        except ValueError as error:
            raise InputError(f"{key}={value!r} cannot be split by the rules of the shell: {error}") from None
    if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray):
        return None
    items = [_text(key, item) for item in value]
    return None if None in items else [item for item in items if item is not None]


def _mapping(_: str, value: Any) -> dict[str, Any] | None:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else None


_CONVERTERS: dict[Any, Callable[[str, Any], Any]] = {
    float: _number,
    int: _whole,
    bool: _truth,
    str: _text,
    Sequence: _list,
    Mapping: _mapping,
}

_NAMES: dict[Any, str] = {
    str: "text",
    float: "a number",
    int: "a whole number above 0",
    bool: "true or false",
    Sequence: "a list of texts",
    Mapping: "a mapping",
}


_TIMES: dict[str, Callable[[Any], float]] = {
    "walltime": parse_time_limit,
    "poll_interval": parse_time_limit,
    "patience": parse_duration,
    "pod_timeout": parse_time_limit,
    "ttl": parse_duration,
    "failover_timeout": parse_duration,
}


class ContainerSettings(TypedDict, total=False):
    """Settings of `TESCluster`, `AWSBatchCluster` and `MesosCluster`.

    Parameters
    ----------
    image : str
        Container image of all jobs; it must contain the leader's version of toilfn. Default: ``TOILFN_IMAGE``.
    python : str
        Python interpreter in the image. Default: ``python3``.
    env : mapping of str to str
        Additional environment variables for workers. Anyone who may see the jobs can see them, so do not pass secrets.
    job_script_prologue : sequence of str
        Lines of POSIX shell script to run before the worker, such as ``"pip install toilfn==0.1"``.
    walltime : str or float
        Time limit of jobs whose tasks have no walltime, such as ``"2h"``.
    max_jobs : int
        Maximum number of jobs in the system at the same time.
    poll_interval : str or float
        Time between two queries for all jobs. Default: 2 seconds.
    patience : str or float
        How long the system may be unreachable before the run ends. Default: 10 minutes. At the start, at most
        30 seconds, since a wrong address is then more likely.
    worker_command : sequence of str
        Command that runs a batch; the store's URL and the name of the batch are appended.
    """

    image: str
    python: str
    env: Mapping[str, str]
    job_script_prologue: Sequence[str]
    walltime: str | float
    max_jobs: int
    poll_interval: str | float
    patience: str | float
    worker_command: Sequence[str]


def setting(settings: Mapping[str, Any], name: str, variable: str) -> str | None:
    """Return a setting, or else the value of an environment variable of the leader."""
    found: str | None = settings.get(name) or os.environ.get(variable) or None
    return found


KEEP_OUTPUT = f"""\
toilfn_output=$(mktemp) || exec "$@"
{OUTPUT_VARIABLE}=$toilfn_output "$@" &
toilfn_worker=$!
trap 'kill -TERM "$toilfn_worker" 2>/dev/null' TERM INT
wait "$toilfn_worker"
toilfn_status=$?
while kill -0 "$toilfn_worker" 2>/dev/null; do wait "$toilfn_worker"; toilfn_status=$?; done
tail -c {LOG_LIMIT} "$toilfn_output"
rm -f "$toilfn_output"
exit "$toilfn_status"
"""
"""A shell script that runs the command in its arguments; see `kept_output`."""


def image_of(settings: Mapping[str, Any], owner: str) -> str:
    """Return the container image.

    Raises
    ------
    InputError
        If no image is set.
    """
    image = setting(settings, "image", "TOILFN_IMAGE")
    if image is None:
        raise InputError(
            f"{owner} needs an image with toilfn",
            hint="pass image='registry/toilfn:tag', or set TOILFN_IMAGE; docker/Dockerfile builds one",
        )
    return image


def worker_words(settings: Mapping[str, Any], context: RunContext) -> list[str]:
    """Return the command of a job; callers append the name of the batch."""
    command = settings.get("worker_command", worker_command(settings.get("python", "python3")))
    return [*command, context.store]


def prologue_script(lines: Sequence[str]) -> str:
    """Return a script that runs the user's lines, and then replaces itself by the command in its arguments."""
    return "\n".join(["#!/bin/sh", "set -e", *lines, 'exec "$@"', ""])


def kept_output(words: Sequence[str]) -> list[str]:
    """Return a command that runs the command `words`, and that prints a task's output even if its worker is killed.

    While a task runs, its output is in a file. A shell starts the worker and prints that file at the end. The shell
    survives if the kernel kills the worker for its memory usage, because the worker is not the container's first
    process.
    """
    return ["sh", "-c", KEEP_OUTPUT, "toilfn", *words]


def walltime_of(settings: Mapping[str, Any], resources: Resources) -> float | None:
    """Return a job's time limit in seconds."""
    if resources.walltime is not None:
        return resources.walltime
    default = settings.get("walltime")
    return None if default is None else parse_duration(default)


_PREEMPTIBLE = "# toilfn: these jobs may run on nodes that can be taken away"

_ROW = re.compile(r"^(?:\d+\) )?toilfn_batch=(.*?)(?: ;;)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Submission:
    """A group of jobs that is submitted by one command.

    Attributes
    ----------
    name : str
        The job's name. It is unique, so that a search for it shows whether a submission without an answer succeeded.
    batches : tuple of Batch
        Batches of one shape. More than one batch forms a job array.
    resources : Resources
        The shape of the batches.
    log : str
        Path of the output files, without the element's number and the suffix.
    """

    name: str
    batches: tuple[Batch, ...]
    resources: Resources
    log: str

    @property
    def is_array(self) -> bool:
        """Whether there is more than one batch."""
        return len(self.batches) > 1


def render(
    submission: Submission,
    *,
    shell: str,
    directives: Sequence[str],
    index: str,
    first: int,
    command: Sequence[str],
    environment: Mapping[str, str],
    output: str | None,
    prologue: Sequence[str],
    epilogue: Sequence[str],
) -> str:
    """Build the script of a submission.

    Parameters
    ----------
    submission : Submission
    shell : str
        The interpreter: any shell that accepts POSIX shell syntax.
    directives : sequence of str
        Complete directive lines.
    index : str
        The environment variable with the number of an array element.
    first : int
        The number of the first element.
    command : sequence of str
        The command to run; the name of the batch is appended.
    environment : mapping
        Environment variables for the command.
    output : str or None
        A shell word for the file to which the script redirects its output; None if the system redirects it.
    prologue, epilogue : sequence of str
        The user's shell lines before and after the command.

    Returns
    -------
    str
    """
    lines = [f"#!{shell}", *directives, ""]
    lines += [_PREEMPTIBLE] if submission.resources.preemptible else []
    lines += [f"exec >{output} 2>&1"] if output else []
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines += _guarded(prologue)
    lines += _table(submission.batches, index, first)
    lines += _run(f'{shlex.join(command)} "$toilfn_batch"', epilogue)
    return "\n".join(lines) + "\n"


def filtered(directives: Sequence[str], skip: Sequence[str]) -> list[str]:
    """Return the directives that contain none of the words in `skip`."""
    return [line for line in directives if not any(word in line for word in skip)]


def batch_names(script: str) -> list[str]:
    """Return the names of the batches in a script, in the order of the array elements."""
    return [shlex.split(row)[0] for row in _ROW.findall(script)]


def is_preemptible(script: str) -> bool:
    """Return whether a script was written for preemptible jobs."""
    return _PREEMPTIBLE in script.splitlines()


def _guarded(prologue: Sequence[str]) -> list[str]:
    """Return the user's lines, with lines around them that end the job with a message if one of them fails."""
    if not prologue:
        return []
    failed = "toilfn: the job_script_prologue ended with exit status $toilfn_status before the worker was started"
    report = f'[ -n "$toilfn_begun" ] || echo "{failed}" >&2'
    return ["toilfn_begun=", f"trap 'toilfn_status=$?; {report}' EXIT", "set -e", *prologue, "set +e", "toilfn_begun=1"]


def _table(batches: Sequence[Batch], index: str, first: int) -> list[str]:
    if len(batches) == 1:
        return [f"toilfn_batch={shlex.quote(batches[0].name)}"]
    rows = [f"{number}) toilfn_batch={shlex.quote(batch.name)} ;;" for number, batch in enumerate(batches, first)]
    return [f'case "${index}" in', *rows, "esac"]


def _run(command: str, epilogue: Sequence[str]) -> list[str]:
    """Return the lines that run the worker.

    Without an epilogue, the worker replaces the shell, so that signals reach it. With an epilogue, the shell must
    survive, so it forwards signals to the worker.
    """
    if not epilogue:
        return [f"exec {command}"]
    forward = ["worker=$!", "trap 'kill -TERM \"$worker\"' TERM USR1 USR2 XCPU INT", 'wait "$worker"', "status=$?"]
    again = 'while kill -0 "$worker" 2>/dev/null; do wait "$worker"; status=$?; done'
    return [f"{command} &", *forward, again, *epilogue, 'exit "$status"']
