"""GA4GH TES: the Task Execution Service, version 1.1.

Follows the OpenAPI document of TES 1.1.0 (github.com/ga4gh/task-execution-schemas). Jobs of a workflow have its name
as a tag, so that one list gives the states of all. The worker fetches all it needs from the store: TES inputs are
used for nothing but the lines that go before it.
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

from toilfn.clusters.base import Batch, Capabilities, JobId, JobState, RunContext
from toilfn.clusters.common.commands import AwayError, CredentialsError
from toilfn.clusters.common.containersettings import (
    ContainerSettings,
    image_of,
    kept_output,
    prologue_script,
    setting,
    walltime_of,
    worker_words,
)  # fmt: skip
from toilfn.clusters.common.http import JsonService, RefusedError
from toilfn.clusters.common.polled import START_PATIENCE, Found, LiveJob, PolledCluster
from toilfn.clusters.common.settings import resolved
from toilfn.clusters.common.verdicts import exit_cause
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
"""TES's words (tesState) and ours. A system error is nothing that the task did: a retry of its own kind."""

_FEW = 8
"""Up to this many jobs are read one by one; beyond it, the list is read."""

_PAGE = 2000
"""Tasks in a page of a list; TES allows less than 2048."""

_TAIL = 1000
"""How many characters of a failed job's output are shown."""

_SCRIPT = "/tmp/toilfn-prologue.sh"  # noqa: S108 - in the job's own container

_ENDPOINT_HINT = "check endpoint=... or TOILFN_TES_ENDPOINT"
_CREDENTIALS_HINT = (
    "pass user=... and password=..., or bearer_token=..., or set TOILFN_TES_USER and TOILFN_TES_PASSWORD, or "
    "TOILFN_TES_BEARER_TOKEN; a token that expires during a run can be renewed in a file: bearer_token='file:PATH'"
)

_MEMORY = re.compile(r"OOM|out of memory", re.IGNORECASE)


class TESSettings(ContainerSettings, total=False):
    """Settings of `TESCluster` besides those of `ContainerSettings`.

    Parameters
    ----------
    endpoint : str
        The server, such as ``"https://tes.example.org"``; ``/ga4gh/tes/v1`` is added unless it has a path that ends
        in ``/v1``. By default that of ``TOILFN_TES_ENDPOINT``, else ``http://localhost:8000``.
    user, password : str
        For basic authentication; by default those of ``TOILFN_TES_USER`` and ``TOILFN_TES_PASSWORD``.
    bearer_token : str
        For bearer authentication; by default that of ``TOILFN_TES_BEARER_TOKEN``. ``"file:PATH"`` names a file that is
        read for each request, so that a token can be renewed during a run.
    tags : mapping of str to str
        Further tags of all jobs.
    zones : sequence of str
        Where jobs may run.
    backend_parameters : mapping of str to str
        Parameters of the server's backend, such as a type of machine; the only way to accelerators.
    """

    endpoint: str
    user: str
    password: str
    bearer_token: str
    tags: Mapping[str, str]
    zones: Sequence[str]
    backend_parameters: Mapping[str, str]


