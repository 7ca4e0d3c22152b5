"""GA4GH TES: the Task Execution Service, version 1.1.

This module follows the OpenAPI document of TES 1.1.0 (github.com/ga4gh/task-execution-schemas). Each job is tagged with
the name of its workflow, so that one list request returns the states of all jobs. The worker fetches its data from the
store; a TES input is used only for `job_script_prologue`.
"""

from __future__ import annotations

import base64
import logging
import math
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from toilfn.clusters.base import Batch, Capabilities, JobId, JobState, RunContext, exit_cause
from toilfn.clusters.common.commands import CredentialsError, UnavailableError
from toilfn.clusters.common.http import JsonService, RefusedError
from toilfn.clusters.common.polled import START_PATIENCE, JobReport, LiveJob, PolledCluster
from toilfn.clusters.common.settings import (
    ContainerSettings,
    image_of,
    kept_output,
    prologue_script,
    resolved,
    setting,
    walltime_of,
    worker_words,
)  # fmt: skip
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Resources

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["TESCluster", "TESSettings", "explained"]

_log = logging.getLogger(__name__)

STATES: dict[str, tuple[JobState, Cause | None]] = {
    "UNKNOWN": (JobState.UNKNOWN, None),
    "QUEUED": (JobState.QUEUED, None),
    "INITIALIZING": (JobState.QUEUED, None),
    "RUNNING": (JobState.RUNNING, None),
    "PAUSED": (JobState.RUNNING, None),
    "CANCELING": (JobState.RUNNING, None),
    "COMPLETE": (JobState.ENDED, None),
    "EXECUTOR_ERROR": (JobState.ENDED, Cause.ERROR),
    "SYSTEM_ERROR": (JobState.ENDED, Cause.LOST),
    "CANCELED": (JobState.ENDED, Cause.LOST),
    "PREEMPTED": (JobState.ENDED, Cause.PREEMPTED),
}
"""TES states (tesState) and their meanings. A job with a system error counts as lost: that is not the task's fault."""

_FEW = 8
"""Maximum number of jobs to query one by one. For more jobs, reading the list of all jobs is faster."""

_PAGE = 2000
"""Tasks per page of a list. TES requires less than 2048."""

_TAIL = 1000
"""Number of characters of a failed job's output to show."""

_SCRIPT = "/tmp/toilfn-prologue.sh"  # noqa: S108 - in the job's own container

_ENDPOINT_HINT = "check endpoint=... or TOILFN_TES_ENDPOINT"
_CREDENTIALS_HINT = (
    "pass user=... and password=..., or bearer_token=..., or set TOILFN_TES_USER and TOILFN_TES_PASSWORD, or "
    "TOILFN_TES_BEARER_TOKEN; a token that expires during a run can be renewed in a file: bearer_token='file:PATH'"
)

_MEMORY = re.compile(r"\bOOM|out of memory", re.IGNORECASE)
_PREEMPTED = re.compile(r"\b(Node)?Preempted\b", re.IGNORECASE)
"""Patterns for a task's system logs. TES on Azure reports a preempted node as a system error."""


class TESSettings(ContainerSettings, total=False):
    """Settings of `TESCluster` besides those of `ContainerSettings`.

    Parameters
    ----------
    endpoint : str
        URL of the server, such as ``"https://tes.example.org"``; ``/ga4gh/tes/v1`` is appended unless its path ends in
        ``/v1``. Default: ``TOILFN_TES_ENDPOINT``, else ``http://localhost:8000``.
    user : str
        User for basic authentication. Default: ``TOILFN_TES_USER``.
    password : str
        Password for basic authentication. Default: ``TOILFN_TES_PASSWORD``.
    bearer_token : str
        Token for bearer authentication. Default: ``TOILFN_TES_BEARER_TOKEN``. ``"file:PATH"`` names a file that is read
        for each request, so that the token can be renewed during a run.
    tags : mapping of str to str
        Additional tags for all jobs.
    zones : sequence of str
        Zones in which jobs may run.
    backend_parameters : mapping of str to str
        Parameters of the server's backend, such as a machine type; the only way to request accelerators.
    """

    endpoint: str
    user: str
    password: str
    bearer_token: str
    tags: Mapping[str, str]
    zones: Sequence[str]
    backend_parameters: Mapping[str, str]


