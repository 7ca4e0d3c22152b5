"""Submit batches to the cluster, and watch how long they wait in its queue.

`Jobs` knows them. `Submitting` sends batches to the cluster in a thread of its own: a slow system does not block the
leader, and temporary refusals are repeated. `Queued` records in the log when jobs wait, and `Waiting` finds those
that may wait forever.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from toilfn.clusters.base import LOG_LIMIT, Batch, Cluster, JobId, JobState, Refusal, SubmissionError, Update
from toilfn.ids import BatchId, TaskId
from toilfn.leader.batches import BatchBuilder
from toilfn.leader.committer import Committer
from toilfn.model import records
from toilfn.model.records import encode
from toilfn.resources import Resources
from toilfn.scheduler.events import Submit
from toilfn.units import format_duration

__all__ = [
    "Jobs", "Parcel", "Queued", "Refused", "Sent", "SubmittedBatch", "Submitting", "Waiting",
]  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class SubmittedBatch:
    """A batch that the cluster has."""

    id: BatchId
    name: str
    job: JobId | None
    """None until the cluster has accepted it."""
    running: TaskId | None = None
    """The task that its worker has been running for a while."""
    service: TaskId | None = None
    """The service that it runs."""
    dead_service: TaskId | None = None
    """The service whose death is the reason why it was killed."""
    tail_call: TaskId | None = None
    """The newest task that its worker started on its own."""
    is_unwanted: bool = False
    """Whether to kill it as soon as the cluster has accepted it."""
    is_queued: bool = False
    """Whether the cluster reports that it waits in its queue."""
    is_held: bool = False
    """Whether it will not start until the user or an administrator changes something."""
    reason: str = ""
    """Why it waits there, in the system's words."""
    queued_since: float = 0.0
    """The time since which it has waited for that reason."""
    is_withdrawn: bool = False
    """Whether it was cancelled while it waited there, since nothing more may start."""
    owed: set[TaskId] | None = None
    """The tasks that it may still report on after a roll-back; None: any."""
    printed: tuple[TaskId, bytes] | None = None
    """The task that its worker last sent output of, and the end of that output."""

    @property
    def state(self) -> str:
        """The state of its job: ``"sending"``, ``"queued"``, ``"held"`` or ``"running"``."""
        if self.job is None:
            return "sending"
        return "held" if self.is_held else "queued" if self.is_queued else "running"

    def note_output(self, id_: TaskId, text: bytes) -> None:
        """Keep the output of a task, in case the rest of it is lost."""
        self.printed = id_, (self.output_of(id_) + text)[-LOG_LIMIT:]

    def output_of(self, id_: TaskId) -> bytes:
        """Return the end of a task's output, as far as the worker has sent it."""
        return self.printed[1] if self.printed is not None and self.printed[0] == id_ else b""

    def note(self, update: Update, now: float) -> None:
        """Record the system's report about the job."""
        is_queued = update.state is JobState.QUEUED
        if is_queued and not (self.is_queued and self.reason == update.detail):
            self.queued_since = now
        self.is_queued, self.is_held, self.reason = is_queued, update.is_held, update.detail


