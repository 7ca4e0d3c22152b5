"""AWS Batch, with containers on EC2. Jobs access the store with the permissions of their role, not with credentials.

The functions below the cluster are pure: they build the requests and interpret the descriptions of jobs. They follow
the API reference of AWS Batch (2016-08-10) and its user guide: array jobs, job timeouts, "Container Overrides length
must be at most 8192", and the status reasons of jobs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from toilfn.clusters.awsbatch.aws import Amazon
from toilfn.clusters.base import Batch, Capabilities, JobId, JobState, RunContext, exit_cause
from toilfn.clusters.common.commands import UnavailableError, portions
from toilfn.clusters.common.polled import START_PATIENCE, JobReport, LiveJob, PolledCluster
from toilfn.clusters.common.settings import (
    KEEP_OUTPUT,
    ContainerSettings,
    image_of,
    resolved,
    setting,
    walltime_of,
    worker_words,
)
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Resources

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "ARRAY_LIMIT", "STATES", "AWSBatchCluster", "AWSBatchSettings", "batch_names", "definition", "interpret",
    "job_portions", "log_stream", "overrides",
]  # fmt: skip

_log = logging.getLogger(__name__)

_DESCRIBED = 100
"""Maximum number of jobs in one DescribeJobs request."""

_TAIL = 20
"""Number of lines of a failed job's log to show."""

_LINES = 1000
"""Number of lines of a failed job's log to keep."""


class AWSBatchSettings(ContainerSettings, total=False):
    """Settings of `AWSBatchCluster` besides those of `ContainerSettings`.

    Parameters
    ----------
    queue : str
        Name or ARN of the job queue. Default: ``TOILFN_AWS_BATCH_QUEUE``. Preemptible tasks go to `spot_queue`, if it
        is set.
    spot_queue : str
        Name or ARN of a job queue with spot instances.
    region : str
        AWS region. Default: ``TOILFN_AWS_BATCH_REGION``, else the one that botocore finds.
    profile : str
        Profile with the credentials, as in ``~/.aws/config``.
    endpoint_url : str
        URL of the services, if they are not Amazon's.
    job_role_arn : str
        IAM role of the jobs, which gives them access to the store; ``ecs-tasks.amazonaws.com`` must be able to assume
        it. Default: ``TOILFN_AWS_BATCH_JOB_ROLE_ARN``.
    execution_role_arn : str
        IAM role with which ECS starts containers, if it needs one.
    volumes : mapping of str to str
        Folders of the instances and their mount points in the containers, such as ``{"/mnt/efs": "/data"}``.
    log_group : str
        CloudWatch log group with the output of jobs. Default: ``/aws/batch/job``.
    tags : mapping of str to str
        Tags of all jobs.
    max_array_size : int
        Maximum number of jobs in one submission.
    """

    queue: str
    spot_queue: str
    region: str
    profile: str
    endpoint_url: str
    job_role_arn: str
    execution_role_arn: str
    volumes: Mapping[str, str]
    log_group: str
    tags: Mapping[str, str]
    max_array_size: int


