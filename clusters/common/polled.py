"""The base of clusters that have to be asked for news: when to ask, whom to end, and what an answer means.

A system says what it knows of jobs (`PolledCluster.look`) and ends some (`PolledCluster.end`). Limits of time,
outages, jobs that the system no longer knows, and updates are here.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from toilfn.clusters.base import Cluster, JobId, JobState, Refusal, RunContext, SubmissionError, Update
from toilfn.clusters.common.commands import AwayError, CredentialsError, pauses
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Capacity
from toilfn.units import format_duration, parse_duration

__all__ = ["COMMAND", "START_PATIENCE", "Found", "LiveJob", "PolledCluster"]

_KILL_AGAIN = 30.0
"""Seconds after which a job that was killed and is still there is killed again: the system may have refused."""

COMMAND = "\nThe command was: "
"""The text between a system's words and the request that it refused, in the error of a submission."""

START_PATIENCE = 30.0
"""How many seconds a service on a network may be without an answer at the start before its address counts as wrong."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Found(NamedTuple):
    """The system's answer about one job."""

    state: JobState
    cause: Cause | None = None
    detail: str = ""
    is_stuck: bool = False
    """Whether it stays in the queue although it will not run, until it is killed."""
    is_held: bool = False
    """Whether it is queued and will not start before somebody changes something."""
    is_ending: bool = False
    """Whether its processes are ending or have ended, and it is not over yet."""
    log: bytes = b""
    """For a job that has ended: what the task that it ran had printed."""


@dataclass(slots=True)
class LiveJob:
    """A job that has not ended."""

    state: JobState | None = None
    """None until the system has said something about it."""
    missing_since: float | None = None
    is_killed: bool = False
    walltime: float | None = None
    """How many seconds it may run, for a system that does not see to that itself."""
    deadline: float | None = None
    is_late: bool = False
    killed_at: float | None = None
    """When the system was asked to end it, if it was."""
    said: str = ""
    """The last words about it while it was queued."""
    is_ending: bool = False


L = TypeVar("L", bound=LiveJob)