class Jobs:
    """Sends batches to the cluster, and knows which are submitted.

    Parameters
    ----------
    cluster : Cluster
        Opened.
    committer : Committer
    builder : BatchBuilder
    """

    def __init__(self, cluster: Cluster, committer: Committer, builder: BatchBuilder) -> None:
        self._cluster = cluster
        self._committer = committer
        self._builder = builder
        # Every batch from its submission to its end is in `_submitted`. It is in `_by_job` as well as soon as the
        # cluster has returned a job for it, and in `_ids` until then.
        self._submitted: dict[BatchId, SubmittedBatch] = {}
        self._ids: dict[BatchId, tuple[TaskId, ...]] = {}
        """The tasks of batches that the cluster has not accepted yet."""
        self._by_job: dict[JobId, SubmittedBatch] = {}
        self._submitting = Submitting(cluster)

    def __bool__(self) -> bool:
        return bool(self._submitted)

    def __iter__(self) -> Iterator[SubmittedBatch]:
        return iter(self._submitted.values())

    def states(self) -> Counter[str]:
        """Count the submitted batches by their state; another thread may call this."""
        counts = Counter(dict.fromkeys(("sending", "queued", "held", "running"), 0))
        counts.update(submitted.state for submitted in list(self._submitted.values()))
        return counts

    def names(self) -> Collection[JobId]:
        """Return the cluster's names of the jobs that are submitted."""
        return self._by_job.keys()

    def of(self, job: JobId) -> SubmittedBatch | None:
        """Find the batch that a job runs."""
        return self._by_job.get(job)

    def batch(self, id_: BatchId) -> SubmittedBatch:
        """Find a batch by the scheduler's number."""
        return self._submitted[id_]

    def submit(self, submits: Sequence[Submit]) -> None:
        """Build batches, and send them to the cluster, all at once."""
        batches = list(self._builder.build(submits))
        for submit, batch in zip(submits, batches, strict=True):
            service = submit.ids[0] if batch.is_service else None
            self._submitted[submit.batch] = SubmittedBatch(submit.batch, batch.name, None, service=service)
            self._ids[submit.batch] = submit.ids
        parcels = [Parcel(submit.batch, batch) for submit, batch in zip(submits, batches, strict=True)]
        beside = [parcel for parcel in parcels if self._cluster.submits_beside and not parcel.batch.resources.local]
        if now := [parcel for parcel in parcels if parcel not in beside]:
            for parcel, job in zip(now, self._cluster.submit([parcel.batch for parcel in now]), strict=True):
                self._arrived(parcel, job)
        self._submitting.put(beside)

    def send(self, now: float) -> list[Refused]:
        """Submit waiting batches without waiting for the result; return those that the cluster will never accept."""
        refused = []
        for answer in self._submitting.work(now, len(self._by_job)):
            if isinstance(answer, Sent):
                self._arrived(answer.parcel, answer.job)
            else:
                refused.append(answer)
        return refused

    @property
    def is_submitting(self) -> bool:
        """Whether a submission is in progress, so that the cluster may have jobs that the leader does not know."""
        return self._submitting.is_under_way

    @property
    def limit(self) -> int | None:
        """The most jobs that the system accepted, if it has refused more."""
        return self._submitting.limit

    def withdraw(self) -> list[SubmittedBatch]:
        """Cancel the jobs that have not begun; return the batches that were not even sent."""
        waiting = [
            submitted
            for submitted in self
            if submitted.job is not None and submitted.is_queued and not submitted.is_withdrawn
        ]
        for submitted in waiting:
            submitted.is_withdrawn = True
        if waiting:
            self._cluster.kill([submitted.job for submitted in waiting if submitted.job is not None])
        return [self._submitted[parcel.id] for parcel in self._submitting.withdraw()]

    def close(self) -> None:
        """Wait until the cluster knows all jobs that it was given."""
        self._submitting.close()

    def _arrived(self, parcel: Parcel, job: JobId) -> None:
        submitted = self._submitted[parcel.id]
        submitted.job = job
        self.add(submitted, self._ids.pop(parcel.id))
        if submitted.is_unwanted:
            self._cluster.kill([job])

    def add(self, submitted: SubmittedBatch, ids: Sequence[TaskId]) -> None:
        """Add a batch that the cluster has, and record its job and tasks in the log."""
        assert submitted.job is not None
        self._submitted[submitted.id] = self._by_job[submitted.job] = submitted
        self._committer.add(encode(records.Started(tuple(ids), submitted.job, time.time())))

    def remove(self, submitted: SubmittedBatch) -> None:
        """Forget a batch that has ended."""
        del self._submitted[submitted.id]
        self._ids.pop(submitted.id, None)
        if submitted.job is not None:
            del self._by_job[submitted.job]

    def kill(self, id_: BatchId, service: TaskId | None) -> None:
        """End a batch; `service` is the service whose death is the reason, if that is it."""
        submitted = self._submitted[id_]
        submitted.dead_service = service
        if submitted.job is None:
            submitted.is_unwanted = True
        else:
            self._cluster.kill([submitted.job])

    def recall(self, id_: BatchId) -> None:
        """Ask a batch to return the tasks that it has not started."""
        if (job := self._submitted[id_].job) is not None:
            self._cluster.recall(job)

    def restrict(self, left: Callable[[BatchId], Sequence[TaskId]], void: set[TaskId]) -> None:
        """Ignore reports of submitted batches, except on tasks that they still have to run and on their descendants.

        Parameters
        ----------
        left : callable
            Gives the tasks that a batch still has to answer for.
        void : set of TaskId
            Tasks that were rolled back.
        """
        for submitted in self:
            submitted.owed = set(left(submitted.id)) - void


