"""Kubernetes: each batch is the pod of a Job, and many of one shape are the pods of one Indexed Job.

News come by watching jobs and pods. The leader may be anywhere from where the API can be reached, or in a pod.
"""

from __future__ import annotations

import logging
import queue
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from toilfn.clusters.base import Batch, Capabilities, Cluster, JobId, JobState, Session, Update
from toilfn.clusters.commands import AwayError, pauses, portions
from toilfn.clusters.jobscript import Submission
from toilfn.clusters.jobsettings import resolved
from toilfn.clusters.kube import verdict
from toilfn.clusters.kube.connection import Connection, user
from toilfn.clusters.kube.manifest import CONTAINER, WORKFLOW, batches, element, job, job_name
from toilfn.clusters.kube.settings import KubernetesSettings
from toilfn.clusters.kube.watcher import Changed, Gone, Listed, News, Watcher
from toilfn.clusters.polled import Found
from toilfn.errors import ClusterError, InputError
from toilfn.events import Capacity, Cause
from toilfn.resources import Resources
from toilfn.units import format_duration, parse_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["KubernetesCluster"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

_TAIL = 1000
"""How many bytes of a failed pod's log are shown."""
_INDEXED = 1, 29
"""The first version whose Indexed Jobs go on when one of their pods fails (backoffLimitPerIndex)."""
_ARRAY_LIMIT = 1000
_OPENING = 30.0
"""Seconds within which the API has to answer at the start: then a wrong address is likelier than a short absence."""
_LEAVING = 60.0
"""Seconds beyond its grace period after which a deleted pod that stays is on a node that is lost."""


@dataclass(slots=True)
class _Live:
    """A batch that has not ended."""

    job: str
    since: float
    """The monotonic time from which on it was known to be there."""
    next_look: float
    """When to see whether something keeps its pod from starting."""
    pod: dict[str, Any] | None = None
    state: JobState = JobState.QUEUED
    is_killed: bool = False
    left_at: float = field(default=float("inf"))
    """When its pod is given up after it was deleted."""


class KubernetesCluster(Cluster):
    """Run tasks in pods; see `KubernetesSettings` for what it can be told."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True, preemption=True
    )

    def __init__(self, **settings: Unpack[KubernetesSettings]) -> None:
        self.settings: dict[str, Any] = resolved(type(self).__name__, "kubernetes", KubernetesSettings, settings)
        self.max_jobs: int | None = self.settings.get("max_jobs")
        self.poll_interval = parse_duration(self.settings.get("poll_interval", 2.0))
        self._patience = parse_duration(self.settings.get("patience", 600.0))
        self._pod_timeout = parse_duration(self.settings.get("pod_timeout", 120.0))
        self._session: Session | None = None
        self._connection: Connection | None = None
        self._watchers: list[Watcher] = []
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._live: dict[JobId, _Live] = {}
        self._alive: Counter[str] = Counter()
        self._leftover: dict[str, Callable[[str], None]] = {}
        self._next_look = 0.0
        self._array_limit = 1
        self._has_run = False
        self._said: set[str] = set()

    def open(self, session: Session) -> None:
        """Connect, and start to watch. See `Cluster.open`."""
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", session.workflow):
            raise InputError(f"{session.workflow!r} cannot be part of a job's name: use letters, digits, '_', '.', '-'")
        if "image" not in self.settings:
            raise ClusterError(
                "KubernetesCluster needs the workers' image: KubernetesCluster(image='registry/toilfn:tag'), or "
                "DASK_TOILFN__KUBERNETES__IMAGE. docker/Dockerfile makes one"
            )
        self._session, selector = session, f"{WORKFLOW}={session.workflow}"
        connection = self._connection = Connection(self.settings)
        try:
            self._patiently(lambda: connection.check(selector), min(_OPENING, self._patience))
            version = self._patiently(connection.version, min(_OPENING, self._patience))
        except ClusterError:
            self.close()
            raise
        most = int(self.settings.get("max_array_size", _ARRAY_LIMIT))
        self._array_limit = max(1, most) if version >= _INDEXED else 1
        self._news = queue.SimpleQueue()
        self._watchers = [Watcher(connection, kind, selector, self._news) for kind in ("job", "pod")]

    def capacity(self) -> Capacity:
        """Say that Kubernetes queues by itself; only `max_jobs` limits."""
        return Capacity(total=None, largest=None, batches=self.max_jobs)

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start jobs; those of one shape go out as an Indexed Job if the server knows them. See `Cluster.submit`."""
        jobs: dict[str, JobId] = {}
        shapes: dict[Resources, list[Batch]] = {}
        for batch in batches:
            shapes.setdefault(batch.resources, []).append(batch)
        try:
            for shape, group in shapes.items():
                for portion in portions(group, self._array_limit):
                    jobs |= self._submit(shape, portion)
        except ClusterError:
            self.kill(jobs.values())
            raise
        return [jobs[batch.name] for batch in batches]

    def poll(self, timeout: float) -> list[Update]:
        """Wait for news. See `Cluster.poll`."""
        end = time.monotonic() + timeout
        updates: list[Update] = []
        is_awake = False
        while not updates and not is_awake and (left := end - time.monotonic()) > 0:
            until_look = max(0.0, self._next_look - time.monotonic()) if self._live else left
            is_awake = self._take(min(left, until_look), updates)
            if time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + self.poll_interval
                updates += self._look()
        return updates

    def kill(self, jobs: Iterable[JobId]) -> None:
        """End jobs: a whole Job at once where nothing else of it lives. See `Cluster.kill`."""
        doomed = [self._live[id_] for id_ in jobs if id_ in self._live]
        for live in doomed:
            live.is_killed = True
        kept = {live.job for live in self._live.values() if not live.is_killed}
        for live in doomed:
            if live.job not in kept:
                self._remove(live.job, self._api.delete_job)
            elif live.pod is not None:
                self._remove(live.pod["metadata"]["name"], self._api.delete_pod)

    def close(self) -> None:
        """End all jobs of this leader, and hang up."""
        if self._connection is None:
            return
        self.kill(tuple(self._live))
        self._remove_leftover()
        if self._leftover:
            _log.warning("these could not be deleted: %s", " ".join(sorted(self._leftover)))
        for watcher in self._watchers:
            watcher.stop()
        self._connection.close()
        self._connection, self._watchers = None, []
        self._live.clear()
        self._alive.clear()
        self._leftover.clear()

    def wake(self) -> None:
        """Make a waiting `poll` return."""
        self._news.put(None)

    def manifest(self, submission: Submission | None = None) -> dict[str, Any]:
        """Make the Job of a submission as `submit` does; without one, that of an ordinary task, to look at."""
        if submission is None:
            batch = Batch("BATCH", "example", Resources())
            submission = Submission("toilfn-example", (batch,), batch.resources, "")
        given = {"image": "IMAGE", "owner": user(), **self.settings}
        return job(submission, self._session or Session("STORE", "WORKFLOW"), given)

    # How it is done.

    @property
    def _api(self) -> Connection:
        if self._connection is None:
            raise ClusterError("the cluster is not open")
        return self._connection

    def _patiently(self, ask: Callable[[], T], patience: float) -> T:
        """Ask until the API answers."""
        for pause in pauses(patience):
            try:
                return ask()
            except AwayError as error:
                _log.warning("%s; trying again", error)
                time.sleep(pause)
        return ask()

    def _submit(self, shape: Resources, portion: Sequence[Batch]) -> dict[str, JobId]:
        session = self._session
        if session is None:
            raise ClusterError("the cluster is not open")
        name = job_name(self.settings.get("job_name", ""), session.workflow, secrets.token_hex(4))
        manifest = self.manifest(Submission(name, tuple(portion), shape, ""))
        self._patiently(lambda: self._api.create_job(manifest), self._patience)
        jobs = {batch: id_ for id_, batch in batches(manifest).items()}
        for id_ in jobs.values():
            self._watch(id_, name)
        return jobs

    def _watch(self, id_: JobId, name: str) -> None:
        if id_ not in self._live:
            now = time.monotonic()
            self._live[id_] = _Live(name, now, now + self._pod_timeout)
            self._alive[name] += 1

    def _take(self, timeout: float, updates: list[Update]) -> bool:
        """Take all news there are, waiting for the first; tell whether somebody wants `poll` to return."""
        is_awake = False
        with suppress(queue.Empty):
            news = self._news.get(timeout=max(0.0, timeout))
            while True:
                is_awake |= news is None
                updates += self._learn(news)
                news = self._news.get_nowait()
        return is_awake

    def _learn(self, news: News) -> list[Update]:
        match news:
            case Changed("pod", pod):
                return self._saw(pod)
            case Gone("pod", pod):
                return self._lost(element(pod).id, pod)
            case Gone("job", manifest):
                return self._lost_jobs({manifest["metadata"]["name"]})
            case Listed(kind, items, began):
                return self._saw_all(kind, items, began)
        return []

    def _saw_all(self, kind: str, items: Sequence[dict[str, Any]], began: float) -> list[Update]:
        """Compare a list with what was known before it was asked for."""
        before = {id_: live for id_, live in self._live.items() if live.since < began}
        if kind == "job":
            names = {item["metadata"]["name"] for item in items}
            return self._lost_jobs({live.job for live in before.values()} - names)
        there = {element(pod).id for pod in items}
        updates = [update for pod in items for update in self._saw(pod)]
        for id_, live in before.items():
            if live.pod is not None and id_ not in there:
                updates += self._lost(id_, live.pod)
        return updates

    def _saw(self, pod: dict[str, Any]) -> list[Update]:
        id_ = element(pod).id
        live = self._live.get(id_)
        if live is None:
            return []
        if not verdict.is_starting(live.pod or pod) and verdict.is_starting(pod):
            live.next_look = time.monotonic() + self._pod_timeout
        is_new, live.pod = live.pod is None, pod
        if is_new and live.is_killed:
            self._remove(pod["metadata"]["name"], self._api.delete_pod)
        if "deletionTimestamp" in pod["metadata"]:
            grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
            live.left_at = min(live.left_at, time.monotonic() + grace + _LEAVING)
        found = verdict.judge(pod)
        if found.state is JobState.ENDED:
            return [self._ended(id_, live, found)]
        self._has_run |= found.state is JobState.RUNNING
        is_news, live.state = found.state is not live.state, found.state
        return [Update(id_, found.state, None, found.detail)] if is_news else []

    def _lost(self, id_: JobId, pod: Mapping[str, Any] | None) -> list[Update]:
        """Judge a batch whose pod is not there any more."""
        live = self._live.get(id_)
        if live is None:
            return []
        found = verdict.judge(pod) if pod is not None else verdict.gone(None)
        return [self._ended(id_, live, found if found.state is JobState.ENDED else verdict.gone(pod))]

    def _lost_jobs(self, names: set[str]) -> list[Update]:
        """Judge the batches of jobs that are not there any more; pods that are left tell of themselves."""
        lost = [id_ for id_, live in self._live.items() if live.job in names and live.pod is None]
        return [update for id_ in lost for update in self._lost(id_, None)]

    def _ended(self, id_: JobId, live: _Live, found: Found) -> Update:
        if live.is_killed and found.cause is not None:
            found = Found(JobState.ENDED, Cause.LOST, "killed")
        elif found.cause not in (None, Cause.LOST, Cause.PREEMPTED) and live.pod is not None:
            found = found._replace(detail=found.detail + self._printed(live.pod))
        del self._live[id_]
        self._alive[live.job] -= 1
        if not self._alive[live.job]:
            del self._alive[live.job]
            self._remove(live.job, self._api.delete_job)
        return Update(id_, JobState.ENDED, found.cause, found.detail)

    def _printed(self, pod: Mapping[str, Any]) -> str:
        """Give the end of what the worker printed outside its tasks."""
        name = pod["metadata"]["name"]
        try:
            text = self._api.log(name, CONTAINER, _TAIL)
        except ClusterError as error:
            return f"; its log cannot be read: {error}"
        return f"; its log ends with:\n{text}" if text else ""

    def _remove(self, name: str, delete: Callable[[str], None]) -> None:
        """Delete a job or a pod, later if the API does not answer now."""
        try:
            delete(name)
            self._leftover.pop(name, None)
        except AwayError:
            self._leftover[name] = delete
        except ClusterError as error:
            _log.warning("%s could not be deleted: %s", name, error)
            self._leftover.pop(name, None)

    def _remove_leftover(self) -> None:
        for name, delete in tuple(self._leftover.items()):
            self._remove(name, delete)

    def _look(self) -> list[Update]:
        """See what does not go on by itself."""
        for watcher in self._watchers:
            watcher.check(self._patience)
        self._remove_leftover()
        now = time.monotonic()
        updates: list[Update] = []
        for id_, live in tuple(self._live.items()):
            if now > live.left_at:
                updates += self._lost(id_, live.pod)
            elif live.state is JobState.QUEUED and now > live.next_look:
                live.next_look = now + self._pod_timeout
                updates += self._stuck(id_, live)
        return updates

    def _stuck(self, id_: JobId, live: _Live) -> list[Update]:
        """Tell what keeps a batch from starting that has waited for long; waiting for a node is no fault."""
        if live.pod is not None and not verdict.is_starting(live.pod):
            self._say(f"pods wait for a node: {verdict.judge(live.pod).detail}")
            return []
        name = live.pod["metadata"]["name"] if live.pod else live.job
        reason = verdict.blocked(live.pod) if live.pod else ""
        reason = reason or self._warning(name)
        if "exceeded quota" in reason:
            self._say(f"pods wait for the namespace's quota: {reason}")
            return []
        if not reason:
            return []
        if live.pod is not None:
            self._remove(name, self._api.delete_pod)
        # What has worked before will again; what never did is a mistake in the settings.
        cause = Cause.LOST if self._has_run else Cause.INPUT
        detail = f"its pod did not start within {format_duration(self._pod_timeout)} (pod_timeout): {reason}"
        live.pod = None
        return [self._ended(id_, live, Found(JobState.ENDED, cause, detail))]

    def _warning(self, name: str) -> str:
        """Give the last complaint of Kubernetes about a job or a pod, if there is one and we may see it."""
        try:
            return "".join(self._api.warnings(name)[-1:])
        except ClusterError as error:
            self._say(f"why pods do not start cannot be seen: {error}")
            return ""

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _log.warning("%s", text)

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find a workflow's jobs, and take them over: polls tell of them from now on, also of what has ended."""
        selector = f"{WORKFLOW}={workflow}"
        jobs, _ = self._patiently(lambda: self._api.list("job", selector), self._patience)
        pods, _ = self._patiently(lambda: self._api.list("pod", selector), self._patience)
        known = {element(pod).id for pod in pods}
        found: dict[JobId, str] = {}
        for manifest in jobs:
            if "deletionTimestamp" in manifest["metadata"]:
                continue
            is_over = any(condition["status"] == "True" for condition in manifest["status"].get("conditions", ()))
            names = {id_: name for id_, name in batches(manifest).items() if id_ in known or not is_over}
            for id_ in names:
                self._watch(id_, manifest["metadata"]["name"])
            if not names:
                self._remove(manifest["metadata"]["name"], self._api.delete_job)
            found |= names
        for pod in pods:
            self._news.put(Changed("pod", pod))
        return found