class AWSBatchCluster(PolledCluster[LiveJob]):
    """Runs tasks as AWS Batch jobs; see `ContainerSettings` and `AWSBatchSettings` for the settings."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True, preemption=True
    )
    address_settings = ("queue", "spot_queue", "region", "profile", "endpoint_url", "image")
    unknown = "AWS Batch does not know the job"

    def __init__(self, **settings: Unpack[AWSBatchSettings]) -> None:
        super().__init__(resolved("AWSBatchCluster", "awsbatch", AWSBatchSettings, settings))
        given = self.settings
        region = setting(given, "region", "TOILFN_AWS_BATCH_REGION")
        self._amazon = Amazon(region, given.get("profile"), given.get("endpoint_url"))
        self._queue = setting(given, "queue", "TOILFN_AWS_BATCH_QUEUE") or ""
        self._definition = ""

    def open(self, context: RunContext) -> None:
        """Check the queues, and find or create the job definition. See `Cluster.open`."""
        super().open(context)
        name, properties = definition(self.settings)
        self.retry_until_answered(self._check_queues, START_PATIENCE)
        self._definition = self.retry_until_answered(lambda: self._defined(name, properties), START_PATIENCE)

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start jobs, those of one shape as an array. See `Cluster.submit`."""
        most = min(int(self.settings.get("max_array_size", ARRAY_LIMIT)), ARRAY_LIMIT)
        jobs = self.one_by_one(self.parts(batches, lambda group: job_portions(group, most)), self._submit)
        return [jobs[batch.name] for batch in batches]

    def namesakes(self, name: str) -> list[JobId]:
        """Return the ids of all live jobs with a name; an array has one id."""
        ids = [job for queue in dict.fromkeys((self._queue, self._spot_queue)) for job in self._named(queue, name)]
        living = [job for job in self._described(ids) if STATES.get(job["status"]) is not JobState.ENDED]
        return [*dict.fromkeys(JobId(_parent(job["jobId"])) for job in living)]

    def look(self, jobs: Sequence[JobId]) -> dict[JobId, JobReport]:
        """Query jobs, a hundred at a time."""
        return {JobId(job["jobId"]): self._found(job) for job in self._described(jobs)}

    def end(self, jobs: Sequence[JobId]) -> None:
        """Terminate jobs; an array without other live elements is terminated as a whole."""
        kept = {_parent(job) for job in self._live.keys() - set(jobs)}
        targets = dict.fromkeys(job if _parent(job) in kept else _parent(job) for job in jobs)
        for target in targets:
            try:
                self._amazon.ask("batch", "terminate_job", jobId=target, reason="cancelled by toilfn")
            except UnavailableError:
                raise
            except ClusterError as error:
                names = " ".join(job for job in jobs if job == target or _parent(job) == target)
                _log.warning("could not cancel these jobs: %s: %s", names, error)

    def leave(self) -> None:
        """Stop tracking the jobs of this leader, and close all connections."""
        super().leave()
        self._amazon.close()

    @property
    def _spot_queue(self) -> str:
        queue: str = self.settings.get("spot_queue", self._queue)
        return queue

    def _check_queues(self) -> None:
        """Check that the queues accept jobs.

        Raises
        ------
        ClusterError
            If a queue does not exist or accepts no jobs. The message lists the existing queues.
        """
        queues = [*self._amazon.pages("batch", "describe_job_queues", "jobQueues")]
        known = {queue[key]: queue for queue in queues for key in ("jobQueueName", "jobQueueArn")}
        names = ", ".join(sorted(queue["jobQueueName"] for queue in queues))
        for name in (self._queue, self._spot_queue):
            if name not in known:
                raise ClusterError(
                    f"AWS Batch queue {name!r} not found in this region; existing queues: {names or 'none'}",
                    hint="pass queue=..., or set TOILFN_AWS_BATCH_QUEUE",
                )
            queue = known[name]
            if queue["state"] != "ENABLED" or queue["status"] == "INVALID":
                why = queue.get("statusReason", "it accepts no jobs")
                raise ClusterError(f"AWS Batch queue {name!r} is {queue['state']}, {queue['status']}: {why}")

    def _defined(self, name: str, properties: Mapping[str, Any]) -> str:
        """Find or create the job definition with this name, and return its ARN."""
        found = self._amazon.pages(
            "batch", "describe_job_definitions", "jobDefinitions", jobDefinitionName=name, status="ACTIVE"
        )
        for definition in found:
            return str(definition["jobDefinitionArn"])
        made = self._amazon.ask(
            "batch", "register_job_definition",
            jobDefinitionName=name, type="container", containerProperties=properties,
        )  # fmt: skip
        return str(made["jobDefinitionArn"])

    def _submit(self, batches: Sequence[Batch]) -> dict[str, JobId]:
        given, context, resources = self.settings, self.context, batches[0].resources
        queue = self._spot_queue if resources.preemptible else self._queue
        walltime = walltime_of(given, resources)
        command, prologue = worker_words(given, context), given.get("job_script_prologue", ())
        request = {
            "jobQueue": queue,
            "jobDefinition": self._definition,
            "containerOverrides": overrides(
                batches, command, prologue, {**context.environment, **given.get("env", {})}
            ),
            "retryStrategy": {"attempts": 1},  # the leader decides what runs again
            **timeout(walltime),
            **({"arrayProperties": {"size": len(batches)}} if len(batches) > 1 else {}),
            **({"tags": given["tags"], "propagateTags": True} if "tags" in given else {}),
        }

        def send(name: str) -> str:
            return str(self._amazon.ask("batch", "submit_job", jobName=name, **request)["jobId"])

        def arrived(name: str) -> str:
            return next((_parent(job) for job in self._named(queue, name)), "")

        name = f"{_name(context.workflow)}-{secrets.token_hex(8)}"
        base = self.submit_once(tuple(batch.name for batch in batches), name, send, arrived)
        ids = [f"{base}:{number}" for number in range(len(batches))] if len(batches) > 1 else [base]
        jobs = {batch.name: JobId(id_) for batch, id_ in zip(batches, ids, strict=True)}
        with self.lock:
            self._live.update((job, LiveJob(walltime=walltime)) for job in jobs.values())
        return jobs

    def _described(self, jobs: Sequence[str]) -> list[dict[str, Any]]:
        found = []
        for portion in portions(jobs, _DESCRIBED):
            found += self._amazon.ask("batch", "describe_jobs", jobs=portion)["jobs"]
        return found

    def _own(self, workflow: str) -> list[JobId]:
        """Return all jobs of a workflow, including some that have ended."""
        queues = dict.fromkeys((self._queue, self._spot_queue))
        return [job for queue in queues for job in self._named(queue, f"{_name(workflow)}-*")]

    def _named(self, queue: str, name: str) -> list[JobId]:
        """Return the jobs whose names match a pattern, in which ``*`` stands for the random part.

        Of an array, the elements are returned.
        """
        filters = [{"name": "JOB_NAME", "values": [name]}]
        pattern = re.compile(re.escape(name).replace(r"\*", "[0-9a-f]{16}"))
        elements: list[JobId] = []
        for job in self._amazon.pages("batch", "list_jobs", "jobSummaryList", jobQueue=queue, filters=filters):
            size = job.get("arrayProperties", {}).get("size")
            if pattern.fullmatch(job["jobName"]):
                elements += [JobId(f"{job['jobId']}:{n}") for n in range(size)] if size else [JobId(job["jobId"])]
        return [*dict.fromkeys(elements)]

    def _found(self, job: Mapping[str, Any]) -> JobReport:
        found = interpret(job)
        stream = log_stream(job)
        if found.state is not JobState.ENDED or found.cause is None or not stream:
            return found
        words, lines = self._log(stream)
        said = "\n".join([words, *lines[-_TAIL:]])
        return found._replace(detail=f"{found.detail}; {said}", log="\n".join(lines).encode())

    def _log(self, stream: str) -> tuple[str, list[str]]:
        """Return a sentence that names a log stream, and the stream's last lines if they can be read."""
        group = self.settings.get("log_group", "/aws/batch/job")
        try:
            answer = self._amazon.ask(
                "logs", "get_log_events", logGroupName=group, logStreamName=stream, limit=_LINES, startFromHead=False
            )
        except (UnavailableError, ClusterError) as error:
            return f"log stream {stream} in {group} cannot be read: {error}", []
        return f"log stream {stream} in {group} ends with:", [event["message"] for event in answer["events"]]

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find the live jobs of a workflow by their names, and adopt them."""
        found: dict[JobId, str] = {}
        for job in self.retry_until_answered(lambda: self._described(self._own(workflow))):
            if STATES.get(job["status"]) is not JobState.ENDED:
                id_, names, number = JobId(job["jobId"]), batch_names(job), _number(job["jobId"])
                found[id_] = names[number] if number < len(names) else ""
                self._live.setdefault(id_, LiveJob())
        return found


def _parent(job: str) -> str:
    """Return the id of an element's array; for any other job, its own id."""
    return job.partition(":")[0]