_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a refused submission is repeated; doubled each time."""

_PATIENCE = 600.0
"""Seconds for which one shape may be refused, while no job of this leader is there whose end may help."""

_WARN_AGAIN = 600.0
"""Seconds between two warnings about refusals."""

_LONGEST_CALL = 150.0
"""Seconds that a leader waits for a submission in progress before it ends its jobs."""


class Parcel(NamedTuple):
    """A batch that is being submitted."""

    id: BatchId
    batch: Batch


class Sent(NamedTuple):
    """A batch has become a job."""

    parcel: Parcel
    job: JobId


class Refused(NamedTuple):
    """A batch that the cluster does not accept."""

    parcel: Parcel
    text: str
    """The system's answer; for the first of several, the submission as well."""


@dataclass
class _Line:
    """The batches of one shape that wait to be sent."""

    waiting: deque[Parcel] = field(default_factory=deque)
    most: int | None = None
    """How many are sent together; None is all."""
    next: float = 0.0
    pause: float = _FIRST_PAUSE
    since: float | None = None
    """The time of the first refusal since the last success."""


class Submitting:
    """Submits batches to a cluster in a separate thread, those of one shape at a time.

    Parameters
    ----------
    cluster : Cluster
        Opened; one that `submits_beside`.

    Attributes
    ----------
    limit : int or None
        The most jobs that the system accepted, if it refused more; forgotten after a while.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lines: dict[Resources, _Line] = {}
        self._requests: queue.SimpleQueue[list[Batch] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[list[JobId] | Exception] = queue.SimpleQueue()
        self._under_way: list[Parcel] = []
        self._thread: threading.Thread | None = None
        self._warned: dict[str, float] = {}
        self.limit: int | None = None
        self._limit_since = 0.0

    @property
    def is_under_way(self) -> bool:
        """Whether a submission is in progress, or its answer has not been processed."""
        return bool(self._under_way)

    def put(self, parcels: Iterable[Parcel]) -> None:
        """Add batches, which are sent as soon as possible."""
        for parcel in parcels:
            self._lines.setdefault(parcel.batch.resources, _Line()).waiting.append(parcel)

    def withdraw(self) -> list[Parcel]:
        """Remove and return all batches that have not been sent."""
        taken = [parcel for line in self._lines.values() for parcel in line.waiting]
        self._lines.clear()
        return taken

    def work(self, now: float, others: int) -> Iterator[Sent | Refused]:
        """Process the answers of the system, and send the next batches, without waiting.

        Parameters
        ----------
        now : float
            The time, in seconds on a monotonic scale.
        others : int
            How many jobs of this leader the system has.

        Raises
        ------
        ClusterError
            If the system has been away for too long and nothing runs.
        """
        if self._under_way and not self._answers.empty():
            parcels, self._under_way = self._under_way, []
            yield from self._take(parcels, self._answers.get(), now, others)
        if self.limit is not None and now - self._limit_since > _PATIENCE:
            self.limit = None
        if not self._under_way:
            self._send(now)

    def close(self) -> None:
        """End the thread; waits for a submission under way, whose jobs the cluster knows then."""
        if self._thread is not None:
            self._requests.put(None)
            self._thread.join(_LONGEST_CALL if self._under_way else None)

    def _send(self, now: float) -> None:
        due = [line for line in self._lines.values() if line.waiting and line.next <= now]
        if not due:
            return
        line = min(due, key=lambda line: line.next)
        count = len(line.waiting) if line.most is None else min(line.most, len(line.waiting))
        self._under_way = [line.waiting.popleft() for _ in range(count)]
        line.next = now  # those of other shapes come first the next time
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="toilfn-submitting", daemon=True)
            self._thread.start()
        self._requests.put([parcel.batch for parcel in self._under_way])

    def _run(self) -> None:
        while (batches := self._requests.get()) is not None:
            try:
                answer: list[JobId] | Exception = self._cluster.submit(batches)
            except Exception as error:
                answer = error
            self._answers.put(answer)
            self._cluster.wake()

    def _take(
        self, parcels: Sequence[Parcel], answer: list[JobId] | Exception, now: float, others: int
    ) -> Iterator[Sent | Refused]:
        shape = parcels[0].batch.resources
        line = self._lines.setdefault(shape, _Line())
        if isinstance(answer, list):
            line.pause, line.since = _FIRST_PAUSE, None
            line.most = line.most and 2 * line.most
            yield from map(Sent, parcels, answer)
        elif isinstance(answer, SubmissionError):
            sent = [parcel for parcel in parcels if parcel.batch.name in answer.submitted]
            yield from (Sent(parcel, answer.submitted[parcel.batch.name]) for parcel in sent)
            left = [parcel for parcel in parcels if parcel.batch.name not in answer.submitted]
            if self._is_final(line, answer, now, others + len(sent), len(left)):
                texts = (str(answer) if parcel is left[0] else answer.words for parcel in left)
                yield from map(Refused, left, texts)
            else:
                line.waiting.extendleft(reversed(left))
        else:
            raise answer
        if not line.waiting:
            self._lines.pop(shape, None)

    def _is_final(self, line: _Line, error: SubmissionError, now: float, others: int, count: int) -> bool:
        """Judge a refusal: say whether it is permanent, or note when to try again."""
        if error.refusal is Refusal.FINAL:
            return True
        line.since = now if line.since is None else line.since
        if not others and now - line.since > _PATIENCE:
            if error.refusal is Refusal.AWAY:
                raise error
            return True
        if error.refusal is Refusal.FULL and count > 1:
            line.most = count // 2
            return False  # fewer may fit
        line.next, line.pause = now + line.pause, min(2 * line.pause, _LONGEST_PAUSE)
        if error.refusal is Refusal.FULL:
            self.limit, self._limit_since = max(1, others), now
            for other in self._lines.values():
                other.next = max(other.next, line.next)
        self._warn(error, line, now, others)
        return False

    def _warn(self, error: SubmissionError, line: _Line, now: float, others: int) -> None:
        if now - self._warned.get(error.refusal.value, float("-inf")) < _WARN_AGAIN:
            return
        self._warned[error.refusal.value] = now
        again = f"trying again, next in {format_duration(line.next - now)}"
        if error.refusal is Refusal.FULL:
            again = f"{others} jobs are queued or running, and others wait until it accepts more (see --max-jobs)"
        _log.warning("the batch system is refusing jobs; %s; its message: %s", again, error.words)


_OWN_LIMIT = re.compile(r"limit|exceed|(QOS|Assoc)\w*(Max|Grp)|reached|max_run|MaxJobs", re.IGNORECASE)
"""Reasons that systems give for a job that waits because the user has other jobs."""

_FIRST_WARNING, _NEXT_WARNING = 60.0, 3600.0
"""Seconds after which a job that does not start is named, and after which it is named again."""

_NO_REASON = 24.0
"""How many times longer clients of services may wait where the reason is not the user's own jobs: queues are long."""

