"""Mesos: a framework that accepts offers, and runs batches under one executor per node.

`MesosCluster` talks to the master. The functions below it are pure: they describe the framework, interpret the states
of tasks, and match batches with offers of the v1 API. A task takes its resources from an offer entry by entry, which
preserves their roles, reservations and allocations ("Resource roles and reservations" in the documentation of Mesos).
"""

from __future__ import annotations

import base64
import copy
import getpass
import json
import logging
import math
import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from urllib.parse import quote, unquote

from toilfn.clusters.base import Batch, Capabilities, JobId, JobState, RunContext, exit_cause
from toilfn.clusters.common.commands import UnavailableError
from toilfn.clusters.common.polled import START_PATIENCE, JobReport, LiveJob, PolledCluster
from toilfn.clusters.common.settings import (
    ContainerSettings,
    prologue_script,
    resolved,
    setting,
    walltime_of,
    worker_words,
)
from toilfn.clusters.mesos.master import Master
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Resources
from toilfn.units import parse_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "QUEUED", "STATES", "MesosCluster", "MesosSettings", "Offer", "amounts", "attributes", "credentials", "cut",
    "endpoints", "found", "framework_info", "is_preemptible", "suits",
]  # fmt: skip

_log = logging.getLogger(__name__)

QUEUED = JobReport(JobState.QUEUED, None, "waiting for an offer")

STATES: dict[str, tuple[JobState, Cause | None]] = {
    "TASK_STAGING": (JobState.QUEUED, None),
    "TASK_STARTING": (JobState.QUEUED, None),
    "TASK_RUNNING": (JobState.RUNNING, None),
    "TASK_KILLING": (JobState.RUNNING, None),
    "TASK_FINISHED": (JobState.ENDED, None),
    "TASK_FAILED": (JobState.ENDED, Cause.ERROR),
    "TASK_KILLED": (JobState.ENDED, Cause.LOST),
    "TASK_ERROR": (JobState.ENDED, Cause.ERROR),
    "TASK_LOST": (JobState.ENDED, Cause.LOST),
    "TASK_DROPPED": (JobState.ENDED, Cause.LOST),
    "TASK_GONE": (JobState.ENDED, Cause.LOST),
    "TASK_GONE_BY_OPERATOR": (JobState.ENDED, Cause.LOST),
    "TASK_UNREACHABLE": (JobState.UNKNOWN, None),
    "TASK_UNKNOWN": (JobState.UNKNOWN, None),
}
"""The states of Mesos (TaskState) and their meanings."""

REASONS: dict[str, Cause] = {
    "REASON_CONTAINER_LIMITATION_MEMORY": Cause.MEMORY,
    "REASON_EXECUTOR_TERMINATED": Cause.LOST,
    "REASON_EXECUTOR_REGISTRATION_TIMEOUT": Cause.LOST,
    "REASON_EXECUTOR_REREGISTRATION_TIMEOUT": Cause.LOST,
    "REASON_EXECUTOR_UNREGISTERED": Cause.LOST,
    "REASON_EXECUTOR_PREEMPTED": Cause.PREEMPTED,
    "REASON_CONTAINER_LAUNCH_FAILED": Cause.LOST,
    "REASON_CONTAINER_UPDATE_FAILED": Cause.LOST,
    "REASON_CONTAINER_PREEMPTED": Cause.PREEMPTED,
    "REASON_IO_SWITCHBOARD_EXITED": Cause.LOST,
    "REASON_AGENT_RESTARTED": Cause.LOST,
    "REASON_SLAVE_RESTARTED": Cause.LOST,
    "REASON_INVALID_OFFERS": Cause.LOST,
    "REASON_RESOURCES_UNKNOWN": Cause.LOST,
    "REASON_MAX_COMPLETION_TIME_REACHED": Cause.WALLTIME,
}
"""Reasons (mesos.proto, TaskStatus.Reason) for a failure that are more specific than the state."""

