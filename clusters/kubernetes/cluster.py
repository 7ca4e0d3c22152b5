"""Kubernetes: each batch runs in the pod of a Job, and many batches of one shape in the pods of one Indexed Job.

Two threads watch jobs and pods for changes, and a third one creates jobs (see `toilfn.clusters.kubernetes.threads`).
They put events into a queue and touch nothing else of the cluster: all its state belongs to the leader's thread, so it
needs no lock. The leader can run in a pod, or anywhere from where the API is reachable.
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

from toilfn.clusters.base import Batch, Capabilities, Cluster, JobId, JobState, RunContext, Update
from toilfn.clusters.common.commands import CredentialsError, UnavailableError, portions, retried
from toilfn.clusters.common.polled import JobReport
from toilfn.clusters.common.settings import Submission, image_of, resolved, setting
from toilfn.clusters.kubernetes import verdict
from toilfn.clusters.kubernetes.connection import Connection, user
from toilfn.clusters.kubernetes.manifest import (
    CONTAINER,
    WORKFLOW,
    KubernetesSettings,
    batches,
    element,
    job,
    job_name,
    user_label,
)
from toilfn.clusters.kubernetes.placement import PREEMPTIBLE_LABELS, reason_for_leaving
from toilfn.clusters.kubernetes.threads import (
    Answer,
    Changed,
    Gone,
    Listed,
    News,
    NotSent,
    QuotaFull,
    Sender,
    Sent,
    Watcher,
)
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Capacity, Resources
from toilfn.units import format_duration, parse_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["KubernetesCluster"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

_TAIL = 1000
"""Number of bytes of a failed pod's log to show."""
_INDEXED_SINCE = 1, 29
"""The first version of Kubernetes whose Indexed Jobs continue when one of their pods fails (backoffLimitPerIndex)."""
_ARRAY_LIMIT = 1000
_OPENING = 30.0
"""Seconds to wait for the API at the start of a run, when a wrong address is more likely than a temporary outage."""
_BRIEF_OUTAGE = 2.0
"""Seconds of an outage before it is reported."""
_MOST_CHECKS = 20
"""Maximum number of waiting pods to examine in one round, since each may need a request for its events."""
_DELETION_TIME = 60.0
"""A deleted pod that still exists this many seconds after its grace period counts as lost with its node."""


@dataclass(slots=True)
class _Live:
    """A batch that has not ended."""

    job: str
    since: float
    """The monotonic time since which the API is known to have the batch's job; infinite before that.

    A list that was requested earlier need not contain the job, so its absence from such a list means nothing.
    """
    next_look: float
    """When to check whether something prevents the pod from starting."""
    pod: dict[str, Any] | None = None
    state: JobState = JobState.QUEUED
    is_killed: bool = False
    give_up_at: float = field(default=float("inf"))
    """When to stop waiting for the end of a deleted pod (monotonic time); infinite for any other pod."""