class TESCluster(PolledCluster[LiveJob]):
    """Runs tasks on a TES server; see `ContainerSettings` and `TESSettings` for the settings."""

    capabilities: ClassVar[Capabilities] = Capabilities(walltime_limits=True, preemption=True)
    address_settings = ("endpoint", "image")
    unknown = "the TES server does not know the job"

    def __init__(self, **settings: Unpack[TESSettings]) -> None:
        super().__init__(resolved("TESCluster", "tes", TESSettings, settings))
        self._service = JsonService(
            "the TES server", _endpoint(self.settings), _credentials(self.settings), _CREDENTIALS_HINT
        )

    def open(self, context: RunContext) -> None:
        """Check that the server answers and accepts the credentials. See `Cluster.open`."""
        super().open(context)
        image_of(self.settings, "TESCluster")
        try:
            self.retry_until_answered(self._check_server, START_PATIENCE)
        except CredentialsError:
            raise
        except UnavailableError as error:
            raise ClusterError(f"{error}", hint=_ENDPOINT_HINT) from None

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start one TES task for each batch. See `Cluster.submit`."""
        jobs = self.one_by_one(batches, lambda batch: {batch.name: self._create(batch)})
        return [jobs[batch.name] for batch in batches]

    def look(self, jobs: Sequence[JobId]) -> dict[JobId, JobReport]:
        """Read the states of jobs, and the reasons of those that failed."""
        wanted = set(jobs)
        tasks = map(self._get, jobs) if len(jobs) <= _FEW else self._listed("MINIMAL")
        try:
            states = {
                JobId(task["id"]): task.get("state", "UNKNOWN") for task in tasks if task and task["id"] in wanted
            }
        except RefusedError as error:
            if error.status == 403:  # the credentials were accepted before, so they have expired
                raise CredentialsError(str(error)) from None
            raise
        return {job: self._found(job, state) for job, state in states.items()}

    def end(self, jobs: Sequence[JobId]) -> None:
        """Cancel tasks; those that have ended or no longer exist are ignored."""
        for job in jobs:
            try:
                self._service.post(f"/tasks/{job}:cancel", {})
            except RefusedError as error:
                if self._is_alive(job):
                    _log.warning("could not cancel job %s: %s", job, error)

    def _is_alive(self, job: JobId) -> bool:
        """Return whether a job may still be running; True if the server refuses to say."""
        try:
            state, _ = STATES.get((self._get(job) or {"state": "CANCELED"}).get("state", ""), (JobState.UNKNOWN, None))
        except RefusedError:
            return True
        return state is not JobState.ENDED

    def namesakes(self, name: str) -> list[JobId]:
        """Return the ids of all live tasks with a name."""
        tasks = [task for task in self._listed("BASIC") if task.get("name") == name]
        unknown = STATES["UNKNOWN"]
        return [
            JobId(task["id"]) for task in tasks if STATES.get(task.get("state", ""), unknown)[0] is not JobState.ENDED
        ]

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find the live tasks of a workflow by their tag, and adopt them."""
        found: dict[JobId, str] = {}
        for task in self.retry_until_answered(lambda: [*self._listed("BASIC", workflow)]):
            tags = task.get("tags") or {}
            state, _ = STATES.get(task.get("state", "UNKNOWN"), (JobState.UNKNOWN, None))
            if tags.get("toilfn.workflow") == workflow and state is not JobState.ENDED:
                job = JobId(task["id"])
                found[job] = tags.get("toilfn.batch", "")
                self._watch(job, tags.get("toilfn.walltime"))
        return found

    def task(self, batch: Batch, name: str) -> dict[str, Any]:
        """Return the TES task (tesTask) that `submit` sends for a batch."""
        given, walltime = self.settings, walltime_of(self.settings, batch.resources)
        command = kept_output([*worker_words(given, self.context), batch.name])
        lines = given.get("job_script_prologue", ())
        tags = {"toilfn.workflow": self.context.workflow, "toilfn.batch": batch.name}
        return {
            "name": name,
            "description": batch.label,
            "tags": {**given.get("tags", {}), **tags, **({"toilfn.walltime": f"{walltime:g}"} if walltime else {})},
            "resources": self._resources(batch.resources),
            "inputs": [{"path": _SCRIPT, "content": prologue_script(lines), "type": "FILE"}] if lines else [],
            "executors": [
                {
                    "image": image_of(given, "TESCluster"),
                    "command": ["sh", _SCRIPT, *command] if lines else command,
                    "env": {**self.context.environment, **given.get("env", {})},
                }
            ],
        }

    def _check_server(self) -> None:
        try:
            self._service.get("/service-info")
        except RefusedError as error:
            if error.status == 403:
                raise
            if error.location:
                raise ClusterError(
                    f"{error}", hint=f"the server redirects to {error.location}: pass that as endpoint=..."
                ) from None
            raise ClusterError(f"{error}", hint=_ENDPOINT_HINT) from None

    def _create(self, batch: Batch) -> JobId:
        def send(name: str) -> str:
            return str(self._service.post("/tasks", self.task(batch, name))["id"])

        def arrived(name: str) -> str:
            return next((found["id"] for found in self._listed("BASIC") if found.get("name") == name), "")

        name = f"{self.context.workflow}-{secrets.token_hex(8)}"
        job = JobId(self.submit_once((batch.name,), name, send, arrived))
        self._watch(job, self.task(batch, name)["tags"].get("toilfn.walltime"))
        return job

    def _watch(self, job: JobId, walltime: str | None) -> None:
        with self.lock:
            self._live.setdefault(job, LiveJob(walltime=float(walltime) if walltime else None))

    def _resources(self, resources: Resources) -> dict[str, Any]:
        """Translate requirements into tesResources; sizes are in GB (10**9 bytes)."""
        given = self.settings
        if resources.accelerators and "backend_parameters" not in given:
            raise InputError(
                "TES cannot request accelerators",
                hint="pass your server's own setting in backend_parameters={...}, such as a machine type",
            )
        asked: dict[str, Any] = {
            "cpu_cores": max(1, math.ceil(resources.cores)),
            "ram_gb": resources.memory / 1e9,
            "disk_gb": resources.disk / 1e9,
            "preemptible": resources.preemptible,
        }
        return asked | {name: given[name] for name in ("zones", "backend_parameters") if name in given}

    def _get(self, job: JobId, view: str = "MINIMAL") -> dict[str, Any] | None:
        try:
            task: dict[str, Any] = self._service.get(f"/tasks/{job}", view=view)
            return task
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def _listed(self, view: str, workflow: str = "") -> Iterator[dict[str, Any]]:
        """Iterate over a workflow's tasks, reading all pages of the list."""
        query = {"view": view, "page_size": _PAGE, "tag_key": "toilfn.workflow"}
        query["tag_value"] = workflow or self.context.workflow
        while True:
            page = self._service.get("/tasks", **query)
            yield from page.get("tasks") or ()
            if not page.get("next_page_token"):
                return
            query["page_token"] = page["next_page_token"]

    def _found(self, job: JobId, word: str) -> JobReport:
        state, cause = STATES.get(word, (JobState.UNKNOWN, None))
        if cause is None:
            return JobReport(state, None, word)
        return explained(word, cause, self._get(job, "FULL") or {})


