"""AWS Batch, with containers on EC2. Jobs reach the store with the rights of their role: they get no credentials."""

from __future__ import annotations

import logging
import re
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from toilfn.clusters.awsbatch import jobs as awsjobs
from toilfn.clusters.awsbatch.aws import Amazon
from toilfn.clusters.base import Batch, Capabilities, JobId, JobState, RunContext
from toilfn.clusters.common.commands import AwayError, portions
from toilfn.clusters.common.containersettings import ContainerSettings, setting, walltime_of, worker_words
from toilfn.clusters.common.polled import START_PATIENCE, Found, LiveJob, PolledCluster
from toilfn.clusters.common.settings import resolved
from toilfn.errors import ClusterError
from toilfn.resources import Resources

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AWSBatchCluster", "AWSBatchSettings"]

_log = logging.getLogger(__name__)

_DESCRIBED = 100
"""The most jobs in one DescribeJobs."""

_TAIL = 20
"""How many lines of a failed job's log are shown."""

_LINES = 1000
"""How many are kept."""


class AWSBatchSettings(ContainerSettings, total=False):
    """Settings of `AWSBatchCluster` besides those of `ContainerSettings`.

    Parameters
    ----------
    queue : str
        Name or ARN of the job queue; by default that of ``TOILFN_AWS_BATCH_QUEUE``. Tasks that may be preempted go
        to `spot_queue`, if there is one.
    spot_queue : str
        A queue with spot instances.
    region : str
        By default that of ``TOILFN_AWS_BATCH_REGION``, else what botocore finds.
    profile, endpoint_url : str
        Whose credentials, and another address than Amazon's.
    job_role_arn : str
        The IAM role that jobs have, and with it their access to the store; assumable by
        ``ecs-tasks.amazonaws.com``. By default that of ``TOILFN_AWS_BATCH_JOB_ROLE_ARN``.
    execution_role_arn : str
        The role with which ECS starts containers, where that needs one.
    volumes : mapping of str to str
        Folders of the instances and where they are in the containers, such as ``{"/mnt/efs": "/data"}``.
    log_group : str
        Where jobs' output is in CloudWatch; ``/aws/batch/job`` by default.
    tags : mapping of str to str
        Tags of all jobs.
    max_array_size : int
        The most jobs in one submission.
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
    """Run tasks as AWS Batch jobs; see `ContainerSettings` and `AWSBatchSettings` for its settings."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True, preemption=True
    )
    place = ("queue", "spot_queue", "region", "profile", "endpoint_url", "image")
    unknown = "AWS Batch does not know it"

    def __init__(self, **settings: Unpack[AWSBatchSettings]) -> None:
        super().__init__(resolved("AWSBatchCluster", "awsbatch", AWSBatchSettings, settings))
        given = self.settings
        region = setting(given, "region", "TOILFN_AWS_BATCH_REGION")
        self._amazon = Amazon(region, given.get("profile"), given.get("endpoint_url"))
        self._queue = setting(given, "queue", "TOILFN_AWS_BATCH_QUEUE") or ""
        self._definition = ""

    def open(self, context: RunContext) -> None:
        """See whether the queues are there, and find or make the job definition. See `Cluster.open`."""
        super().open(context)
        name, properties = awsjobs.definition(self.settings)
        self.patiently(self._check_queues, START_PATIENCE)
        self._definition = self.patiently(lambda: self._defined(name, properties), START_PATIENCE)

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start jobs; those of one shape go out as an array. See `Cluster.submit`."""
        shapes: defaultdict[Resources, list[Batch]] = defaultdict(list)
        for batch in batches:
            shapes[batch.resources].append(batch)
        most = min(int(self.settings.get("max_array_size", awsjobs.ARRAY_LIMIT)), awsjobs.ARRAY_LIMIT)
        self._end_doubtful(batches)
        parts = [portion for group in shapes.values() for portion in awsjobs.portions(group, most)]
        jobs = self.one_by_one(parts, self._submit)
        return [jobs[batch.name] for batch in batches]

    def _end_doubtful(self, batches: Sequence[Batch]) -> None:
        """End submissions that may have come through, where their batches may go out in other arrays now."""
        names = {batch.name for batch in batches}
        for key in [key for key in self._doubtful if len(key) > 1 and not names.isdisjoint(key)]:
            if found := self.patiently(lambda key=key: self.namesakes(self._doubtful[key])):  # type: ignore[misc]
                self.end(found)
            del self._doubtful[key]

    def namesakes(self, name: str) -> list[JobId]:
        """Return the ids of all live jobs of a name, of arrays their own."""
        ids = [job for queue in dict.fromkeys((self._queue, self._spot_queue)) for job in self._named(queue, name)]
        living = [job for job in self._described(ids) if awsjobs.STATES.get(job["status"]) is not JobState.ENDED]
        return [*dict.fromkeys(JobId(_parent(job["jobId"])) for job in living)]

    def look(self, jobs: Sequence[JobId]) -> dict[JobId, Found]:
        """Describe jobs, a hundred at a time."""
        return {JobId(job["jobId"]): self._found(job) for job in self._described(jobs)}

    def end(self, jobs: Sequence[JobId]) -> None:
        """Terminate jobs; arrays of which nothing else lives by their own id."""
        kept = {_parent(job) for job in self._live.keys() - set(jobs)}
        targets = dict.fromkeys(job if _parent(job) in kept else _parent(job) for job in jobs)
        for target in targets:
            try:
                self._amazon.ask("batch", "terminate_job", jobId=target, reason="ended by toilfn")
            except AwayError:
                raise
            except ClusterError as error:
                names = " ".join(job for job in jobs if job == target or _parent(job) == target)
                _log.warning("these jobs could not be ended: %s: %s", names, error)

    def leave(self) -> None:
        """Forget all jobs of this leader, and close all connections."""
        super().leave()
        self._amazon.close()

    @property
    def _spot_queue(self) -> str:
        queue: str = self.settings.get("spot_queue", self._queue)
        return queue

    def _check_queues(self) -> None:
        """See whether the queues take jobs.

        Raises
        ------
        ClusterError
            If one does not; names those that there are.
        """
        queues = [*self._amazon.pages("batch", "describe_job_queues", "jobQueues")]
        known = {queue[key]: queue for queue in queues for key in ("jobQueueName", "jobQueueArn")}
        names = ", ".join(sorted(queue["jobQueueName"] for queue in queues))
        for name in (self._queue, self._spot_queue):
            if name not in known:
                raise ClusterError(
                    f"AWS Batch queue {name!r} not found in this region; there are {names or 'none'}",
                    hint="pass queue=..., or set TOILFN_AWS_BATCH_QUEUE",
                )
            queue = known[name]
            if queue["state"] != "ENABLED" or queue["status"] == "INVALID":
                why = queue.get("statusReason", "it takes no jobs")
                raise ClusterError(f"AWS Batch queue {name!r} is {queue['state']}, {queue['status']}: {why}")

    def _defined(self, name: str, properties: Mapping[str, Any]) -> str:
        """Find the job definition of this name, or make it; gives its ARN."""
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
            "containerOverrides": awsjobs.overrides(
                batches, command, prologue, {**context.environment, **given.get("env", {})}
            ),
            "retryStrategy": {"attempts": 1},  # the leader decides what runs again
            **awsjobs.timeout(walltime),
            **({"arrayProperties": {"size": len(batches)}} if len(batches) > 1 else {}),
            **({"tags": given["tags"], "propagateTags": True} if "tags" in given else {}),
        }

        def send(name: str) -> str:
            return str(self._amazon.ask("batch", "submit_job", jobName=name, **request)["jobId"])

        def arrived(name: str) -> str:
            return next((_parent(job) for job in self._named(queue, name)), "")

        name = f"{_name(context.workflow)}-{secrets.token_hex(8)}"
        base = self.once(tuple(batch.name for batch in batches), name, send, arrived)
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
        """Find all jobs of a workflow, also some that have ended."""
        queues = dict.fromkeys((self._queue, self._spot_queue))
        return [job for queue in queues for job in self._named(queue, f"{_name(workflow)}-*")]

    def _named(self, queue: str, name: str) -> list[JobId]:
        """Find the jobs of a name, in which a star stands for the part that is random; of arrays their elements."""
        filters = [{"name": "JOB_NAME", "values": [name]}]
        pattern = re.compile(re.escape(name).replace(r"\*", "[0-9a-f]{16}"))
        elements: list[JobId] = []
        for job in self._amazon.pages("batch", "list_jobs", "jobSummaryList", jobQueue=queue, filters=filters):
            size = job.get("arrayProperties", {}).get("size")
            if pattern.fullmatch(job["jobName"]):
                elements += [JobId(f"{job['jobId']}:{n}") for n in range(size)] if size else [JobId(job["jobId"])]
        return [*dict.fromkeys(elements)]

    def _found(self, job: Mapping[str, Any]) -> Found:
        found = awsjobs.found(job)
        stream = awsjobs.log_stream(job)
        if found.state is not JobState.ENDED or found.cause is None or not stream:
            return found
        words, lines = self._log(stream)
        said = "\n".join([words, *lines[-_TAIL:]])
        return found._replace(detail=f"{found.detail}; {said}", log="\n".join(lines).encode())

    def _log(self, stream: str) -> tuple[str, list[str]]:
        """Name a log stream, and give its last lines where they may be read."""
        group = self.settings.get("log_group", "/aws/batch/job")
        try:
            answer = self._amazon.ask(
                "logs", "get_log_events", logGroupName=group, logStreamName=stream, limit=_LINES, startFromHead=False
            )
        except (AwayError, ClusterError) as error:
            return f"its log stream {stream} in {group} cannot be read: {error}", []
        return f"its log stream {stream} in {group} ends with:", [event["message"] for event in answer["events"]]

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find live jobs by their names, and take them over."""
        found: dict[JobId, str] = {}
        for job in self.patiently(lambda: self._described(self._own(workflow))):
            if awsjobs.STATES.get(job["status"]) is not JobState.ENDED:
                id_, names, number = JobId(job["jobId"]), awsjobs.batch_names(job), _number(job["jobId"])
                found[id_] = names[number] if number < len(names) else ""
                self._live.setdefault(id_, LiveJob())
        return found


def _parent(job: str) -> str:
    """Return the id of the array that an element belongs to; of another job its own."""
    return job.partition(":")[0]


def _number(job: str) -> int:
    """Return an element's number in its array; 0 of another job."""
    return int(job.partition(":")[2] or 0)


def _name(workflow: str) -> str:
    """Write a workflow's name with the characters that a job's name may have."""
    return workflow.replace(".", "_")
