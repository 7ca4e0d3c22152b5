"""Start the leaders of runs, a limited number at a time, and start a new leader for a run whose leader has died.

Leaders are processes on the server's machine, or jobs of a cluster. They continue without the server. A server that is
started again finds their states in the records.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from toilfn.clusters import cluster_class
from toilfn.clusters.base import Batch, Cluster, JobId, JobState, Refusal, RunContext, SubmissionError
from toilfn.errors import ClusterError, StoreLockedError, ToilfnError
from toilfn.leader.asjob import Shape, leading_cluster, resources_of
from toilfn.server.access import Sessions
from toilfn.server.index import Index
from toilfn.server.lead import MOST_LEADERS, TOLD_VARIABLE, environment
from toilfn.server.records import Place, Run, State, state_of
from toilfn.stores import MissingObjectError
from toilfn.stores.lease import Holder, Watch
from toilfn.stores.options import worker_variables

__all__ = ["LaunchSettings", "Launcher", "LeaderJobs", "LeaderProcesses", "Leaders"]

_START = "import sys; sys.path[:] = filter(None, sys.path); from toilfn.server.lead import job; sys.exit(job())"
_LIST = 10.0
"""Seconds between two queries for jobs that other servers have submitted."""
_LOST = 45.0
"""Seconds after which a job that was announced but never seen counts as lost: the server that announced it has died."""
_PAUSE = 30.0
"""Seconds to wait before the next submission after the cluster has temporarily refused a job."""

_log = logging.getLogger("toilfn.server")


class Leaders(ABC):
    """Starts leaders, and tracks which of them have not ended. Only the thread of `Launcher` uses it, except `busy`.

    Parameters
    ----------
    place : Place
    timeout : float
        Seconds without a renewal of its lease after which a leader on another machine counts as dead.
    variables : sequence of str
        Names of additional environment variables to pass to runs.
    """

    may_wait = False
    """Whether a leader may wait in a queue for a long time after it was started."""

    def __init__(self, place: Place, timeout: float, variables: Sequence[str]) -> None:
        self.place = place
        self.timeout = timeout
        self.variables = tuple(variables)

    @abstractmethod
    def look(self) -> None:
        """Update the information on which leaders have ended."""

    @abstractmethod
    def holds(self, id: str) -> bool:
        """Return whether a leader for a run was started and has not ended."""

    @abstractmethod
    def start(self, run: Run) -> bool:
        """Start a leader for a run; return whether it counts towards the limit."""

    @abstractmethod
    def end(self, id: str) -> None:
        """Cancel the leader of a finished run if it is still waiting in a queue."""

    @abstractmethod
    def counts(self, held: Holder | None) -> bool:
        """Return whether the leader that holds a lease counts towards the limit; None means that no one holds it."""

    @abstractmethod
    def busy(self) -> int:
        """Return the number of leaders that have not ended."""


class LeaderProcesses(Leaders):
    """Leaders that are processes of this machine, each in a separate session."""

    def __init__(self, place: Place, timeout: float, variables: Sequence[str]) -> None:
        super().__init__(place, timeout, variables)
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def look(self) -> None:
        """Remove the processes that have ended; the launcher then reads the records of their runs."""
        for id, process in list(self._started.items()):
            if process.poll() is not None:
                del self._started[id]

    def holds(self, id: str) -> bool:
        """Return whether a process of this server is leading the run. See `Leaders.holds`."""
        return id in self._started

    def start(self, run: Run) -> bool:
        """Start a process. See `Leaders.start`."""
        told = {
            "place": self.place.url, "work": str(self.place.work), "options": self.place.options, "run": run.id,
            "timeout": self.timeout, "environment": environment(os.environ, self.variables),
        }  # fmt: skip
        run.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (run.folder / "leader.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "toilfn.server.lead"], cwd=run.folder, stdin=subprocess.PIPE, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as stream:
            stream.write(json.dumps(told).encode())
        self._started[run.id] = process
        return True

    def end(self, id: str) -> None:
        """Do nothing: a process never waits in a queue, and ends by itself when its run is finished."""

    def counts(self, held: Holder | None) -> bool:
        """Return whether the leader is on this machine. See `Leaders.counts`."""
        return held is not None and held.host == socket.gethostname()

    def busy(self) -> int:
        """Return the number of this server's processes that are running."""
        return sum(process.poll() is None for process in list(self._started.values()))