def explained(word: str, cause: Cause, task: Mapping[str, Any]) -> JobReport:
    """Return why a task failed, from its logs (tesTaskLog, tesExecutorLog)."""
    log = (task.get("logs") or [{}])[-1]
    executor = (log.get("logs") or [{}])[-1]
    said = "\n".join(map(str, log.get("system_logs") or ()))
    status = _status(executor.get("exit_code"))
    if word == "EXECUTOR_ERROR":
        cause = Cause.MEMORY if _MEMORY.search(said) else exit_cause(status or 1) or cause
    elif word == "SYSTEM_ERROR" and _PREEMPTED.search(said):
        cause = Cause.PREEMPTED
    ending = f", exit status {status}" if status else ""
    parts = {
        "the server says": said,
        "its output ends with": f"{executor.get('stdout') or ''}{executor.get('stderr') or ''}",
    }
    shown = [f"; {title}:\n{text.strip()[-_TAIL:]}" for title, text in parts.items() if text.strip()]
    log = parts["its output ends with"].encode()
    return JobReport(JobState.ENDED, cause, f"{word}{ending}{''.join(shown)}", log=log)


def _status(value: object) -> int:
    """Return an exit status, which some servers send as a text; 0 if there is none."""
    match = re.fullmatch(r"\s*(-?\d{1,9})\s*", str(value))
    return int(match[1]) if match else 0


def _endpoint(settings: Mapping[str, Any]) -> str:
    url = (setting(settings, "endpoint", "TOILFN_TES_ENDPOINT") or "http://localhost:8000").rstrip("/")
    return url if url.endswith("/v1") else f"{url}/ga4gh/tes/v1"


def _credentials(settings: Mapping[str, Any]) -> Callable[[], dict[str, str]]:
    """Return a function that builds the header with the credentials."""
    user = setting(settings, "user", "TOILFN_TES_USER")
    password = setting(settings, "password", "TOILFN_TES_PASSWORD")
    token = setting(settings, "bearer_token", "TOILFN_TES_BEARER_TOKEN")
    if token and (user or password):
        raise InputError(
            "TESCluster cannot use a bearer token and a user or password together", hint="pass only one of them"
        )
    if token:
        return lambda: {"Authorization": f"Bearer {_token(token)}"}
    if user:
        pair = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
        return lambda: {"Authorization": f"Basic {pair}"}
    return dict


def _token(given: str) -> str:
    """Return the token, read from a file if the setting names one. A file that cannot be read counts as an outage."""
    if not given.startswith("file:"):
        return given
    path = Path(given.removeprefix("file:")).expanduser()
    try:
        return path.read_text().strip()
    except (OSError, ValueError) as error:
        raise CredentialsError(f"bearer_token: {path} cannot be read: {error}") from None
