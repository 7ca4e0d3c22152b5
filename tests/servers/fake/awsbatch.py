"""moto's server, with the parts of AWS Batch that it lacks; jobs run as containers of a Docker API.

Added, after the user guide and the API reference of AWS Batch: elements of arrays get AWS_BATCH_JOB_ARRAY_INDEX and a
copy of the environment of their own, ListJobs shows arrays (not their elements) with their size, ending an array ends
its elements, memory is limited, and DescribeJobs says the exit code and why a container failed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from docker.errors import APIError, ImageNotFound
from docker.models.containers import ContainerCollection
from moto.batch.models import BatchBackend, Job
from moto.server import main

_plain_property = Job._get_container_property
_plain_short = Job.describe_short
_plain_details = Job._container_details
_plain_terminate = Job.terminate
_plain_list = BatchBackend.list_jobs
_plain_run = ContainerCollection.run
_plain_mark = Job._mark_stopped


def container_property(self: Job, name: str, default: Any) -> Any:
    """Return a separate environment for each element, with its number."""
    if name != "environment":
        return _plain_property(self, name, default)
    given = [*self.job_definition.container_properties["environment"], *self.container_overrides.get(name, ())]
    index = self.array_properties.get("index")
    own = {"AWS_BATCH_JOB_ID": self.job_id, **({} if index is None else {"AWS_BATCH_JOB_ARRAY_INDEX": str(index)})}
    values = {item["name"]: item["value"] for item in given} | own
    return [{"name": key, "value": value} for key, value in values.items()]


def short(self: Job) -> dict[str, Any]:
    """Return whether it is an array."""
    size = self.array_properties.get("size")
    return _plain_short(self) | ({"arrayProperties": {"size": size}} if size else {})


def details(self: Job) -> dict[str, Any]:
    """Return how the container ended."""
    found: dict[str, Any] = _plain_details(self)
    if self.job_stopped and self.exit_code is not None:
        found["exitCode"] = self.exit_code
    reason = getattr(self, "container_reason", "")
    return found | ({"reason": reason} if reason else {})


def terminate(self: Job, reason: str) -> None:
    """End an array with its elements; a container is asked to end first, and what it prints then is in the log."""
    for job in (*(self._child_jobs or ()), self):
        container = getattr(job, "container", None)
        if container is not None and not job.job_stopped:
            job.job_stopped_reason = reason
            with suppress(APIError):
                container.stop(timeout=10)
            job.join(10)  # its thread keeps the log
        _plain_terminate(job, reason)


def listed(self: BatchBackend, *args: Any, **parameters: Any) -> list[Job]:
    """Leave elements of arrays out of a queue's list."""
    return [job for job in _plain_list(self, *args, **parameters) if "index" not in job.array_properties]


def run(self: ContainerCollection, image: str, **parameters: Any) -> Any:
    """Limit a container's memory, and keep why it could not be made."""
    job = _caller()
    needs = job.container_overrides.get("resourceRequirements", ())
    memory = next(f"{item['value']}m" for item in needs if item["type"] == "MEMORY")
    try:
        container = _plain_run(self, image, mem_limit=memory, memswap_limit=memory, **parameters)
    except (APIError, ImageNotFound) as error:
        job.container_reason = f"CannotPullContainerError: {error}"
        job.job_stopped_reason = "Task failed to start"
        raise
    job.container = container
    return container


def mark_stopped(self: Job, success: bool = True) -> None:
    """Return why a container failed."""
    container = getattr(self, "container", None)
    if not success and container is not None:
        if self.exit_code == 137 and not self.stop and not _killed(container):  # podman does not say OOMKilled
            self.container_reason = "OutOfMemoryError: Container killed due to memory usage"
        self.job_stopped_reason = self.job_stopped_reason or "Essential container in task exited"
    _plain_mark(self, success)


def _killed(container: Any) -> bool:
    """Return whether a signal was sent to a container."""
    asked = {"since": 0, "until": int(time.time()) + 1, "filters": {"container": container.id, "event": "kill"}}
    return any(True for _ in container.client.api.events(decode=True, **asked))


def _caller() -> Any:
    """The job whose thread this is."""
    import threading

    return threading.current_thread()


def patch(kind: type, **methods: Callable[..., Any]) -> None:
    """Replace methods of a class in moto; each must exist already."""
    for name, method in methods.items():
        assert hasattr(kind, name), f"moto has changed: {kind.__name__} has no {name}"
        setattr(kind, name, method)


if __name__ == "__main__":
    patch(
        Job, _get_container_property=container_property, describe_short=short, _container_details=details,
        terminate=terminate, _mark_stopped=mark_stopped,
    )  # fmt: skip
    patch(BatchBackend, list_jobs=listed)
    patch(ContainerCollection, run=run)
    main(sys.argv[1:])
