"""Where the leaders of runs are: processes beside the server, or jobs of a cluster."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress

from toilfn.clusters import cluster_class
from toilfn.clusters.base import Batch, Cluster, JobId, JobState, Refusal, RunContext, SubmissionError
from toilfn.errors import ClusterError, StoreLockedError
from toilfn.leader.asjob import Shape, leading_cluster, resources_of
from toilfn.server.lead import MOST_LEADERS, TOLD_VARIABLE, environment
from toilfn.server.records import Place, Run
from toilfn.server.states import State
from toilfn.stores.lease import Holder
from toilfn.stores.options import worker_variables

__all__ = ["LeaderJobs", "LeaderProcesses", "Leaders"]

_START = "import sys; sys.path[:] = filter(None, sys.path); from toilfn.server.lead import job; sys.exit(job())"
_LIST = 10.0
"""Seconds between two looks for jobs that other servers have submitted."""
_LOST = 45.0
"""Seconds after which a job that was announced and never seen counts as lost, with the server that announced it."""
_PAUSE = 30.0
"""Seconds for which nothing is submitted after the cluster has refused a job that it may accept later."""

_log = logging.getLogger("toilfn.server")


class Leaders(ABC):
    """Starts leaders, and knows which of them have not ended.

    Parameters
    ----------
    place : Place
    timeout : float
        Seconds without a sign of life after which a leader on another machine counts as dead.
    variables : sequence of str
        More variables of the environment that runs get.
    """

    may_wait = False
    """Whether a leader that was started may wait for a long time before it begins."""

    def __init__(self, place: Place, timeout: float, variables: Sequence[str]) -> None:
        self.place = place
        self.timeout = timeout
        self.variables = tuple(variables)

    @abstractmethod
    def look(self) -> None:
        """Find out which leaders have stopped."""

    @abstractmethod
    def holds(self, id: str) -> bool:
        """Return whether a leader of a run was started and has not ended."""

    @abstractmethod
    def start(self, run: Run) -> bool:
        """Start a leader, and return whether it takes a place in the queue."""

    @abstractmethod
    def end(self, id: str) -> None:
        """Cancel the leader of a finished run, if it still waits in a queue."""

    @abstractmethod
    def counts(self, held: Holder | None) -> bool:
        """Return whether the leader with this lease counts for the limit."""

    @abstractmethod
    def busy(self) -> int:
        """Return how many leaders have not ended."""


class LeaderProcesses(Leaders):
    """Leaders that are processes of this machine, each in a separate session."""

    def __init__(self, place: Place, timeout: float, variables: Sequence[str]) -> None:
        super().__init__(place, timeout, variables)
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def look(self) -> None:
        """Forget leaders that have stopped; their records are read next."""
        for id, process in list(self._started.items()):
            if process.poll() is not None:
                del self._started[id]

    def holds(self, id: str) -> bool:
        """Return whether this server's process is running. See `Leaders.holds`."""
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
        """Do nothing: a process starts immediately, and sees that its run is finished."""

    def counts(self, held: Holder | None) -> bool:
        """Return whether the leader is on this machine. See `Leaders.counts`."""
        return held is not None and held.host == socket.gethostname()

    def busy(self) -> int:
        """Return how many of this server's processes are running."""
        return sum(process.poll() is None for process in list(self._started.values()))


class LeaderJobs(Leaders):
    """Leaders that are jobs of a cluster, on whatever machine; servers that share the place share them.

    A server announces a job in the run's record before it submits it, so that one of them does.

    Parameters
    ----------
    place, timeout, variables
        As for `Leaders`.
    name : str
        Of the cluster; its settings come from the configuration.
    shape : Shape

    Raises
    ------
    ClusterError
        If leaders cannot be jobs of this cluster, or it cannot be used from here.
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
        """When a job that another server has announced was first missed, by run and number."""
        self._over: set[str] = set()
        """Runs whose job was seen to end."""
        self._listed = self._refused = float("-inf")
        told = {"work": str(place.work), "timeout": timeout, "variables": list(variables)}
        given = {**worker_variables(place.url, private=False), TOLD_VARIABLE: json.dumps(told)}
        self._cluster.open(RunContext(place.url, self._name, given, log_directory=str(place.work / "jobs")))
        self._list()

    def look(self) -> None:
        """Query the cluster for jobs that have ended, and periodically for new ones."""
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
        """Return whether there is a job for a run, of any server."""
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
        """Return whether the newest job that was announced for a run will no longer lead it."""
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
        """End the job of a run, which may wait in the queue. See `Leaders.end`."""
        try:
            self._cluster.kill([job for job, run in self._jobs.items() if run == id])
        except ClusterError as error:  # it will see by itself that the run is finished
            _log.warning("%s", error)

    def counts(self, held: Holder | None) -> bool:
        """Return whether there is a leader, on whatever machine. See `Leaders.counts`."""
        return held is not None

    def busy(self) -> int:
        """Return how many jobs there are, those of other servers included."""
        return len(self._jobs)
