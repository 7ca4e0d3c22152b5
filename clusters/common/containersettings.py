"""Settings of clusters that run each job in a container, and the container's command."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from toilfn.clusters.base import OUTPUT_VARIABLE, RunContext, worker_command
from toilfn.clusters.local.output import LOG_LIMIT
from toilfn.errors import InputError
from toilfn.resources import Resources
from toilfn.units import parse_duration

__all__ = [
    "KEEP_OUTPUT", "ContainerSettings", "image_of", "kept_output", "prologue_script", "setting", "walltime_of",
    "worker_words",
]  # fmt: skip


class ContainerSettings(TypedDict, total=False):
    """Settings of `TESCluster`, `AWSBatchCluster` and `MesosCluster`.

    Parameters
    ----------
    image : str
        The image of all jobs: it has toilfn, of the leader's version. By default that of ``TOILFN_IMAGE``.
    python : str
        The interpreter in the image; ``python3`` by default.
    env : mapping of str to str
        Further variables for workers. The system shows them to whoever may see its jobs: no place for secrets.
    job_script_prologue : sequence of str
        Lines for a POSIX shell that run before the worker, such as ``"pip install toilfn==0.1"``.
    walltime : str or float
        The longest time of a job whose tasks name none, such as ``"2h"``.
    max_jobs : int
        The most jobs to have in the system at one time.
    poll_interval : str or float
        Time between two queries for all jobs; 2 seconds by default.
    patience : str or float
        How long the system may be out of reach before the run ends; 10 minutes by default, and at the start
        never more than 30 seconds: then it is likely to be a wrong address.
    worker_command : sequence of str
        Command that runs a batch; the store's URL and the batch's name are appended.
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
    """Return a setting, or else what an environment variable of the leader says."""
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
"""Lines of a shell that run its arguments; see `kept_output`."""


def image_of(settings: Mapping[str, Any], owner: str) -> str:
    """Return the image.

    Raises
    ------
    InputError
        If none is named.
    """
    image = setting(settings, "image", "TOILFN_IMAGE")
    if image is None:
        raise InputError(
            f"{owner} needs an image with toilfn",
            hint="pass image='registry/toilfn:tag', or set TOILFN_IMAGE; docker/Dockerfile builds one",
        )
    return image


def worker_words(settings: Mapping[str, Any], context: RunContext) -> list[str]:
    """Return the command of a job; the batch's name comes after it."""
    command = settings.get("worker_command", worker_command(settings.get("python", "python3")))
    return [*command, context.store]


def prologue_script(lines: Sequence[str]) -> str:
    """Write a script that runs lines, and then its arguments as a command in its own place."""
    return "\n".join(["#!/bin/sh", "set -e", *lines, 'exec "$@"', ""])


def kept_output(words: Sequence[str]) -> list[str]:
    """Return a command that runs words, and prints what a task had printed whose worker was killed.

    The worker's output is in a file while a task runs. It is not the first process of its container, so the system that
    kills it for its memory leaves the shell.
    """
    return ["sh", "-c", KEEP_OUTPUT, "toilfn", *words]


def walltime_of(settings: Mapping[str, Any], resources: Resources) -> float | None:
    """Return a job's time limit in seconds."""
    if resources.walltime is not None:
        return resources.walltime
    default = settings.get("walltime")
    return None if default is None else parse_duration(default)