def _number(job: str) -> int:
    """Return an element's number in its array; 0 for any other job."""
    return int(job.partition(":")[2] or 0)


def _name(workflow: str) -> str:
    """Replace the characters of a workflow's name that are not allowed in job names."""
    return workflow.replace(".", "_")


STATES = {
    "SUBMITTED": JobState.QUEUED,
    "PENDING": JobState.QUEUED,
    "RUNNABLE": JobState.QUEUED,
    "STARTING": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "SUCCEEDED": JobState.ENDED,
    "FAILED": JobState.ENDED,
}
"""The states of AWS Batch (JobStatus), and their meanings."""

REASONS: dict[str, Cause] = {
    r"^Host EC2|Spot Task was interrupted": Cause.PREEMPTED,
    r"OutOfMemory|OOMKilled|out of memory": Cause.MEMORY,
    r"Job attempt duration exceeded timeout": Cause.WALLTIME,
}
"""Patterns for the status reason of a failed job or its container, and the causes that they mean. AWS Batch reports a
terminated spot instance as "Host EC2 (...) terminated"."""

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
    """Return a job definition (ContainerProperties) and its name.

    The name is derived from the content, so that later runs with the same settings find and reuse the definition.
    """
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


def job_portions(batches: Sequence[Batch], most: int) -> Iterator[list[Batch]]:
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


def interpret(job: Mapping[str, Any]) -> JobReport:
    """Interpret the description of a job (JobDetail)."""
    word, reason = job["status"], job.get("statusReason", "")
    container = _container(job)
    reasons = [text for text in (reason, container.get("reason", "")) if text]
    if STATES.get(word) is JobState.QUEUED and reason.startswith(_MISCONFIGURED):
        return JobReport(JobState.ENDED, Cause.ERROR, f"{word}: {reason}", is_stuck=True)
    if word != "FAILED":
        return JobReport(STATES.get(word, JobState.UNKNOWN), None, "; ".join([word, *reasons]))
    status = container.get("exitCode")
    known = [cause for pattern, cause in REASONS.items() for text in reasons if re.search(pattern, text)]
    cause = (*known, exit_cause(status or 0), Cause.LOST)
    shown = [word, f"exit status {status}" if status is not None else "", *reasons]
    return JobReport(JobState.ENDED, next(c for c in cause if c is not None), "; ".join(text for text in shown if text))


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
