"""The base class of clusters that must be polled.

A subclass queries jobs (`PolledCluster.look`) and ends them (`PolledCluster.end`). `PolledCluster` decides when to
query and which jobs to end, and handles time limits, outages, jobs that the system no longer knows, and updates.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from toilfn.clusters.base import Batch, Cluster, JobId, JobState, Refusal, RunContext, SubmissionError, Update
from toilfn.clusters.common.commands import CredentialsError, UnavailableError, retried
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Capacity, Resources
from toilfn.units import format_duration, parse_duration

__all__ = ["COMMAND", "START_PATIENCE", "JobReport", "LiveJob", "PolledCluster"]

_KILL_AGAIN = 30.0
"""Seconds after which a killed job that still exists is killed again: the system may have refused the first time."""

COMMAND = "\nThe command was: "
"""The text in the error of a submission that separates the system's message from the refused request."""

START_PATIENCE = 30.0
"""Seconds to wait for a network service at the start of a run, before its address counts as wrong."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class JobReport(NamedTuple):
    """The state of one job in the system's answer."""

    state: JobState
    cause: Cause | None = None
    detail: str = ""
    is_stuck: bool = False
    """Whether the job can never run but stays in the queue until it is killed."""
    is_held: bool = False
    """Whether the job is queued and cannot start until a user or an administrator acts."""
    is_ending: bool = False
    """Whether the job's processes are ending or have ended, but the job has not."""
    log: bytes = b""
    """For a job that has ended: the output of its last task."""


@dataclass(slots=True)
class LiveJob:
    """A job that has not ended."""

    state: JobState | None = None
    """The last known state; None before the first answer."""
    missing_since: float | None = None
    """When the job was first missing from an answer (monotonic time), if it has been missing since."""
    is_killed: bool = False
    """Whether the job was asked to end, by the leader or because it exceeded its walltime."""
    walltime: float | None = None
    """Seconds the job may run, if the system does not enforce the limit itself."""
    deadline: float | None = None
    """When `walltime` is over (monotonic time); set when the job is first seen running."""
    is_late: bool = False
    """Whether the job was killed because it exceeded its walltime."""
    killed_at: float | None = None
    """When the system was last asked to end the job (monotonic time), if it was."""
    said: str = ""
    """The last detail reported while the job was queued; a repeated one is not an update."""
    is_ending: bool = False


L = TypeVar("L", bound=LiveJob)


