"""Starts the leaders of runs, so many at a time, and again where one has died; a restart needs nothing of it."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import NamedTuple

from toilfn.errors import StoreLockedError, ToilfnError
from toilfn.leader.asjob import Shape
from toilfn.server.index import Index
from toilfn.server.leaders import Leaders
from toilfn.server.records import Place, Run
from toilfn.server.sessions import Sessions
from toilfn.server.states import State, state_of
from toilfn.stores import MissingObjectError
from toilfn.stores.lease import Watch

__all__ = ["LaunchSettings", "Launcher"]

_LOOK = 0.5
_LOOK_FAR = 3.0
_PURGE = 60.0
"""Seconds between two looks for finished runs that are too old."""
_UNFINISHED = 86400.0
"""Seconds after which the files of a request that was never accepted are removed."""
_AHEAD = 20
"""How many queued runs are read in addition to those that can be started, since some may have been cancelled."""

_log = logging.getLogger("toilfn.server")


class LaunchSettings(NamedTuple):
    """How runs are led.

    Attributes
    ----------
    limit : int
        The most leaders on this machine at one time; of leaders that are jobs, the most of all servers of the place.
    timeout : float
        Seconds without a sign of life after which a leader on another machine counts as dead.
    max_age : float or None
        Seconds after which a finished run is deleted.
    variables : tuple of str
        More variables of the environment that runs get.
    lead_on : str or None
        The cluster whose jobs the leaders are; None makes them processes beside the server.
    shape : Shape
        The requests of these jobs.
    """

    limit: int = 4
    timeout: float = 30.0
    max_age: float | None = None
    variables: tuple[str, ...] = ()
    lead_on: str | None = None
    shape: Shape = Shape()


class Launcher:
    """A thread that looks at runs without a final state.

    Parameters
    ----------
    place : Place
    index : Index
        Learns what is found.
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
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Start no more leaders; running leaders continue."""
        self._ended = True
        self._wake.set()
        self._thread.join()

    def wake(self) -> None:
        """Look at once: a run was submitted or cancelled."""
        self._wake.set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    def _run(self) -> None:
        pause = _LOOK if self._place.is_directory else _LOOK_FAR
        while not self._ended:
            began = time.monotonic()
            for act in (self.look, self._purge):
                try:
                    act()
                except ToilfnError as error:  # the place is away; what there is to do stays written there
                    _log.warning("%s", error)
                except Exception:  # a fault here must not end the service
                    _log.exception("the launcher failed and will try again")
            self._wake.wait(max(pause, 2 * (time.monotonic() - began)))
            self._wake.clear()

    def look(self) -> None:
        """Look at every run without a final state once, and start what may start."""
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
        # Runs that have begun are resumed first, and one that was cancelled costs nothing.
        waiting.sort(key=lambda run: (self._index.state(run.id) is State.QUEUED, run.id))
        for run in waiting:
            if busy < self._settings.limit or self._index.state(run.id) is State.CANCELING:
                busy += self._start(run)

    def _state(self, run: Run) -> State | None:
        """Find out the state of a run, and note it in the index; None if the run does not exist."""
        facts = run.facts()
        state = state_of(facts)
        try:
            run.request  # noqa: B018 - read once
        except MissingObjectError:
            return None  # it is just being submitted, or its client was never told that it was accepted
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
        """Have a run led; return whether it takes a place in the queue."""
        if self._index.state(run.id) is State.CANCELING and self._end_cancelled(run):
            return False
        return self._leaders.start(run)

    def _end_cancelled(self, run: Run) -> bool:
        """Write down the end of a run that was cancelled before anybody led it; False if it was led already."""
        if any(run.objects.list("leases/")):
            return False
        try:
            lease = run.lease(self._settings.timeout)
        except StoreLockedError:
            return True  # another server does it
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
        """Remove a finished run with all its files."""
        run.delete()
        self._index.forget(run.id)
        _log.info("%s was deleted", run.id)

    def busy(self) -> int:
        """Return how many leaders have not ended, as far as this server knows."""
        return self._leaders.busy()
