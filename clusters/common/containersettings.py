"""Settings of clusters that run each job in a container, and the command of the container."""

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
    """Return a script that runs lines, and then replaces itself by the command in its arguments."""
    return "\n".join(["#!/bin/sh", "set -e", *lines, 'exec "$@"', ""])


def kept_output(words: Sequence[str]) -> list[str]:
    """Return a command that runs `words`, and then prints the output of a task whose worker was killed.

    The worker's output is in a file while a task runs. The worker is not the first process of its container, so that
    the shell survives if the kernel kills the worker for its memory usage.
    """
    return ["sh", "-c", KEEP_OUTPUT, "toilfn", *words]


def walltime_of(settings: Mapping[str, Any], resources: Resources) -> float | None:
    """Return a job's time limit in seconds."""
    if resources.walltime is not None:
        return resources.walltime
    default = settings.get("walltime")
    return None if default is None else parse_duration(default)