_NODE_IS_GONE = ("REASON_AGENT_REMOVED", "REASON_SLAVE_REMOVED", "REASON_AGENT_UNKNOWN", "REASON_AGENT_DISCONNECTED")
_FORGOTTEN = ("TASK_LOST", "TASK_GONE", "TASK_GONE_BY_OPERATOR")
"""States in the answers to reconciliation requests for tasks of nodes that no longer exist."""


_NOTE = "mesos-framework"
"""The name of the note with the framework's id."""

_EXECUTOR = {"cpus": 0.1, "mem": 64.0}
"""Resources of an executor's own process."""

_RECONCILE = 600.0
"""Seconds between two requests for the states of all jobs. Mesos sends updates, too, but one may be lost."""

_SOON = 5.0
"""Seconds to wait after a failed call until the states of all jobs are requested."""

_REFUSE_IDLE, _REFUSE_WAITING = 3600.0, 1.0
"""Seconds for which offers are refused: if no batches wait, and if some wait that do not fit."""


_WEEK = 7 * 86400.0


class MesosSettings(ContainerSettings, total=False):
    """Settings of `MesosCluster` besides those of `ContainerSettings`, of which `image` is optional here.

    Parameters
    ----------
    endpoint : str or sequence of str
        Address of the master, such as ``"10.0.0.1:5050"`` or ``"https://mesos.example.org"``, or addresses of several
        masters. Default: ``TOILFN_MESOS_ENDPOINT``, else ``localhost:5050``.
    role : str
        Role whose resources to use. Default: ``TOILFN_MESOS_ROLE``, else ``*``, the default role.
    name : str
        Name of the framework. Default: ``TOILFN_MESOS_NAME``, else ``toilfn``.
    framework_id : str
        Id of a framework to continue. Default: ``TOILFN_MESOS_FRAMEWORK_ID``, else the one an earlier leader saved in
        the store.
    principal : str
        Principal for basic authentication. Default: ``TOILFN_MESOS_PRINCIPAL``.
    secret : str
        Secret for basic authentication. Default: ``TOILFN_MESOS_SECRET``.
    user : str
        The user as whom jobs run on the nodes. Default: the current user.
    attributes : mapping of str to str
        Attributes that agents must have. Agents whose attribute ``preemptible`` is true get only preemptible tasks.
    failover_timeout : str or float
        How long jobs keep running without a leader. Default: a week.
    containerizer : str
        Containerizer that runs the image: ``"MESOS"`` (the default) or ``"DOCKER"``. Without an image, jobs run
        directly on the nodes, with the leader's Python interpreter unless `python` names another.
    """

    endpoint: str | Sequence[str]
    role: str
    name: str
    framework_id: str
    principal: str
    secret: str
    user: str
    attributes: Mapping[str, str]
    failover_timeout: str | float
    containerizer: str


@dataclass(slots=True)
class _Task(LiveJob):
    """A job. Until `agent` is set, it waits for an offer; `batch` is None if it must not be launched."""

    batch: Batch | None = None
    agent: str = ""
    is_preemptible: bool = False
    found: JobReport = field(default=QUEUED)