class LeaderJobs(Leaders):
    """Leaders that are jobs of a cluster, on any machine. Servers that share a place share its jobs.

    Before a server submits a job, it announces the job in the run's record. Only one server can write the announcement,
    so only one submits the job.

    Parameters
    ----------
    place, timeout, variables
        As for `Leaders`.
    name : str
        The name of the cluster, whose other settings come from the configuration.
    shape : Shape
        The requirements of the jobs.

    Raises
    ------
    ClusterError
        If leaders cannot be jobs of this cluster, or this machine cannot use it.
    StoreError
        If a secret for the place would have to be written to job scripts.
    """

    may_wait = True

    def __init__(self, place: Place, timeout: float, variables: Sequence[str], name: str, shape: Shape) -> None:
        super().__init__(place, timeout, variables)
        self._shape = shape
        self._name = f"toilfn-{place.store.id[:12]}-runs"
        self._cluster: Cluster = leading_cluster(cluster_class(name)(), shape, _START)
        self._jobs: dict[JobId, str] = {}
        self._announced: dict[tuple[str, int], float] = {}
        """When a job that another server has announced was first missing (monotonic time), by run and number."""
        self._over: set[str] = set()
        """The ids of runs whose last job has ended."""
        self._listed = self._refused = float("-inf")
        told = {"work": str(place.work), "timeout": timeout, "variables": list(variables)}
        given = {**worker_variables(place.url, private=False), TOLD_VARIABLE: json.dumps(told)}
        self._cluster.open(RunContext(place.url, self._name, given, log_directory=str(place.work / "jobs")))
        self._list()

    def look(self) -> None:
        """Query the cluster for jobs that have ended, and periodically for new jobs of other servers."""
        try:
            if time.monotonic() - self._listed > _LIST:
                self._list()
            for update in self._cluster.poll(0):
                if update.state is JobState.ENDED and (id := self._jobs.pop(update.job, "")):
                    self._over.add(id)
                    if update.cause is not None:
                        _log.warning("job %s, the leader of run %s, has ended: %s", update.job, id, update.detail)
        except ClusterError as error:
            _log.warning("%s", error)

    def _list(self) -> None:
        self._listed = time.monotonic()
        self._jobs |= self._cluster.list(self._name)
        left = set(self.place.open_ids())
        self._over &= left
        self._announced = {key: since for key, since in self._announced.items() if key[0] in left}

    def holds(self, id: str) -> bool:
        """Return whether any server has a job for the run that has not ended."""
        return id in self._jobs.values()

    def start(self, run: Run) -> bool:
        """Announce and submit a job. See `Leaders.start`."""
        if time.monotonic() - self._refused < _PAUSE:
            return False
        number = len(list(run.objects.list("jobs/")))
        if number and not self._is_lost(run.id, number):
            return True
        if number >= MOST_LEADERS:
            self._give_up(run, f"{number} leader jobs ended before the run was finished")
            return False
        name = f"jobs/{number + 1:06d}"
        if run.note(name, {"host": socket.gethostname()}):
            self._over.discard(run.id)
            return self._submit(run, name)
        return True

    def _is_lost(self, id: str, number: int) -> bool:
        """Return whether the last job that was announced for a run has ended, or was never submitted."""
        if id in self._over:
            return True
        now = time.monotonic()
        return now - self._announced.setdefault((id, number), now) > _LOST

    def _submit(self, run: Run, name: str) -> bool:
        run.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            (job,) = self._cluster.submit([Batch(run.id, run.id, resources_of(self._shape))])
        except SubmissionError as error:
            _log.warning("the leader of %s was not submitted: %s", run.id, error)
            if error.refusal is Refusal.FINAL:
                self._give_up(run, f"the cluster refuses the leader's job: {error.words.strip()}")
            else:
                self._refused = time.monotonic()
                run.objects.delete([name])
            return False
        self._jobs[job] = run.id
        return True

    def _give_up(self, run: Run, reason: str) -> None:
        with suppress(StoreLockedError), run.lease(self.timeout):
            run.end(State.SYSTEM_ERROR, None, [reason])

    def end(self, id: str) -> None:
        """End the job of a run, which may be waiting in the queue. See `Leaders.end`."""
        try:
            self._cluster.kill([job for job, run in self._jobs.items() if run == id])
        except ClusterError as error:  # when the job starts, it notices that its run is finished, and ends
            _log.warning("%s", error)

    def counts(self, held: Holder | None) -> bool:
        """Return whether someone holds the lease, on any machine. See `Leaders.counts`."""
        return held is not None

    def busy(self) -> int:
        """Return the number of jobs, including those of other servers."""
        return len(self._jobs)


_LOOK = 0.5
_LOOK_FAR = 3.0
_PURGE = 60.0
"""Seconds between two searches for finished runs to delete because of their age."""
_UNFINISHED = 86400.0
"""Seconds after which the files of a request that was not accepted are deleted."""
_AHEAD = 20
"""Number of queued runs to read in addition to those that can be started, since some may have been cancelled."""


class LaunchSettings(NamedTuple):
    """The settings of the launcher.

    Attributes
    ----------
    limit : int
        Maximum number of leaders on this machine at one time. For leaders that are jobs, the maximum number of jobs of
        all servers of the place.
    timeout : float
        Seconds without a renewal of its lease after which a leader on another machine counts as dead.
    max_age : float or None
        Seconds after which a finished run is deleted; None means never.
    variables : tuple of str
        Names of additional environment variables to pass to runs.
    lead_on : str or None
        The cluster that runs the leaders as jobs; None means that they are processes of this machine.
    shape : Shape
        The requirements of these jobs.
    """

    limit: int = 4
    timeout: float = 30.0
    max_age: float | None = None
    variables: tuple[str, ...] = ()
    lead_on: str | None = None
    shape: Shape = Shape()


