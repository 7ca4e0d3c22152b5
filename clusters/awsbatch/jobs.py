"""Build requests for AWS Batch, and interpret its descriptions of jobs. All functions are pure.

Sources are the API reference of AWS Batch (2016-08-10) and its user guide: array jobs, job timeouts, "Container
Overrides length must be at most 8192", and the status reasons of jobs.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toilfn.clusters.base import Batch, JobState
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.settings import KEEP_OUTPUT, image_of, setting
from toilfn.clusters.common.verdicts import exit_cause
from toilfn.errors import InputError
from toilfn.ids import Cause
from toilfn.resources import Resources

__all__ = ["ARRAY_LIMIT", "STATES", "batch_names", "definition", "found", "log_stream", "overrides", "portions"]

STATES = {
    "SUBMITTED": JobState.QUEUED,
    "PENDING": JobState.QUEUED,
    "RUNNABLE": JobState.QUEUED,
    "STARTING": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "SUCCEEDED": JobState.ENDED,
    "FAILED": JobState.ENDED,
}
"""The states of AWS Batch (JobStatus), and ours."""

REASONS: dict[str, Cause] = {
    r"^Host EC2|Spot Task was interrupted": Cause.PREEMPTED,
    r"OutOfMemory|OOMKilled|out of memory": Cause.MEMORY,
    r"Job attempt duration exceeded timeout": Cause.WALLTIME,
}
"""Patterns for the status reason of a failed job or its container, and their causes. The first means that a spot
instance was terminated, or a task on Fargate Spot was interrupted."""

_MISCONFIGURED = "MISCONFIGURATION:"
"""The beginning of the status reason of a job whose queue can never run it."""

ARRAY_LIMIT = 10_000
"""Maximum number of elements of an array job."""

_TABLE = 4000
"""Maximum number of characters of batch names in one submission; all overrides together are limited to 8192."""

_SHORTEST = 60
"""The shortest timeout that AWS Batch accepts, in seconds."""

_MIB = 2**20
_LEAST_MEMORY = 4
"""Minimum memory of a job, in MiB."""

_NAMES = "TOILFN_BATCHES"
"""The environment variable with the names of a submission's batches, one per line."""

_SCRIPT = f"""\
toilfn_batch=$(printf '%s\\n' "${_NAMES}" | sed -n "$((${{AWS_BATCH_JOB_ARRAY_INDEX:-0}} + 1))p")
unset {_NAMES}
set -- "$@" "$toilfn_batch"
{KEEP_OUTPUT}"""


def definition(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a job definition (ContainerProperties) and its name, which is derived from its content for reuse."""
    volumes = dict(enumerate(settings.get("volumes", {}).items()))
    roles = {
        "jobRoleArn": setting(settings, "job_role_arn", "TOILFN_AWS_BATCH_JOB_ROLE_ARN"),
        "executionRoleArn": settings.get("execution_role_arn"),
    }
    properties = {
        "image": image_of(settings, "AWSBatchCluster"),
        "command": ["false"],  # each job overrides the command and the size
        "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "128"}],
        "volumes": [{"name": f"v{n}", "host": {"sourcePath": host}} for n, (host, _) in volumes.items()],
        "mountPoints": [
            {"sourceVolume": f"v{n}", "containerPath": place, "readOnly": False} for n, (_, place) in volumes.items()
        ],
        **{name: role for name, role in roles.items() if role},
    }
    digest = hashlib.sha256(json.dumps(properties, sort_keys=True).encode()).hexdigest()
    return f"toilfn-{digest[:32]}", properties


def overrides(
    batches: Sequence[Batch], command: Sequence[str], prologue: Sequence[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return the overrides of a submission (ContainerOverrides).

    Parameters
    ----------
    batches : sequence of Batch
        Batches of one shape; more than one form an array.
    command : sequence of str
        The command to run; the name of the batch is appended.
    prologue : sequence of str
        Shell lines to run before it.
    environment : mapping
        Environment variables for the command.
    """
    variables = {**environment, _NAMES: "\n".join(batch.name for batch in batches)}
    return {
        "command": ["sh", "-c", "\n".join([*prologue, _SCRIPT]), "toilfn", *command],
        "environment": [{"name": name, "value": value} for name, value in variables.items()],
        "resourceRequirements": _requirements(batches[0].resources),
    }


def timeout(walltime: float | None) -> dict[str, Any]:
    """Return a time limit (JobTimeout) as an argument of SubmitJob; empty without one."""
    return {} if walltime is None else {"timeout": {"attemptDurationSeconds": max(_SHORTEST, math.ceil(walltime))}}


def portions(batches: Sequence[Batch], most: int) -> Iterator[list[Batch]]:
    """Split batches of one shape into submissions, by their number and the length of their names.

    Raises
    ------
    InputError
        If a name contains a line break.
    """
    portion: list[Batch] = []
    length = 0
    for batch in batches:
        if "\n" in batch.name:
            raise InputError(f"batch {batch.name!r}: the name contains a line break")
        if portion and (len(portion) >= most or length + len(batch.name) >= _TABLE):
            yield portion
            portion, length = [], 0
        portion.append(batch)
        length += len(batch.name) + 1
    if portion:
        yield portion


def batch_names(job: Mapping[str, Any]) -> list[str]:
    """Return the names of a submission's batches from the description of a job (JobDetail)."""
    environment = job.get("container", {}).get("environment", ())
    return next((item["value"].split("\n") for item in environment if item["name"] == _NAMES), [])


def found(job: Mapping[str, Any]) -> Found:
    """Interpret the description of a job (JobDetail)."""
    word, reason = job["status"], job.get("statusReason", "")
    container = _container(job)
    reasons = [text for text in (reason, container.get("reason", "")) if text]
    if STATES.get(word) is JobState.QUEUED and reason.startswith(_MISCONFIGURED):
        return Found(JobState.ENDED, Cause.ERROR, f"{word}: {reason}", is_stuck=True)
    if word != "FAILED":
        return Found(STATES.get(word, JobState.UNKNOWN), None, "; ".join([word, *reasons]))
    status = container.get("exitCode")
    known = [cause for pattern, cause in REASONS.items() for text in reasons if re.search(pattern, text)]
    cause = (*known, exit_cause(status or 0), Cause.LOST)
    shown = [word, f"exit status {status}" if status is not None else "", *reasons]
    return Found(JobState.ENDED, next(c for c in cause if c is not None), "; ".join(text for text in shown if text))


def log_stream(job: Mapping[str, Any]) -> str:
    """Return the name of a job's log stream; empty if the job was never started."""
    stream: str = _container(job).get("logStreamName") or ""
    return stream


def _container(job: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the descriptions of a job's container and of the container of its last attempt."""
    attempts = job.get("attempts") or [{}]
    return {**attempts[-1].get("container", {}), **job.get("container", {})}


def _requirements(resources: Resources) -> list[dict[str, str]]:
    wrong = [accelerator.kind for accelerator in resources.accelerators if accelerator.kind != "gpu"]
    if wrong:
        raise InputError(f"AWS Batch has no accelerators of kind {wrong[0]!r}: only gpu is supported")
    gpus = sum(accelerator.count for accelerator in resources.accelerators)
    asked = {
        "VCPU": max(1, math.ceil(resources.cores)),
        "MEMORY": max(_LEAST_MEMORY, math.ceil(resources.memory / _MIB)),
        **({"GPU": gpus} if gpus else {}),
    }
    return [{"type": name, "value": str(value)} for name, value in asked.items()]