class MesosCluster(PolledCluster[_Task]):
    """Runs tasks on Apache Mesos; see `ContainerSettings` and `MesosSettings` for the settings."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        memory_limits=True, walltime_limits=True, accelerators=True, preemption=True
    )
    address_settings = ("endpoint", "role", "name", "framework_id")
    unknown = "Mesos does not know the job"

    def __init__(self, **settings: Unpack[MesosSettings]) -> None:
        super().__init__({"poll_interval": 0.2, **resolved("MesosCluster", "mesos", MesosSettings, settings)})
        self._master: Master | None = None
        self._executors: dict[str, dict[str, Any]] = {}
        self._next_reconciliation = 0.0

    # The interface of clusters.

    def open(self, context: RunContext) -> None:
        """Subscribe, as the framework of an earlier leader if there was one. See `Cluster.open`."""
        super().open(context)
        given = self.settings
        known = setting(given, "framework_id", "TOILFN_MESOS_FRAMEWORK_ID")
        noted = context.notes.read(_NOTE).decode()
        self._executors.clear()
        try:
            self._master = self._subscribed(known or noted)
        except ClusterError as error:
            if known or not noted or "removed" not in str(error):
                raise
            _log.warning("%s; registering a new framework, since failover_timeout has ended the old one", error)
            self._master = self._subscribed("")
        context.notes.write(_NOTE, self._master.framework_id.encode())

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Queue batches, and request offers. See `Cluster.submit`."""
        for batch in batches:
            amounts(batch.resources)
        jobs = [JobId(f"{secrets.token_hex(4)}-{quote(batch.name, safe='')}") for batch in batches]
        with self.lock:
            for job, batch in zip(jobs, batches, strict=True):
                self._live[job] = _Task(batch=batch, walltime=walltime_of(self.settings, batch.resources))
        self.retry_until_answered(lambda: self._open_master.call("REVIVE"))
        return jobs

    def look(self, jobs: Sequence[JobId]) -> dict[JobId, JobReport]:
        """Return the states of jobs from Mesos's updates, and from time to time request the states of all jobs."""
        master = self._open_master
        master.check()
        with self.lock:
            if time.monotonic() > self._next_reconciliation:
                self._reconcile()
            return {job: self._live[job].found for job in jobs}

    def end(self, jobs: Sequence[JobId]) -> None:
        """Kill tasks; those that have not been launched are removed from the queue."""
        with self.lock:
            launched = {job: self._live[job].agent for job in jobs if job in self._live and self._live[job].agent}
            for job in self._live.keys() & set(jobs) - launched.keys():
                self._live[job].batch = None
                self._live[job].found = JobReport(JobState.ENDED, Cause.LOST, "killed before it was launched")
        for job, agent in launched.items():
            self._open_master.call("KILL", kill={"task_id": {"value": job}, "agent_id": {"value": agent}})

    def close(self) -> None:
        """Shut down the framework: Mesos ends all its tasks, and its executors clean up."""
        master, self._master = self._master, None
        if master is None:
            return
        try:
            master.check()
            master.call("TEARDOWN")
            self.context.notes.write(_NOTE, b"")
        except UnavailableError as error:
            _log.warning("%s; its tasks will end after failover_timeout", error)
        except ClusterError as error:  # another leader has subscribed as this framework, and owns its tasks now
            _log.info("%s", error)
        finally:
            self._disconnect(master)

    def leave(self) -> None:
        """Disconnect without shutting down the framework: Mesos keeps its tasks for `failover_timeout`."""
        master, self._master = self._master, None
        if master is not None:
            self._disconnect(master)

    def _disconnect(self, master: Master) -> None:
        # Without the lock: `stop` waits for the subscription's thread, which may be waiting for the lock in `_handle`.
        master.stop()
        with self.lock:
            self._live.clear()
            self._to_kill.clear()

    def _subscribed(self, framework_id: str) -> Master:
        given = self.settings
        info = framework_info(given, self.context.workflow)
        self._master = Master(endpoints(given), info, credentials(given), self._handle)
        try:
            self._master.start(framework_id, START_PATIENCE)
        except ClusterError:
            self._master = None
            raise
        return self._master

    @property
    def _open_master(self) -> Master:
        if self._master is None:
            raise ClusterError("the cluster is not open")
        return self._master

    # Events of Mesos. The thread of the subscription calls these methods; `_handle` takes the lock for all of them.

    def _handle(self, event: Mapping[str, Any]) -> None:
        with self.lock:
            match event["type"]:
                case "SUBSCRIBED":  # events may have been lost, and executors may have ended
                    self._executors.clear()
                    self._next_reconciliation = 0.0
                case "OFFERS":
                    self._use(event["offers"]["offers"])
                case "UPDATE":
                    self._update(event["update"]["status"])
                case "FAILURE":
                    self._failed(event["failure"])
        self.wake()

    def _update(self, status: Mapping[str, Any]) -> None:
        """Record the state of a task, and acknowledge the update if necessary."""
        live = self._live.get(JobId(status["task_id"]["value"]))
        if live is not None and live.found.state is not JobState.ENDED:  # the first reason for an end counts
            live.found = found(status, is_preemptible=live.is_preemptible)
        if status.get("uuid"):
            body = {name: status[name] for name in ("agent_id", "task_id", "uuid")}
            self._call("ACKNOWLEDGE", acknowledge=body)

    def _failed(self, failure: Mapping[str, Any]) -> None:
        """Forget an executor that has ended or was lost with its node."""
        self._executors.pop(failure.get("agent_id", {}).get("value", ""), None)

    def _use(self, offers: Sequence[Offer]) -> None:
        """Launch the batches that fit the offers, and decline the other offers."""
        waiting = {job: live for job, live in self._live.items() if live.batch is not None and not live.agent}
        refused = []
        for offer in offers:
            launches = self._fill(offer, waiting)
            if launches:
                self._call("ACCEPT", accept={
                    "offer_ids": [offer["id"]],
                    "operations": [{"type": "LAUNCH", "launch": {"task_infos": launches}}],
                    "filters": {"refuse_seconds": 0.0},
                })  # fmt: skip
            else:
                refused.append(offer["id"])
        if refused:
            pause = _REFUSE_WAITING if waiting else _REFUSE_IDLE
            self._call("DECLINE", decline={"offer_ids": refused, "filters": {"refuse_seconds": pause}})

    def _fill(self, offer: Offer, waiting: dict[JobId, _Task]) -> list[dict[str, Any]]:
        """Remove the batches that fit an offer from the queue, oldest first, and return their launch operations."""
        agent, rest = offer["agent_id"]["value"], list(offer.get("resources", ()))
        executor = self._executors.get(agent) or self._new_executor(rest)
        launches: list[dict[str, Any]] = []
        for job, live in list(waiting.items()):
            assert live.batch is not None
            is_fit = executor is not None and suits(offer, live.batch.resources, self.settings.get("attributes", {}))
            resources = cut(rest, amounts(live.batch.resources)) if is_fit else None
            if resources is not None:
                live.agent, live.is_preemptible = agent, is_preemptible(offer)
                launches.append(self._task_info(job, live.batch, agent, resources, executor))
                del waiting[job]
        if launches and executor is not None:
            self._executors[agent] = executor
        return launches

    def _call(self, kind: str, **body: Any) -> None:
        """Send a call; if that fails, request the states of all jobs soon."""
        try:
            self._open_master.call(kind, **body)
        except ClusterError as error:
            _log.warning("%s", error)
            self._next_reconciliation = time.monotonic() + _SOON

    def _reconcile(self) -> None:
        """Request the state of each launched task (explicit reconciliation)."""
        self._next_reconciliation = time.monotonic() + _RECONCILE
        tasks = [
            {"task_id": {"value": job}, "agent_id": {"value": live.agent}}
            for job, live in self._live.items()
            if live.agent
        ]
        if tasks:
            self._call("RECONCILE", reconcile={"tasks": tasks})

    # Calls to Mesos.

    def _new_executor(self, rest: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Build an ExecutorInfo; None if the offer has no room for it."""
        resources = cut(rest, _EXECUTOR)
        if resources is None:
            return None
        given = self.settings
        python = given.get("python", "python3" if "image" in given else sys.executable)
        words = [python, "-m", "toilfn.clusters.mesos.executor"]
        variables = [{"name": n, "type": "VALUE", "value": v} for n, v in self.context.environment.items()]
        return {
            "executor_id": {"value": f"{self.context.workflow}-{secrets.token_hex(4)}"},
            "framework_id": {"value": self._open_master.framework_id},
            "type": "CUSTOM",
            "name": f"toilfn {self.context.workflow}",
            "source": "toilfn",
            "command": {"shell": False, "value": python, "arguments": words, "environment": {"variables": variables}},
            "resources": resources,
            **_container(given),
        }

    def _task_info(
        self, job: JobId, batch: Batch, agent: str, resources: list[dict[str, Any]], executor: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Build a TaskInfo, whose data tells the executor what to run."""
        given = self.settings
        python = {} if "image" in given else {"python": sys.executable}
        command = [*worker_words({**python, **given}, self.context), batch.name]
        lines = given.get("job_script_prologue", ())
        data = {
            "command": ["sh", "-c", prologue_script(lines), "sh", *command] if lines else command,
            "environment": {**self.context.environment, **given.get("env", {})},
            "memory": batch.resources.memory,
        }
        return {
            "name": batch.label,
            "task_id": {"value": job},
            "agent_id": {"value": agent},
            "resources": resources,
            "executor": executor,
            "data": base64.b64encode(json.dumps(data).encode()).decode(),
        }

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find the live tasks of this framework and adopt them, and request their states from Mesos."""
        if workflow != self.context.workflow:
            return {}
        tasks = self.retry_until_answered(lambda: self._open_master.ask("GET_TASKS")).get("tasks", ())
        names: dict[JobId, str] = {}
        with self.lock:
            for task in tasks:
                if task["framework_id"]["value"] == self._open_master.framework_id:
                    job = JobId(task["task_id"]["value"])
                    now = found({"state": task["state"]}, is_preemptible=False)
                    if now.state is not JobState.ENDED:
                        names[job] = unquote(job.partition("-")[2])
                        self._live.setdefault(job, _Task(agent=task["agent_id"]["value"], found=now))
            self._reconcile()
        return names


def _container(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Build the ContainerInfo of the image; empty without an image."""
    image = setting(settings, "image", "TOILFN_IMAGE")
    if image is None:
        return {}
    if settings.get("containerizer", "MESOS") == "DOCKER":
        return {"container": {"type": "DOCKER", "docker": {"image": image, "network": "HOST"}}}
    return {"container": {"type": "MESOS", "mesos": {"image": {"type": "DOCKER", "docker": {"name": image}}}}}


def endpoints(settings: Mapping[str, Any]) -> list[str]:
    """Return the URLs of the masters."""
    given: Any = setting(settings, "endpoint", "TOILFN_MESOS_ENDPOINT") or "localhost:5050"
    places = given.split(",") if isinstance(given, str) else given
    return [(place if "://" in place else f"http://{place}").strip().rstrip("/") for place in places]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise InputError(f"the user id {os.getuid()} has no name", hint="set user=... for the tasks of Mesos") from None


def framework_info(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Build the FrameworkInfo, without the framework's id."""
    principal = setting(settings, "principal", "TOILFN_MESOS_PRINCIPAL")
    return {
        "user": settings.get("user") or _user(),
        "name": f"{setting(settings, 'name', 'TOILFN_MESOS_NAME') or 'toilfn'} {name}",
        "roles": [setting(settings, "role", "TOILFN_MESOS_ROLE") or "*"],
        "hostname": socket.gethostname(),
        "checkpoint": True,  # jobs outlive a restart of their agent
        "failover_timeout": float(math.ceil(parse_duration(settings.get("failover_timeout", _WEEK)))),
        "capabilities": [{"type": "MULTI_ROLE"}, {"type": "RESERVATION_REFINEMENT"}, {"type": "GPU_RESOURCES"}],
        **({"principal": principal} if principal else {}),
    }


def credentials(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the header with the credentials; empty without credentials."""
    principal = setting(settings, "principal", "TOILFN_MESOS_PRINCIPAL")
    secret = setting(settings, "secret", "TOILFN_MESOS_SECRET")
    if not principal or not secret:
        return {}
    return {"Authorization": f"Basic {base64.b64encode(f'{principal}:{secret}'.encode()).decode()}"}


def found(status: Mapping[str, Any], *, is_preemptible: bool) -> JobReport:
    """Interpret a task's status.

    Parameters
    ----------
    status : mapping
        The TaskStatus.
    is_preemptible : bool
        Whether the task's node is preemptible.
    """
    word, reason = status["state"], status.get("reason", "")
    state, cause = STATES.get(word, (JobState.UNKNOWN, None))
    if cause is not None:
        cause = REASONS.get(reason) or _exit(status) or cause
        is_forgotten = reason == "REASON_RECONCILIATION" and word in _FORGOTTEN
        if is_preemptible and (reason in _NODE_IS_GONE or is_forgotten):
            cause = Cause.PREEMPTED
    said = [word, reason.removeprefix("REASON_").lower().replace("_", " "), status.get("message", "")]
    return JobReport(state, cause, "; ".join(text for text in said if text))


def _exit(status: Mapping[str, Any]) -> Cause | None:
    """Return the cause for the exit status that toilfn's executor sends in ``data``."""
    if "data" not in status:
        return None
    return exit_cause(json.loads(base64.b64decode(status["data"]))["status"])


Offer: TypeAlias = "dict[str, Any]"

_MIB = 2**20


def amounts(resources: Resources) -> dict[str, float]:
    """Translate requirements into the names and units of Mesos: cores, and megabytes of 2**20 bytes.

    Raises
    ------
    InputError
        If a kind of accelerator is requested that Mesos does not have.
    """
    wrong = [accelerator.kind for accelerator in resources.accelerators if accelerator.kind != "gpu"]
    if wrong:
        raise InputError(f"Mesos has no accelerators of kind {wrong[0]!r}: only gpu is supported")
    asked = {
        "cpus": max(0.01, resources.cores),
        "mem": float(max(32, math.ceil(resources.memory / _MIB))),
        "disk": float(math.ceil(resources.disk / _MIB)),
        "gpus": float(sum(accelerator.count for accelerator in resources.accelerators)),
    }
    return {name: amount for name, amount in asked.items() if amount}


def attributes(offer: Offer) -> dict[str, str]:
    """Return an agent's attributes as text."""
    found: dict[str, str] = {}
    for attribute in offer.get("attributes", ()):
        value = attribute.get("text") or attribute.get("scalar") or {}
        found[attribute["name"]] = str(value.get("value", ""))
    return found


def is_preemptible(offer: Offer) -> bool:
    """Return whether an agent is preemptible, according to its attribute ``preemptible``."""
    return attributes(offer).get("preemptible", "").lower() in ("true", "yes", "1", "1.0")


def suits(offer: Offer, resources: Resources, wanted: Mapping[str, str]) -> bool:
    """Return whether tasks of a shape may run on an agent, given the attributes that agents must have."""
    has = attributes(offer)
    may_go = resources.preemptible or not is_preemptible(offer)
    return may_go and all(has.get(name) == value for name, value in wanted.items())


def cut(rest: list[dict[str, Any]], asked: Mapping[str, float]) -> list[dict[str, Any]] | None:
    """Take amounts from the resources of an offer; return None, and take nothing, if they are not enough.

    Parameters
    ----------
    rest : list of dict
        The remaining resources of an offer, which are reduced by the amounts taken.
    asked : mapping
        Amounts by the names of resources.
    """
    left = copy.deepcopy(rest)
    taken: list[dict[str, Any]] = []
    for name, amount in asked.items():
        # Use resources that are reserved for our role first: other frameworks cannot use them.
        entries = [entry for entry in left if entry["name"] == name and entry["type"] == "SCALAR"]
        for entry in sorted(entries, key=lambda entry: not entry.get("reservations")):
            part = min(amount, entry["scalar"]["value"])
            if part > 0:
                entry["scalar"]["value"] = _rounded(entry["scalar"]["value"] - part)
                taken.append({**copy.deepcopy(entry), "scalar": {"value": _rounded(part)}})
                amount = _rounded(amount - part)
        if amount > 0:
            return None
    rest[:] = left
    return taken


def _rounded(amount: float) -> float:
    """Round to three decimal digits, the precision of Mesos."""
    return round(amount, 3)