class PolledCluster(Cluster, Generic[L]):
    """A system with its own queue that is polled for all jobs at once.

    Parameters
    ----------
    settings : mapping
        Of which ``max_jobs``, ``poll_interval`` and ``patience`` are read here; `JobSettings` says what they are.
    """

    grace: ClassVar[float] = 60.0
    """Seconds for which a job may be known to nothing in the system before it counts as lost."""
    submits_beside = True
    place: ClassVar[tuple[str, ...]] = ()
    """The settings that say where its jobs are, none of them secret."""
    unknown: ClassVar[str] = "the system does not know it"
    """Message about a job that is missing from the answers."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.max_jobs: int | None = settings.get("max_jobs")
        self.poll_interval = parse_duration(settings.get("poll_interval", 2.0))
        self.patience = parse_duration(settings.get("patience", 600.0))
        self._context: RunContext | None = None
        self.lock = threading.RLock()
        """Held by whoever looks at the jobs or changes them: submissions may run in another thread."""
        self._live: dict[JobId, L] = {}
        self._to_kill: set[JobId] = set()
        self._doubtful: dict[tuple[str, ...], str] = {}
        """The names of submissions that may have come through, by their batches."""
        self._sent_again: dict[str, tuple[str, float]] = {}
        """Of submissions that were sent more than once: the id that counts, and until when others may turn up."""
        self._not_ended = ""
        """Why jobs could not be ended the last time."""
        self._woken = threading.Event()
        self._next_look = 0.0
        self._away_since: float | None = None

    # Subclasses define these.

    @abstractmethod
    def look(self, jobs: Sequence[JobId]) -> dict[JobId, Found]:
        """Ask for the states of jobs. A job that is missing from the answer is unknown.

        Raises
        ------
        AwayError
            If the system does not answer now.
        """

    @abstractmethod
    def end(self, jobs: Sequence[JobId]) -> None:
        """End jobs; one that is gone is not an error. Raises as `look` does."""

    def still_there(self, jobs: Sequence[JobId]) -> set[JobId]:
        """Look once more for jobs of which the system says nothing, and end what may be left of them.

        Called before such jobs count as lost, so that what they ran can be started again. Raises as `look` does.

        Returns
        -------
        set of JobId
            Those that are still alive, or may be.
        """
        self.end(jobs)
        return set()

    def namesakes(self, name: str) -> list[JobId]:
        """Return the ids of all live submissions of a name, for systems that use `once`. Raises as `look` does."""
        return []

    def ended(self, job: JobId, live: L, found: Found) -> Found:
        """Add details about a job that has just ended, and forget its notes."""
        return found

    # The cluster's interface.

    def open(self, context: RunContext) -> None:
        """Get ready; see `Cluster.open`."""
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", context.workflow):
            raise InputError(
                f"{context.workflow!r} is not valid in a job name", hint="use letters, digits, '_', '.', '-'"
            )
        self._context = context
        self._next_look, self._away_since = 0.0, None

    def capacity(self) -> Capacity:
        """Return no limits but `max_jobs`: the system has its own queue."""
        return Capacity(total=None, largest=None, batches=self.max_jobs)

    def poll(self, timeout: float) -> list[Update]:
        """Wait for news; asks the system once in each `poll_interval`. See `Cluster.poll`."""
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
        """Ask the system about all jobs, after having ended those that are to be ended."""
        try:
            self._end_late()
            self._kill_again()
            self._kill()
            self._end_twins()
            known = self.look(list(self._live))
            known |= self._missing([job for job in self._live if job not in known])
        except AwayError as error:
            self._bear(error)
            return []
        self._answers()
        updates = [self._news(job, live, known[job]) for job, live in list(self._live.items()) if job in known]
        return [update for update in updates if update is not None]

    def kill(self, jobs: Iterable[JobId]) -> None:
        """End jobs, with as few calls as possible. See `Cluster.kill`."""
        with self.lock:
            for job in jobs:
                if job in self._live:
                    self._live[job].is_killed = True
                    self._to_kill.add(job)
            try:
                self._kill()
            except AwayError as error:  # the next poll tries again
                _log.info("%s; jobs are ended later", error)
                self._not_ended = str(error)

    def close(self) -> None:
        """End all jobs of this leader."""
        self.has_left_jobs = False
        with suppress(ClusterError):
            self._end_twins()
            for name in self._doubtful.values():
                if doubtful := self.namesakes(name):
                    self.end(doubtful)
        self.kill(list(self._live))
        if self._to_kill:
            self.has_left_jobs = True
            names = " ".join(sorted(self._to_kill))
            _log.warning("these jobs could not be ended and may still be running: %s\n%s", names, self._not_ended)
        self.leave()

    def leave(self) -> None:
        """Forget all jobs of this leader without ending them."""
        with self.lock:
            self._live.clear()
            self._to_kill.clear()

    def address(self) -> dict[str, Any]:
        """Return the settings that say where its jobs are. See `Cluster.address`."""
        return {name: self.settings[name] for name in self.place if name in self.settings}

    def wake(self) -> None:
        """Build a waiting `poll` return."""
        self._woken.set()

    # How it is done.

    def patiently(self, ask: Callable[[], T], at_most: float = math.inf) -> T:
        """Ask until the system answers, or patience ends; `at_most` is in seconds, too.

        With it, which is at the start, credentials that are not accepted are wrong, and not worth waiting for.
        """
        for pause in pauses(min(self.patience, at_most)):
            try:
                answer = ask()
            except AwayError as error:
                if at_most < math.inf and isinstance(error, CredentialsError):
                    raise
                self._is_away(error)
                _log.warning("%s; trying again", error)
                time.sleep(pause)
            else:
                self._answers()
                return answer
        return ask()

    def one_by_one(self, parts: Iterable[T], create: Callable[[T], Mapping[str, JobId]]) -> dict[str, JobId]:
        """Submit one part after the other; return the jobs of all by the names of their batches.

        Raises
        ------
        SubmissionError
            If the system refuses one; says what it took before that.
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
        """Judge a refused submission: a service that answers says itself what may pass."""
        return Refusal.AWAY if isinstance(error, AwayError) else Refusal.FINAL

    def once(
        self, batches: tuple[str, ...], name: str, send: Callable[[str], str], arrived: Callable[[str], str]
    ) -> str:
        """Submit batches under a name, also while the system is briefly away, and never twice; return the id.

        A submission that may have come through although it failed keeps its name, and is looked for by that name
        before its batches are submitted again. One that turns up after it was sent again is ended.

        Parameters
        ----------
        batches : tuple of str
            Their names.
        name : str
            The submission's, if there was no earlier one of these batches.
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
            base = self.patiently(attempt)
        except AwayError:
            self._doubtful[batches] = name
            raise
        if sent > 1:
            with self.lock:
                self._sent_again[name] = (base, time.monotonic() + self.patience)
        return base

    def _end_twins(self) -> None:
        """End submissions that came through late, after they had been sent again."""
        now = time.monotonic()
        self._sent_again = {name: (base, end) for name, (base, end) in self._sent_again.items() if end > now}
        for name, (base, _) in self._sent_again.items():
            if twins := [job for job in self.namesakes(name) if job != base]:
                _log.warning("ending %s, which was submitted a second time: its answer came late", " ".join(twins))
                self.end(twins)

    def surely(self, send: Callable[[], str], arrived: Callable[[], str]) -> str:
        """Send something, also while the system is briefly away, and never twice.

        Parameters
        ----------
        send : callable
            Gives the id of what was sent.
        arrived : callable
            Asks for the id, or an empty one, when an answer was lost: that may be all that was.
        """
        tries = itertools.count()
        return self.patiently(lambda: (next(tries) and arrived()) or send())

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

    def _bear(self, error: AwayError) -> None:
        """Go on without an answer for a while."""
        now = time.monotonic()
        away = now - self._is_away(error)
        if away > self.patience:
            raise ClusterError(
                f"{error}\nno response for {format_duration(away)}; the jobs keep running", hint="resume the run later"
            )
        _log.warning("%s; asking again", error)
        self._next_look = now + max(self.poll_interval, min(away, 30.0))

    def _is_away(self, error: AwayError) -> float:
        """Note that the system does not answer, and give the time since when."""
        if self._away_since is None:
            self._away_since = time.monotonic()
            if self._context is not None:
                self._context.outage(str(error))
        return self._away_since

    def _answers(self) -> None:
        """Note that the system answers."""
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
        """Kill what should have ended long ago."""
        now = time.monotonic()
        for job, live in self._live.items():
            if live.killed_at is not None and now - live.killed_at > _KILL_AGAIN:
                self._to_kill.add(job)

    def _end_late(self) -> None:
        """End what takes longer than it asked for."""
        now = time.monotonic()
        for job, live in self._live.items():
            if live.deadline is not None and live.deadline < now and not live.is_killed:
                live.is_late = live.is_killed = True
                self._to_kill.add(job)

    def _news(self, job: JobId, live: L, found: Found) -> Update | None:
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

    def _missing(self, jobs: Collection[JobId]) -> dict[JobId, Found]:
        """Judge jobs that are in no answer. That is never success, and for a while it says nothing at all.

        After that, they are looked for by other means and ended, so that none runs beside its successor.
        """
        now = time.monotonic()
        found: dict[JobId, Found] = {}
        due: list[JobId] = []
        for job in self._live.keys() - set(jobs):
            self._live[job].missing_since = None
        for job in jobs:
            live = self._live[job]
            live.missing_since = live.missing_since or now
            if live.killed_at is not None or now - live.missing_since >= self.grace:
                due.append(job)
            found[job] = Found(JobState.UNKNOWN, None, f"{self.unknown} now")
        for job in set(due) - (self.still_there(due) if due else set()):
            killed = self._live[job].is_killed
            words = "killed" if killed else f"{self.unknown}, for {self.grace:g} s already"
            found[job] = Found(JobState.ENDED, Cause.LOST, words)
        return found