class KubernetesCluster(Cluster):
    """Runs tasks in pods; see `KubernetesSettings` for the settings."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True, preemption=True
    )

    def __init__(self, **settings: Unpack[KubernetesSettings]) -> None:
        self.settings: dict[str, Any] = resolved(type(self).__name__, "kubernetes", KubernetesSettings, settings)
        self.max_jobs: int | None = self.settings.get("max_jobs")
        self.poll_interval = parse_duration(self.settings.get("poll_interval", 2.0))
        self._patience = parse_duration(self.settings.get("patience", 600.0))
        self._pod_timeout = parse_duration(self.settings.get("pod_timeout", 120.0))
        self._context: RunContext | None = None
        self._connection: Connection | None = None
        self._watchers: list[Watcher] = []
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._live: dict[JobId, _Live] = {}
        self._alive: Counter[str] = Counter()
        self._leftover: dict[str, Callable[[str], None]] = {}
        self._next_look = 0.0
        self._array_limit = 1
        self._has_run = False
        self._warned: set[str] = set()
        self._sender: Sender | None = None
        self._unsent: set[str] = set()
        """The names of jobs that the API has not accepted yet."""
        self._is_away = False

    def open(self, context: RunContext) -> None:
        """Connect to the API, and start the threads. See `Cluster.open`."""
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", context.workflow):
            raise InputError(
                f"{context.workflow!r} is not valid in a job name", hint="use letters, digits, '_', '.' and '-'"
            )
        image_of(self.settings, "KubernetesCluster")
        self._context, selector = context, f"{WORKFLOW}={context.workflow}"
        connection = self._connection = Connection(self.settings)
        try:
            connection.check_job(self.manifest())
            self._at_start(lambda: connection.check(selector))
            version = self._at_start(connection.version)
        except (ClusterError, InputError):
            self.close()
            raise
        most = int(self.settings.get("max_array_size", _ARRAY_LIMIT))
        self._array_limit = max(1, most) if version >= _INDEXED_SINCE else 1
        self._news = queue.SimpleQueue()
        self._watchers = [Watcher(connection, kind, selector, self._news) for kind in ("job", "pod")]
        self._sender = Sender(connection, self._news, self.poll_interval)

    def capacity(self) -> Capacity:
        """Return no limit except `max_jobs`, since Kubernetes has its own queue."""
        return Capacity(total=None, largest=None, batches=self.max_jobs)

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start jobs, those of one shape as an Indexed Job if the server supports that. See `Cluster.submit`."""
        jobs: dict[str, JobId] = {}
        shapes: dict[Resources, list[Batch]] = {}
        for batch in batches:
            shapes.setdefault(batch.resources, []).append(batch)
        for shape, group in shapes.items():
            for portion in portions(group, self._array_limit):
                jobs |= self._submit(shape, portion)
        return [jobs[batch.name] for batch in batches]

    def poll(self, timeout: float) -> list[Update]:
        """Wait for changes, and return updates. See `Cluster.poll`."""
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
        """End jobs; a Job without other live batches is deleted as a whole. See `Cluster.kill`."""
        ending = [self._live[id_] for id_ in jobs if id_ in self._live]
        for live in ending:
            live.is_killed = True
        kept = {live.job for live in self._live.values() if not live.is_killed}
        for live in ending:
            if live.job in self._unsent:
                if live.job not in kept and self._sender is not None:
                    self._sender.withdraw(live.job)
            elif live.job not in kept:
                self._remove(live.job, self._api.delete_job)
            elif live.pod is not None:
                self._remove(live.pod["metadata"]["name"], self._api.delete_pod)

    def close(self) -> None:
        """End all jobs of this leader, and disconnect."""
        if self._connection is None:
            return
        self.kill(tuple(self._live))
        self._stop_sending()
        self._take(0.0, [])  # the API may have accepted jobs that were killed meanwhile
        self._remove_leftover()
        self.has_left_jobs = bool(self._leftover)
        if self._leftover:
            _log.warning(
                "could not delete these jobs and pods, which may still be running: %s; delete them with "
                "`kubectl delete jobs -n %s -l %s=%s`",
                " ".join(sorted(self._leftover)),
                self._connection.namespace,
                WORKFLOW,
                self._context.workflow if self._context else "",
            )
        self.leave()

    def leave(self) -> None:
        """Disconnect, and let the jobs continue."""
        if self._connection is None:
            return
        self._stop_sending()
        for watcher in self._watchers:
            watcher.stop()
        self._connection.close()
        self._connection, self._watchers = None, []
        self._live.clear()
        self._alive.clear()
        self._leftover.clear()
        self._unsent.clear()

    def wake(self) -> None:
        """Wake a waiting `poll`."""
        self._news.put(None)

    def manifest(self, submission: Submission | None = None) -> dict[str, Any]:
        """Return the Job that `submit` creates for a submission; without one, an example with default requirements."""
        if submission is None:
            batch = Batch("BATCH", "example", Resources())
            submission = Submission("toilfn-example", (batch,), batch.resources, "")
        image = setting(self.settings, "image", "TOILFN_IMAGE") or "IMAGE"
        given = {"owner": user_label(user()), **self.settings, "image": image}
        return job(submission, self._context or RunContext("STORE", "WORKFLOW"), given)

    # Implementation.

    @property
    def _api(self) -> Connection:
        if self._connection is None:
            raise ClusterError("the cluster is not open")
        return self._connection

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Repeat a request until the API answers or `patience` runs out."""
        answer = retried(ask, self._patience, self._note_outage)
        self._note_outage(None)
        return answer

    def _at_start(self, ask: Callable[[], T]) -> T:
        """Send a request at the start of a run: rejected credentials are an error at once, and the wait is short.

        Later, rejected credentials count as expired. At the start, they are wrong, and so is an address that does not
        answer.
        """

        def tolerate(error: UnavailableError) -> None:
            if isinstance(error, CredentialsError):
                raise error
            _log.warning("%s; trying again", error)

        return retried(ask, min(_OPENING, self._patience), tolerate)

    def _note_outage(self, error: ClusterError | None) -> None:
        """Report once that the API has stopped answering, and once that it answers again."""
        if self._context is None or self._is_away == (error is not None):
            return
        self._is_away = error is not None
        self._context.outage(str(error) if error else "")
        if error:
            patience = format_duration(self._patience)
            _log.warning("%s; waiting for it for at most %s (setting patience)", error, patience)
        else:
            _log.warning("Kubernetes is responding again")

    def _submit(self, shape: Resources, portion: Sequence[Batch]) -> dict[str, JobId]:
        context = self._context
        if context is None or self._sender is None:
            raise ClusterError("the cluster is not open")
        name = job_name(self.settings.get("job_name", ""), context.workflow, secrets.token_hex(4))
        manifest = self.manifest(Submission(name, tuple(portion), shape, ""))
        jobs = {batch: id_ for id_, batch in batches(manifest).items()}
        self._unsent.add(name)
        for id_ in jobs.values():
            self._watch(id_, name, since=float("inf"))
        self._sender.put(name, manifest)
        return jobs

    def _stop_sending(self) -> None:
        if self._sender is not None:
            self._sender.stop()
            self._sender = None

    def _sent(self, name: str, at: float) -> None:
        """Record that the API has accepted a job, and delete the job if it was killed meanwhile."""
        self._unsent.discard(name)
        batches = [live for live in self._live.values() if live.job == name]
        for live in batches:
            live.since, live.next_look = at, at + self._pod_timeout
        if batches and all(live.is_killed for live in batches):
            self._remove(name, self._api.delete_job)

    def _not_sent(self, name: str, why: str, is_doubtful: bool) -> list[Update]:
        """End the batches of a job that the API has refused."""
        self._unsent.discard(name)
        lost = [(id_, live) for id_, live in self._live.items() if live.job == name]
        found = JobReport(JobState.ENDED, Cause.INPUT, why)
        if not is_doubtful:
            self._alive[name] += 1  # so that `_ended` does not delete the job, which the API does not have
        updates = [self._ended(id_, live, found) for id_, live in lost]
        self._alive.pop(name, None)
        return updates

    def _watch(self, id_: JobId, name: str, since: float | None = None) -> None:
        if id_ not in self._live:
            now = time.monotonic()
            self._live[id_] = _Live(name, now if since is None else since, now + self._pod_timeout)
            self._alive[name] += 1

    def _take(self, timeout: float, updates: list[Update]) -> bool:
        """Process all queued events, waiting for the first one; return whether `wake` was called."""
        is_awake = False
        with suppress(queue.Empty):
            news = self._news.get(timeout=max(0.0, timeout))
            while True:
                is_awake |= news is None
                updates += self._handle(news)
                news = self._news.get_nowait()
        return is_awake

    def _handle(self, news: News | Answer) -> list[Update]:
        match news:
            case Sent(name, at):
                self._sent(name, at)
            case NotSent(name, why, is_doubtful):
                return self._not_sent(name, why, is_doubtful)
            case QuotaFull(why):
                self._warn_once(f"jobs are waiting for the namespace's quota: {why}")
            case Changed("pod", pod):
                return self._update_pod(pod)
            case Gone("pod", pod):
                return self._lost(element(pod).id, pod)
            case Gone("job", manifest):
                return self._lost_jobs({manifest["metadata"]["name"]})
            case Listed(kind, items, began):
                return self._compare_list(kind, items, began)
        return []

    def _compare_list(self, kind: str, items: Sequence[dict[str, Any]], began: float) -> list[Update]:
        """Compare a list with the batches that were known before the list was requested."""
        before = {id_: live for id_, live in self._live.items() if live.since < began}
        if kind == "job":
            names = {item["metadata"]["name"] for item in items}
            return self._lost_jobs({live.job for live in before.values()} - names)
        there = {element(pod).id for pod in items}
        updates = [update for pod in items for update in self._update_pod(pod)]
        for id_, live in before.items():
            if live.pod is not None and id_ not in there:
                updates += self._lost(id_, live.pod)
        return updates

    def _update_pod(self, pod: dict[str, Any]) -> list[Update]:
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
            live.give_up_at = min(live.give_up_at, time.monotonic() + grace + _DELETION_TIME)
        found = verdict.judge(pod)
        if found.state is JobState.ENDED:
            return [self._ended(id_, live, found)]
        self._has_run |= found.state is JobState.RUNNING
        is_news, live.state = is_new or found.state is not live.state, found.state
        return [Update(id_, found.state, None, found.detail)] if is_news else []

    def _lost(self, id_: JobId, pod: Mapping[str, Any] | None) -> list[Update]:
        """Build the update for a batch whose pod no longer exists."""
        live = self._live.get(id_)
        if live is None:
            return []
        found = verdict.judge(pod) if pod is not None else verdict.gone(None)
        return [self._ended(id_, live, found if found.state is JobState.ENDED else verdict.gone(pod))]

    def _lost_jobs(self, names: set[str]) -> list[Update]:
        """Build the updates for the batches of jobs that no longer exist, except batches that still have pods."""
        lost = [id_ for id_, live in self._live.items() if live.job in names and live.pod is None]
        return [update for id_ in lost for update in self._lost(id_, None)]

    def _ended(self, id_: JobId, live: _Live, found: JobReport) -> Update:
        if live.is_killed and found.cause is not None:
            found = JobReport(JobState.ENDED, Cause.LOST, "killed")
        elif found.cause is not None and live.pod is not None:
            found = self._judge_lost(found, live.pod) if found.cause is Cause.LOST else found
            log = verdict.termination_message(live.pod).encode(errors="replace")
            found = found._replace(detail=found.detail + self._printed(live.pod, found.cause), log=log)
        del self._live[id_]
        self._alive[live.job] -= 1
        if not self._alive[live.job]:
            del self._alive[live.job]
            self._remove(live.job, self._api.delete_job)
        return Update(id_, JobState.ENDED, found.cause, found.detail, log=found.log)

    def _judge_lost(self, found: JobReport, pod: Mapping[str, Any]) -> JobReport:
        """Change the cause of a lost pod to preemption if its node was drained or reclaimed."""
        try:
            node = self._api.node(pod["spec"]["nodeName"]) if pod["spec"].get("nodeName") else None
        except ClusterError:
            return found
        labels = self.settings.get("preemptible_labels", PREEMPTIBLE_LABELS)
        why = reason_for_leaving(node, labels) if node else ""
        return found._replace(cause=Cause.PREEMPTED, detail=f"{found.detail}; {why}") if why else found

    def _printed(self, pod: Mapping[str, Any], cause: Cause | None) -> str:
        """Return the end of the task's output, and of the worker's output outside its tasks."""
        said = verdict.termination_message(pod)[-_TAIL:].strip()
        printed = f"; its output ends with:\n{said}" if said else ""
        if cause in (Cause.LOST, Cause.PREEMPTED):  # its node may be gone
            return printed
        try:
            text = self._api.log(pod["metadata"]["name"], CONTAINER, _TAIL)
        except ClusterError as error:
            return printed or f"; its log cannot be read: {error}"
        if not text or text in said:
            return printed
        return f"{'' if said in text else printed}; its log ends with:\n{text}"

    def _remove(self, name: str, delete: Callable[[str], None]) -> None:
        """Delete a job or a pod; if the API does not answer, try again later."""
        try:
            delete(name)
            self._leftover.pop(name, None)
        except UnavailableError:
            self._leftover[name] = delete
        except ClusterError as error:
            _log.warning("could not delete %s: %s", name, error)
            self._leftover.pop(name, None)

    def _remove_leftover(self) -> None:
        for name, delete in tuple(self._leftover.items()):
            self._remove(name, delete)

    def _look(self) -> list[Update]:
        """Check for jobs that do not make progress."""
        self._check_outage()
        self._remove_leftover()
        now = time.monotonic()
        updates: list[Update] = []
        looks = 0
        for id_, live in tuple(self._live.items()):
            if now > live.give_up_at:
                updates += self._lost(id_, live.pod)
            elif live.state is JobState.QUEUED and now > live.next_look and live.job not in self._unsent:
                if (looks := looks + 1) > _MOST_CHECKS:
                    break
                live.next_look = now + self._pod_timeout
                updates += self._stuck(id_, live)
        return updates

    def _check_outage(self) -> None:
        """Report an outage, and end the run after a long one."""
        found = [source.trouble() for source in (self._sender, *self._watchers) if source is not None]
        troubles = [trouble for trouble in found if trouble is not None]
        if not troubles:
            self._note_outage(None)
            return
        since, error = min(troubles, key=lambda trouble: trouble[0])
        away = time.monotonic() - since
        if away > self._patience:
            self._live.clear()  # so that `close` leaves the jobs alone
            raise ClusterError(
                f"{error}\nno contact for {format_duration(away)} (setting patience); the jobs keep running",
                hint="resume the run later",
            )
        if away > _BRIEF_OUTAGE:
            self._note_outage(error)

    def _stuck(self, id_: JobId, live: _Live) -> list[Update]:
        """End a batch if something prevents it from starting; waiting for a node or for quota is not an error."""
        if live.pod is not None and not verdict.is_starting(live.pod):
            self._warn_once(f"pods are waiting for a node: {verdict.judge(live.pod).detail}")
            return []
        name = live.pod["metadata"]["name"] if live.pod else live.job
        reason = verdict.blocked(live.pod) if live.pod else ""
        reason = reason or self._warning(name)
        if "exceeded quota" in reason:
            if verdict.exceeds_whole_quota(reason):
                return [
                    self._ended(
                        id_, live, JobReport(JobState.ENDED, Cause.INPUT, f"{reason}; {verdict.QUOTA_TOO_SMALL}")
                    )
                ]
            self._warn_once(f"pods are waiting for the namespace's quota: {reason}")
            return []
        if not reason:
            return []
        if live.pod is not None:
            self._remove(name, self._api.delete_pod)
        # If other pods have run, the reason may be temporary. If no pod has ever run, the settings are wrong.
        cause = Cause.LOST if self._has_run else Cause.INPUT
        detail = f"the pod did not start within {format_duration(self._pod_timeout)} (pod_timeout): {reason}"
        live.pod = None
        return [self._ended(id_, live, JobReport(JobState.ENDED, cause, detail))]

    def _warning(self, name: str) -> str:
        """Return the last warning event of a job or a pod; empty if there is none, or this user may not read events."""
        try:
            return "".join(self._api.warnings(name)[-1:])
        except ClusterError as error:
            self._warn_once(f"cannot determine why pods do not start: {error}")
            return ""

    def _warn_once(self, text: str) -> None:
        """Log a warning, unless one that differs only in names and numbers was logged before."""
        key = re.sub(r'"[^"]*"|[a-z]*[\d.]+\w*', "", text)
        if key not in self._warned:
            self._warned.add(key)
            _log.warning("%s", text)

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find the jobs of a workflow and adopt them: `poll` reports them from now on, even those that have ended."""
        selector = f"{WORKFLOW}={workflow}"
        jobs, _ = self._patiently(lambda: self._api.list("job", selector))
        pods, _ = self._patiently(lambda: self._api.list("pod", selector))
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