class Launcher:
    """A thread that checks the runs without a final state, and starts leaders for them.

    It also deletes old runs. Handlers may call `wake`, `delete`, `busy` and `is_alive` from other threads.

    Parameters
    ----------
    place : Place
    index : Index
        The index in which the states of runs are recorded.
    settings : LaunchSettings
    leaders : Leaders
    """

    def __init__(self, place: Place, index: Index, settings: LaunchSettings, leaders: Leaders) -> None:
        self._place = place
        self._index = index
        self._settings = settings
        self._leaders = leaders
        self._watches: dict[str, Watch] = {}
        self._wake = threading.Event()
        self._ended = False
        self._purged = 0.0
        self._thread = threading.Thread(target=self._run, name="toilfn-launcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Leaders continue."""
        self._ended = True
        self._wake.set()
        self._thread.join()

    def wake(self) -> None:
        """Check the runs now, since one was submitted or cancelled."""
        self._wake.set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def _run(self) -> None:
        pause = _LOOK if self._place.is_directory else _LOOK_FAR
        while not self._ended:
            began = time.monotonic()
            for act in (self.look, self._purge):
                try:
                    act()
                except ToilfnError as error:  # the place is not reachable at present; nothing in it is lost
                    _log.warning("%s", error)
                except Exception:  # without this thread, the server would accept runs and never start them
                    _log.exception("the launcher failed and will try again")
            self._wake.wait(max(pause, 2 * (time.monotonic() - began)))
            self._wake.clear()

    def look(self) -> None:
        """Check every run without a final state once, and start leaders as far as the limit allows."""
        self._leaders.look()
        open_ids = self._place.open_ids()
        self._index.expect(open_ids, self._place)
        waiting: list[Run] = []
        busy = 0
        for id in open_ids:
            run = self._place.run(id)
            if self._index.state(id) is State.QUEUED and len(waiting) > self._settings.limit + _AHEAD:
                continue
            state = self._state(run)
            if state is None or state.is_final:
                continue
            if self._is_led(run, state):
                if state is State.CANCELING and self._leaders.may_wait and self._end_cancelled(run):
                    self._leaders.end(id)
                    continue
                busy += self._is_here(id)
            else:
                waiting.append(run)
        # Runs that have begun are resumed before queued runs are started. A cancelled run needs no leader, so it is
        # ended regardless of the limit.
        waiting.sort(key=lambda run: (self._index.state(run.id) is State.QUEUED, run.id))
        for run in waiting:
            if busy < self._settings.limit or self._index.state(run.id) is State.CANCELING:
                busy += self._start(run)

    def _state(self, run: Run) -> State | None:
        """Determine the state of a run, and record it in the index; None if the run does not exist."""
        facts = run.facts()
        state = state_of(facts)
        try:
            run.request  # noqa: B018 - read once
        except MissingObjectError:
            return None  # the run is being submitted, or its server died before it could accept it
        if state.is_final:
            with suppress(KeyError):
                del self._watches[run.id]
            run.place.store.objects.delete([f"open/{run.id}"])
        self._index.note(run, state)
        return state

    def _is_led(self, run: Run, state: State) -> bool:
        if self._leaders.holds(run.id):
            return True
        if state is State.QUEUED:
            return False
        if run.id not in self._watches:
            self._watches[run.id] = Watch(run.as_store(), self._settings.timeout)
        return self._watches[run.id].look() is not None

    def _is_here(self, id: str) -> bool:
        if self._leaders.holds(id):
            return True
        return self._leaders.counts(self._watches[id].look() if id in self._watches else None)

    def _start(self, run: Run) -> bool:
        """Start a leader for a run, or end the run if it was cancelled; return whether it counts towards the limit."""
        if self._index.state(run.id) is State.CANCELING and self._end_cancelled(run):
            return False
        return self._leaders.start(run)

    def _end_cancelled(self, run: Run) -> bool:
        """Record the end of a cancelled run that never had a leader; return False if it had one."""
        if any(run.objects.list("leases/")):
            return False
        try:
            lease = run.lease(self._settings.timeout)
        except StoreLockedError:
            return True  # another server is doing the same
        with lease:
            run.end(State.CANCELED, None, ["cancelled before it was started"])
        self._state(run)
        return True

    def _purge(self) -> None:
        age, now = self._settings.max_age, time.time()
        if now - self._purged < _PURGE:
            return
        self._purged = now
        for id in self._index.ended_before(now - age) if age is not None else ():
            self.delete(self._place.run(id))
        self._place.sweep(now - _UNFINISHED)
        Sessions(self._place).sweep()

    def delete(self, run: Run) -> None:
        """Delete a finished run with all its files."""
        run.delete()
        self._index.forget(run.id)
        _log.info("%s was deleted", run.id)

    def busy(self) -> int:
        """Return the number of leaders that have not ended, as far as this server knows."""
        return self._leaders.busy()