_WRITE_AGAIN, _REASONS_AGAIN = 5.0, 60.0
"""Seconds between two records of waiting jobs, and between two records in which only reasons have changed."""

_SHOWN = 5
"""How many jobs a warning names."""


class Queued:
    """Records which jobs wait in the cluster's queue, for commands that read the store.

    Parameters
    ----------
    committer : Committer
    """

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._written: dict[JobId, str] = {}
        """The jobs that the log says are waiting, and why."""
        self._next_look = self._next_reasons = 0.0

    def write(self, batches: Iterable[SubmittedBatch], now: float) -> None:
        """Record changes, periodically."""
        if now < self._next_look:
            return
        live = {batch.job: batch for batch in batches if batch.job is not None}
        waiting = {job: batch.reason for job, batch in live.items() if batch.is_queued}
        begun = self._written.keys() - waiting.keys()
        if waiting.keys() == self._written.keys() and (waiting == self._written or now < self._next_reasons):
            return
        changed = {job: why for job, why in waiting.items() if self._written.get(job) != why}
        record = records.Queue(
            {str(job): why for job, why in changed.items()}, tuple(sorted(begun & live.keys())), time.time()
        )
        self._committer.add(encode(record))
        self._written = waiting
        self._next_look, self._next_reasons = now + _WRITE_AGAIN, now + _REASONS_AGAIN