class TESCluster(PolledCluster[LiveJob]):
    """Run tasks on a TES server; see `ContainerSettings` and `TESSettings` for its settings."""

    capabilities: ClassVar[Capabilities] = Capabilities(walltime_limits=True, preemption=True)
    place = ("endpoint", "image")
    unknown = "the TES server does not know it"

    def __init__(self, **settings: Unpack[TESSettings]) -> None:
        super().__init__(resolved("TESCluster", "tes", TESSettings, settings))
        self._service = JsonService(
            "the TES server", _endpoint(self.settings), _credentials(self.settings), _CREDENTIALS_HINT
        )

    def open(self, context: RunContext) -> None:
        """See whether the server answers, and takes the credentials. See `Cluster.open`."""
        super().open(context)
        image_of(self.settings, "TESCluster")
        try:
            self.patiently(self._greet, START_PATIENCE)
        except CredentialsError:
            raise
        except AwayError as error:
            raise ClusterError(f"{error}", hint=_ENDPOINT_HINT) from None

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start one TES task for each batch. See `Cluster.submit`."""
        jobs = self.one_by_one(batches, lambda batch: {batch.name: self._create(batch)})
        return [jobs[batch.name] for batch in batches]

    def look(self, jobs: Sequence[JobId]) -> dict[JobId, Found]:
        """Read one list of all jobs; ask for the reasons of those that ended badly."""
        wanted = set(jobs)
        tasks = map(self._get, jobs) if len(jobs) <= _FEW else self._listed("MINIMAL")
        try:
            states = {
                JobId(task["id"]): task.get("state", "UNKNOWN") for task in tasks if task and task["id"] in wanted
            }
        except RefusedError as error:
            if error.status == 403:  # we were allowed to look before
                raise CredentialsError(str(error)) from None
            raise
        return {job: self._found(job, state) for job, state in states.items()}

    def end(self, jobs: Sequence[JobId]) -> None:
        """Cancel tasks; that one is gone, or has ended, is not an error."""
        for job in jobs:
            try:
                self._service.post(f"/tasks/{job}:cancel", {})
            except RefusedError as error:
                if self._is_alive(job):
                    _log.warning("the job %s could not be ended: %s", job, error)

    def _is_alive(self, job: JobId) -> bool:
        """Ask whether a job may still run; without an answer, it may."""
        try:
            state, _ = STATES.get((self._get(job) or {"state": "CANCELED"}).get("state", ""), (JobState.UNKNOWN, None))
        except RefusedError:
            return True
        return state is not JobState.ENDED

    def namesakes(self, name: str) -> list[JobId]:
        """Return the ids of all live tasks of a name."""
        tasks = [task for task in self._listed("BASIC") if task.get("name") == name]
        unknown = STATES["UNKNOWN"]
        return [
            JobId(task["id"]) for task in tasks if STATES.get(task.get("state", ""), unknown)[0] is not JobState.ENDED
        ]

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find live tasks by their tag, and take them over."""
        found: dict[JobId, str] = {}
        for task in self.patiently(lambda: [*self._listed("BASIC", workflow)]):
            tags = task.get("tags") or {}
            state, _ = STATES.get(task.get("state", "UNKNOWN"), (JobState.UNKNOWN, None))
            if tags.get("toilfn.workflow") == workflow and state is not JobState.ENDED:
                job = JobId(task["id"])
                found[job] = tags.get("toilfn.batch", "")
                self._watch(job, tags.get("toilfn.walltime"))
        return found

    def task(self, batch: Batch, name: str) -> dict[str, Any]:
        """Write the TES task of a batch (tesTask), as `submit` does."""
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

    def _greet(self) -> None:
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
        job = JobId(self.once((batch.name,), name, send, arrived))
        self._watch(job, self.task(batch, name)["tags"].get("toilfn.walltime"))
        return job

    def _watch(self, job: JobId, walltime: str | None) -> None:
        with self.lock:
            self._live.setdefault(job, LiveJob(walltime=float(walltime) if walltime else None))

    def _resources(self, resources: Resources) -> dict[str, Any]:
        """Translate requirements (tesResources); sizes are in GB of 10**9 bytes."""
        given = self.settings
        if resources.accelerators and "backend_parameters" not in given:
            raise InputError(
                "TES cannot request accelerators",
                hint="pass your server's own setting in backend_parameters={...}, such as a type of machine",
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
        """Read all pages of the list of a workflow's tasks."""
        query = {"view": view, "page_size": _PAGE, "tag_key": "toilfn.workflow"}
        query["tag_value"] = workflow or self.context.workflow
        while True:
            page = self._service.get("/tasks", **query)
            yield from page.get("tasks") or ()
            if not page.get("next_page_token"):
                return
            query["page_token"] = page["next_page_token"]

    def _found(self, job: JobId, word: str) -> Found:
        state, cause = STATES.get(word, (JobState.UNKNOWN, None))
        if cause is None:
            return Found(state, None, word)
        return explained(word, cause, self._get(job, "FULL") or {})


def explained(word: str, cause: Cause, task: Mapping[str, Any]) -> Found:
    """Return why a task ended badly, from its logs (tesTaskLog, tesExecutorLog)."""
    log = (task.get("logs") or [{}])[-1]
    executor = (log.get("logs") or [{}])[-1]
    said = "\n".join(log.get("system_logs") or ())
    if word == "EXECUTOR_ERROR":
        cause = Cause.MEMORY if _MEMORY.search(said) else exit_cause(executor.get("exit_code") or 1) or cause
    status = f", exit status {executor['exit_code']}" if executor.get("exit_code") else ""
    parts = {
        "the server says": said,
        "its output ends with": f"{executor.get('stdout') or ''}{executor.get('stderr') or ''}",
    }
    shown = [f"; {title}:\n{text.strip()[-_TAIL:]}" for title, text in parts.items() if text.strip()]
    log = parts["its output ends with"].encode()
    return Found(JobState.ENDED, cause, f"{word}{status}{''.join(shown)}", log=log)


def _endpoint(settings: Mapping[str, Any]) -> str:
    url = (setting(settings, "endpoint", "TOILFN_TES_ENDPOINT") or "http://localhost:8000").rstrip("/")
    return url if url.endswith("/v1") else f"{url}/ga4gh/tes/v1"


def _credentials(settings: Mapping[str, Any]) -> Callable[[], dict[str, str]]:
    """Return what makes the header that says who we are."""
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
    """Read a token from its file, where one is named; a file that is briefly away is an outage."""
    if not given.startswith("file:"):
        return given
    path = Path(given.removeprefix("file:")).expanduser()
    try:
        return path.read_text().strip()
    except (OSError, ValueError) as error:
        raise CredentialsError(f"bearer_token: {path} cannot be read: {error}") from None