class PolledCluster(Cluster, Generic[L]):
    """A system with its own queue, polled for all jobs at once.

    Parameters
    ----------
    settings : mapping
        The cluster's settings. This class uses ``max_jobs``, ``poll_interval`` and ``patience``; see `JobSettings`.
    """

    grace: ClassVar[float] = 60.0
    """Seconds for which a job may be missing from all answers before it counts as lost."""
    submits_beside = True
    address_settings: ClassVar[tuple[str, ...]] = ()
    """The settings needed to find the cluster's jobs again, none of them secret."""
    unknown: ClassVar[str] = "the system does not know the job"
    """Detail of a job that is missing from the answers."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.max_jobs: int | None = settings.get("max_jobs")
        self.poll_interval = parse_duration(settings.get("poll_interval", 2.0))
        self.patience = parse_duration(settings.get("patience", 600.0))
        self._context: RunContext | None = None
        self.lock = threading.RLock()
        """Guards `_live`, `_to_kill` and `_sent_again`, since `submit` runs in another thread than `poll` and `kill`.

        `poll` and `kill` hold it during their requests, so a submission that has succeeded waits until these are
        finished before it adds its jobs. The lock is reentrant, because hooks that `poll` and `kill` call, such as
        `ended`, take it as well.
        """
        self._live: dict[JobId, L] = {}
        self._to_kill: set[JobId] = set()
        self._doubtful: dict[tuple[str, ...], str] = {}
        """Doubtful submissions: they failed, but may have succeeded. The names of their batches, and their own name.

        Only `submit` uses this, and `close`, which the leader calls after the thread of `submit` has ended. So the lock
        does not guard it.
        """
        self._sent_again: dict[str, tuple[str, float]] = {}
        """For each submission that was sent more than once: the id to keep, and until when duplicates may appear."""
        self._not_ended = ""
        """The error of the last attempt to end jobs, for the warning of `close`."""
        self._woken = threading.Event()
        self._next_look = 0.0
        self._away_since: float | None = None

    # Methods for subclasses to define.

    @abstractmethod
    def look(self, jobs: Sequence[JobId]) -> dict[JobId, JobReport]:
        """Query the states of jobs. A job missing from the result is unknown.

        Raises
        ------
        UnavailableError
            If the system does not answer at present.
        """

    @abstractmethod
    def end(self, jobs: Sequence[JobId]) -> None:
        """End jobs; those that no longer exist are ignored. Raises like `look`."""

    def found_by_name(self, jobs: Sequence[JobId]) -> set[JobId]:
        """Search by other means for jobs that are missing from the answers, and end any that may be left.

        This is called before such jobs count as lost and their batches can be started again. Raises like `look`.

        Returns
        -------
        set of JobId
            The jobs that are, or may be, still alive.
        """
        self.end(jobs)
        return set()

    def namesakes(self, name: str) -> list[JobId]:
        """Return the ids of all live submissions with a name, for users of `submit_once`. Raises like `look`."""
        return []

    def ended(self, job: JobId, live: L, found: JobReport) -> JobReport:
        """Add details about a job that has just ended, clean up after it, and return the result."""
        return found

    # The interface of clusters.

    def open(self, context: RunContext) -> None:
        """Prepare to run batches; see `Cluster.open`."""
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", context.workflow):
            raise InputError(
                f"{context.workflow!r} is not valid in a job name", hint="use letters, digits, '_', '.' and '-'"
            )
        self._context = context
        self._next_look, self._away_since = 0.0, None

    def capacity(self) -> Capacity:
        """Return no limit except `max_jobs`, since the system has its own queue."""
        return Capacity(total=None, largest=None, batches=self.max_jobs)

    def poll(self, timeout: float) -> list[Update]:
        """Wait for updates, querying the system once per `poll_interval`. See `Cluster.poll`."""
        wait = min(timeout, self._next_look - time.monotonic()) if self._live else timeout
        if wait > 0:
            self._woken.wait(wait)
        self._woken.clear()
        if not (self._live or self._to_kill) or time.monotonic() < self._next_look:
            return []
        self._next_look = time.monotonic() + self.poll_interval
        with self.lock:
            return self._look_at_all()

    def _look_at_all(self) -> list[Update]:
        """Kill the jobs that are due, then query the system for all jobs."""
        try:
            # Kill before the query, so that its answer does not report a job as running that is about to be killed.
            self._end_late()
            self._kill_again()
            self._kill()
            self._end_late_duplicates()
            known = self.look(list(self._live))
            known |= self._missing([job for job in self._live if job not in known])
        except UnavailableError as error:
            self._tolerate(error)
            return []
        self._note_answer()
        updates = [self._news(job, live, known[job]) for job, live in list(self._live.items()) if job in known]
        return [update for update in updates if update is not None]

    def kill(self, jobs: Iterable[JobId]) -> None:
        """End jobs, with as few requests as possible. See `Cluster.kill`."""
        with self.lock:
            for job in jobs:
                if job in self._live:
                    self._live[job].is_killed = True
                    self._to_kill.add(job)
            try:
                self._kill()
            except UnavailableError as error:  # the next poll tries again
                _log.info("%s; will cancel the jobs later", error)
                self._not_ended = str(error)

    def close(self) -> None:
        """End all jobs of this leader."""
        self.has_left_jobs = False
        with suppress(ClusterError):
            self._end_late_duplicates()
            for name in self._doubtful.values():
                if doubtful := self.namesakes(name):
                    self.end(doubtful)
        self.kill(list(self._live))
        if self._to_kill:
            self.has_left_jobs = True
            names = " ".join(sorted(self._to_kill))
            _log.warning("could not cancel these jobs, which may still be running: %s\n%s", names, self._not_ended)
        self.leave()

    def leave(self) -> None:
        """Stop tracking the jobs of this leader, without ending them."""
        with self.lock:
            self._live.clear()
            self._to_kill.clear()

    def address(self) -> dict[str, Any]:
        """Return the settings needed to find the jobs again. See `Cluster.address`."""
        return {name: self.settings[name] for name in self.address_settings if name in self.settings}

    def wake(self) -> None:
        """Wake a waiting `poll`."""
        self._woken.set()

    # Implementation.

    def retry_until_answered(self, ask: Callable[[], T], at_most: float = math.inf) -> T:
        """Repeat a request until the system answers, for at most `patience` seconds, or `at_most` if that is less.

        Pass `at_most` at the start of a run. Then rejected credentials are wrong rather than expired, so the error is
        raised at once instead of waiting for new ones.
        """
        limit, said = min(self.patience, at_most), ""

        def tolerate(error: UnavailableError) -> None:
            nonlocal said
            if at_most < math.inf and isinstance(error, CredentialsError):
                raise error
            self._note_outage(error)
            if str(error) != said:
                said = str(error)
                _log.warning("%s\ntrying again for at most %s", said, format_duration(limit))

        try:
            answer = retried(ask, limit, tolerate)
        except CredentialsError:
            raise
        except UnavailableError as error:
            error.hint = error.hint or "check that this machine reaches the system; patience= limits the wait"
            raise
        self._note_answer()
        return answer

    def parts(
        self, batches: Sequence[Batch], split: Callable[[Sequence[Batch]], Iterable[Sequence[Batch]]]
    ) -> Iterator[Sequence[Batch]]:
        """Group batches into submissions.

        Batches of a doubtful submission (see `_doubtful`) form a group of their own, so that this submission can be
        found by its name. If only some of them are passed, the doubtful submission is ended.

        Parameters
        ----------
        batches : sequence of Batch
        split : callable
            Splits batches of one shape into submissions that the system accepts.
        """
        waiting = {batch.name: batch for batch in batches}
        for names in list(self._doubtful):
            if waiting.keys() >= set(names):
                yield [waiting.pop(name) for name in names]
            elif not waiting.keys().isdisjoint(names):
                self.end_doubtful(names)
        shapes: dict[Resources, list[Batch]] = {}
        for batch in waiting.values():
            shapes.setdefault(batch.resources, []).append(batch)
        for group in shapes.values():
            yield from split(group)

    def end_doubtful(self, names: tuple[str, ...]) -> None:
        """End a doubtful submission, because its batches are now part of other submissions."""
        if found := self.retry_until_answered(lambda: self.namesakes(self._doubtful[names])):
            self.end(found)
        del self._doubtful[names]

    def one_by_one(self, parts: Iterable[T], create: Callable[[T], Mapping[str, JobId]]) -> dict[str, JobId]:
        """Submit parts one after another, and return all jobs by the names of their batches.

        Raises
        ------
        SubmissionError
            If the system refuses a part. The error has the jobs submitted before that.
        """
        jobs: dict[str, JobId] = {}
        try:
            for part in parts:
                jobs |= create(part)
        except (ClusterError, InputError) as error:
            words = str(error).partition(COMMAND)[0]
            raise SubmissionError(str(error), words, self.refusal(error, words), jobs) from error
        return jobs

    def refusal(self, error: ClusterError | InputError, words: str) -> Refusal:
        """Classify a refused submission. This default treats everything but a temporary failure as final."""
        return Refusal.AWAY if isinstance(error, UnavailableError) else Refusal.FINAL

    def submit_once(
        self, batches: tuple[str, ...], name: str, send: Callable[[str], str], arrived: Callable[[str], str]
    ) -> str:
        """Submit batches under a name, and retry while the system is unavailable; return the id of the submission.

        A submission that failed may have succeeded nevertheless. So it keeps its name, and before its batches are
        submitted again, it is searched for by that name. A duplicate that appears later is ended.

        Parameters
        ----------
        batches : tuple of str
            The names of the batches.
        name : str
            The name of the submission, unless an earlier submission of these batches failed: then its name is used.
        send : callable
            Submits under a name; returns the id.
        arrived : callable
            Returns the id of the submission with this name, or an empty value if the system has none.
        """
        earlier = self._doubtful.pop(batches, "")
        name = earlier or name
        sent = 1 if earlier else 0

        def attempt() -> str:
            nonlocal sent
            if sent and (found := arrived(name)):
                return found
            sent += 1
            return send(name)

        try:
            base = self.retry_until_answered(attempt)
        except UnavailableError:
            self._doubtful[batches] = name
            raise
        if sent > 1:
            with self.lock:
                self._sent_again[name] = (base, time.monotonic() + self.patience)
        return base

    def _end_late_duplicates(self) -> None:
        """End submissions that succeeded late, after they had been submitted again."""
        now = time.monotonic()
        self._sent_again = {name: (base, end) for name, (base, end) in self._sent_again.items() if end > now}
        for name, (base, _) in self._sent_again.items():
            if duplicates := [job for job in self.namesakes(name) if job != base]:
                _log.warning("cancelling %s, a duplicate submission whose response arrived late", " ".join(duplicates))
                self.end(duplicates)

    def send_or_find(self, send: Callable[[], str], arrived: Callable[[], str]) -> str:
        """Send a request, and retry while the system is unavailable, unless an earlier attempt has succeeded.

        Parameters
        ----------
        send : callable
            Sends the request; returns the id.
        arrived : callable
            Returns the id if an earlier attempt succeeded and only its answer was lost, else an empty text.
        """
        tries = itertools.count()
        return self.retry_until_answered(lambda: (next(tries) and arrived()) or send())

    @property
    def context(self) -> RunContext:
        """The context that `open` received.

        Raises
        ------
        ClusterError
            If the cluster is not open.
        """
        if self._context is None:
            raise ClusterError("the cluster is not open")
        return self._context

    def _tolerate(self, error: UnavailableError) -> None:
        """Log an outage and delay the next query; raise `ClusterError` if the outage has lasted longer than `patience`.

        The delay grows with the outage, up to 30 seconds, so that a system that starts again is not overloaded.
        """
        now = time.monotonic()
        away = now - self._note_outage(error)
        if away > self.patience:
            raise ClusterError(
                f"{error}\nno response for {format_duration(away)}; the jobs keep running", hint="resume the run later"
            )
        _log.warning("%s; asking again", error)
        self._next_look = now + max(self.poll_interval, min(away, 30.0))

    def _note_outage(self, error: UnavailableError) -> float:
        """Record that the system does not answer, and return when the outage began (monotonic time)."""
        if self._away_since is None:
            self._away_since = time.monotonic()
            if self._context is not None:
                self._context.outage(str(error))
        return self._away_since

    def _note_answer(self) -> None:
        """Record that the system answers."""
        if self._away_since is not None:
            self._away_since = None
            if self._context is not None:
                self._context.outage("")

    def _kill(self) -> None:
        if self._to_kill:
            self.end(sorted(self._to_kill))
            for job in self._to_kill & self._live.keys():
                self._live[job].killed_at = time.monotonic()
            self._to_kill.clear()

    def _kill_again(self) -> None:
        """Add the jobs that were killed and have not ended after `_KILL_AGAIN` seconds to the jobs to kill."""
        now = time.monotonic()
        for job, live in self._live.items():
            if live.killed_at is not None and now - live.killed_at > _KILL_AGAIN:
                self._to_kill.add(job)

    def _end_late(self) -> None:
        """Add the jobs that have exceeded their walltime to the jobs to kill."""
        now = time.monotonic()
        for job, live in self._live.items():
            if live.deadline is not None and live.deadline < now and not live.is_killed:
                live.is_late = live.is_killed = True
                self._to_kill.add(job)

    def _news(self, job: JobId, live: L, found: JobReport) -> Update | None:
        """Record a job's state, and return an update for the leader; None if nothing has changed."""
        if found.state is JobState.ENDED:
            del self._live[job]
            (self._to_kill.add if found.is_stuck else self._to_kill.discard)(job)
            found = self.ended(job, live, found)
            if live.is_late and found.cause is not None:
                limit = f" of {format_duration(live.walltime)}" if live.walltime else ""
                detail = f"took longer than its walltime{limit}; {found.detail}"
                found = found._replace(cause=Cause.WALLTIME, detail=detail)
            return Update(job, JobState.ENDED, found.cause, found.detail, log=found.log)
        if found.state is JobState.RUNNING and live.walltime is not None and live.deadline is None:
            live.deadline = time.monotonic() + live.walltime
        said = found.detail if found.state is JobState.QUEUED else ""
        is_news = (found.state, said, found.is_ending) != (live.state, live.said, live.is_ending)
        live.state, live.said, live.is_ending = found.state, said, found.is_ending
        if not is_news:
            return None
        return Update(job, found.state, None, found.detail, is_held=found.is_held, is_ending=found.is_ending)

    def _missing(self, jobs: Collection[JobId]) -> dict[JobId, JobReport]:
        """Classify jobs that are missing from the answers: unknown at first, and lost after `grace` seconds.

        A killed job is lost at once. Before jobs count as lost, `found_by_name` searches for them and ends them: the
        leader starts the batch of a lost job again, and two copies must not run at the same time.
        """
        now = time.monotonic()
        found: dict[JobId, JobReport] = {}
        due: list[JobId] = []
        for job in self._live.keys() - set(jobs):
            self._live[job].missing_since = None
        for job in jobs:
            live = self._live[job]
            live.missing_since = live.missing_since or now
            if live.killed_at is not None or now - live.missing_since >= self.grace:
                due.append(job)
            found[job] = JobReport(JobState.UNKNOWN, None, f"{self.unknown} now")
        for job in set(due) - (self.found_by_name(due) if due else set()):
            killed = self._live[job].is_killed
            words = "killed" if killed else f"{self.unknown}, for {self.grace:g} s"
            found[job] = JobReport(JobState.ENDED, Cause.LOST, words)
        return found
