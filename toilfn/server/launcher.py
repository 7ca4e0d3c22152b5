"""Starts the leaders of runs, so many at a time, and again where one has died; a restart needs nothing of it."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import NamedTuple

from toilfn.errors import StoreLockedError, ToilfnError
from toilfn.server.index import Index
from toilfn.server.lead import environment
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
"""Seconds after which what a request has left that never was accepted is removed."""
_AHEAD = 20
"""How many queued runs are looked at beyond those that can be started: they may have been cancelled."""

_log = logging.getLogger("toilfn.server")


class LaunchSettings(NamedTuple):
    """How runs are led.

    Attributes
    ----------
    limit : int
        The most leaders on this machine at one time.
    timeout : float
        Seconds without a sign of life after which a leader on another machine counts as dead.
    max_age : float or None
        Seconds after which a finished run is deleted.
    variables : tuple of str
        More variables of the environment that runs get.
    """

    limit: int = 4
    timeout: float = 30.0
    max_age: float | None = None
    variables: tuple[str, ...] = ()


class Launcher:
    """A thread that looks at runs without a final state.

    Parameters
    ----------
    place : Place
    index : Index
        Learns what is found.
    settings : LaunchSettings
    """

    def __init__(self, place: Place, index: Index, settings: LaunchSettings) -> None:
        self._place = place
        self._index = index
        self._settings = settings
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._watches: dict[str, Watch] = {}
        self._wake = threading.Event()
        self._ended = False
        self._purged = 0.0
        self._thread = threading.Thread(target=self._run, name="toilfn-launcher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Start no more leaders; those that there are continue."""
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
                    _log.exception("the launcher failed; it tries again")
            self._wake.wait(max(pause, 2 * (time.monotonic() - began)))
            self._wake.clear()

    def look(self) -> None:
        """Look at every run without a final state once, and start what may start."""
        self._reap()
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
                busy += self._is_here(id)
            else:
                waiting.append(run)
        # Runs that have begun are resumed first, and one that was cancelled costs nothing.
        waiting.sort(key=lambda run: (self._index.state(run.id) is State.QUEUED, run.id))
        for run in waiting:
            if busy < self._settings.limit or self._index.state(run.id) is State.CANCELING:
                busy += self._start(run)

    def _state(self, run: Run) -> State | None:
        """Find out the state of a run, and note it in the index; None if there is no such run after all."""
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
        if run.id in self._started:
            return True
        if state is State.QUEUED:
            return False
        if run.id not in self._watches:
            self._watches[run.id] = Watch(run.as_store(), self._settings.timeout)
        return self._watches[run.id].look() is not None

    def _is_here(self, id: str) -> bool:
        if id in self._started:
            return True
        held = self._watches[id].look() if id in self._watches else None
        return held is not None and held.host == socket.gethostname()

    def _start(self, run: Run) -> bool:
        """Start a process to lead a run; return whether it takes a place in the queue."""
        if self._index.state(run.id) is State.CANCELING and self._end_cancelled(run):
            return False
        told = {
            "place": self._place.url, "work": str(self._place.work), "options": self._place.options, "run": run.id,
            "timeout": self._settings.timeout, "environment": environment(os.environ, self._settings.variables),
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

    def _reap(self) -> None:
        """Forget leaders that have ended; what they have written down is looked at next."""
        for id, process in list(self._started.items()):
            if process.poll() is not None:
                del self._started[id]

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
        """Remove a run that has ended, with all it holds."""
        run.delete()
        self._index.forget(run.id)
        _log.info("%s was deleted", run.id)

    def busy(self) -> int:
        """Return how many leaders this server has started that have not ended."""
        return sum(process.poll() is None for process in list(self._started.values()))