class Waiting:
    """Watches jobs that wait in the cluster's queue.

    Parameters
    ----------
    patience : float
        For how many seconds the clients of services may wait because of the user's own jobs while only services run.
    warn : callable
        Called with each warning.
    """

    def __init__(self, patience: float, warn: Callable[[str], None]) -> None:
        self._patience = patience
        self._warn = warn
        self._next_look = 0.0
        self._warned: dict[str, float] = {}

    def stuck(self, batches: Iterable[SubmittedBatch], now: float) -> Iterator[tuple[SubmittedBatch, str]]:
        """Warn about jobs that may never start, and return the batches that have waited too long, and why."""
        if now < self._next_look:
            return
        self._next_look = now + 1.0
        live = [batch for batch in batches if batch.job is not None]
        waiting = [batch for batch in live if batch.is_queued and not batch.is_withdrawn]
        self._name_held([batch for batch in waiting if batch.is_held], now)
        serving = [batch for batch in live if not batch.is_queued]
        if not waiting or not serving or not all(batch.service for batch in serving):
            return
        since = max(batch.queued_since for batch in waiting)
        is_ours = all(_OWN_LIMIT.search(batch.reason) for batch in waiting)
        limit = self._patience if is_ours else self._patience * _NO_REASON
        text = (
            f"waits in the queue ({waiting[0].reason or 'no reason given'}) while only "
            f"{len(serving)} service{'s' * (len(serving) != 1)} of the workflow run{'s' * (len(serving) == 1)} "
            f"({_jobs(serving)})"
        )
        if now - since >= limit:
            advice = "ask for a higher limit of running jobs, or raise service_patience"
            yield from ((batch, f"{text}, for {format_duration(now - since)}; {advice}") for batch in waiting)
        elif now - since >= min(_FIRST_WARNING, limit / 4):
            self._say(f"job {_jobs(waiting)} {text}; it fails after {format_duration(limit)} (service_patience)", now)

    def _name_held(self, held: list[SubmittedBatch], now: float) -> None:
        due = [batch for batch in held if now - batch.queued_since >= _FIRST_WARNING]
        for reason in dict.fromkeys(batch.reason for batch in due):
            jobs = [batch for batch in due if batch.reason == reason]
            self._say(
                f"job {_jobs(jobs)} may never start: {reason}; you or an administrator must change something", now
            )

    def _say(self, text: str, now: float) -> None:
        key = re.sub(r"\d+", "", text)
        if now - self._warned.get(key, float("-inf")) >= _NEXT_WARNING:
            self._warned[key] = now
            self._warn(text)


def _jobs(batches: list[SubmittedBatch]) -> str:
    names = [str(batch.job) for batch in batches[:_SHOWN]]
    return ", ".join(names + ["..."] * (len(batches) > _SHOWN))
