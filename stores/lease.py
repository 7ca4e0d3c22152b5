"""The lease: who leads a store, for people and for the next leader.

It is advice. It keeps a second leader out as long as the first one shows that it lives; if it errs,
the log still lets one of them write and fences the other.

Clocks of different hosts differ, so the times in a lease prove nothing. A leader counts as dead when its heartbeat did
not change for a whole timeout while somebody watched it, on the watcher's own monotonic clock.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import NamedTuple

import psutil

from toilfn.errors import StoreError, StoreLockedError
from toilfn.stores import checked
from toilfn.stores.objects import MissingObjectError
from toilfn.stores.store import Store

__all__ = ["Holder", "Lease", "Watch", "holder", "living"]

_BEATS = 6
"""Heartbeats in one timeout: some may be late or lost."""

_SAME_START = 2.0
"""Seconds by which two readings of a process's start may differ."""

_NAME = re.compile(r"leases/[0-9]{16}")

_VANISHING = 50
"""How many times in a row a lease that is listed may be gone when it is read."""

_ADVICE = "if no leader of the store is running, delete this object"

_log = logging.getLogger("toilfn.stores")


class Holder(NamedTuple):
    """What a lease says of the leader that took it. Times are seconds since the epoch."""

    epoch: int
    host: str
    pid: int
    machine: str
    """Tells machines, their reboots and their containers apart: a process id means something in one only."""
    started: float
    """When the process started."""
    acquired: float
    heartbeat: float
    timeout: float
    """Seconds without a heartbeat after which the leader counts as dead."""
    released: bool = False

    @property
    def is_gone(self) -> bool:
        """Whether the leader has given the store up, or was a process of this machine that has ended."""
        return self.released or (self.machine == _machine() and not _is_running(self.pid, self.started))

    def holds(self, now: float, timeout: float = 0.0) -> bool:
        """Return whether the leader lives, by a clock that it shares with the caller."""
        return not self.is_gone and now - self.heartbeat <= max(timeout, self.timeout)

    def seems_fresh(self, now: float) -> bool:
        """Return whether the heartbeat is recent if this host's clock and the leader's agree, which nobody knows."""
        return abs(now - self.heartbeat) <= self.timeout


def holder(store: Store) -> Holder | None:
    """Return the newest lease of a store, whether it is still held or not; None if there never was one.

    Raises
    ------
    CorruptObjectError
        If it cannot be read.
    """
    for attempt in range(_VANISHING):
        names = _names(store)
        if not names:
            return None
        with suppress(MissingObjectError):  # a newer leader has just taken it away
            return checked.reread(partial(_read, store, names[-1]), store.objects.pause)
        time.sleep(min(0.01 * attempt, 0.2))
    raise checked.damaged(_label(names[-1], store.url), "it is listed but cannot be read", _ADVICE)


class Watch:
    """Watches the newest lease of a store: a leader lives as long as its heartbeat changes.

    Parameters
    ----------
    store : Store
    timeout : float
        Seconds without a change after which the leader counts as dead, if the lease itself does not say more.

    Attributes
    ----------
    has_changed : bool
        Whether a lease that was seen was renewed, or another one taken, since.
    """

    def __init__(self, store: Store, timeout: float = 0.0) -> None:
        self._store = store
        self._timeout = timeout
        self._seen: Holder | None = None
        self._since = 0.0
        self.has_changed = False

    @property
    def epoch(self) -> int:
        """The number of the lease that was seen last; 0 if there was none."""
        return self._seen.epoch if self._seen else 0

    def look(self) -> Holder | None:
        """Return the lease of the leader; None as soon as there is none, or its leader counts as dead."""
        held = holder(self._store)
        if held != self._seen:
            self.has_changed = self._seen is not None
            self._seen, self._since = held, time.monotonic()
        if held is None or held.is_gone or time.monotonic() - self._since > max(self._timeout, held.timeout):
            return None
        return held

    def remember(self) -> None:
        """Let the next `Watch.recalled` of this process know how long the lease has not changed."""
        _watched[self._store.url] = (self._seen, self._since)

    @classmethod
    def recalled(cls, store: Store, timeout: float) -> Watch:
        """Build one that knows what the last one of this process has seen."""
        watch = cls(store, timeout)
        watch._seen, watch._since = _watched.pop(store.url, (None, 0.0))
        watch.look()
        watch.has_changed = False  # between then and now it may have changed and died
        return watch

    def decided(self, held: Holder, limit: float | None = None) -> bool:
        """Wait until it is certain whether a leader lives: it renews its lease, or does not for the timeout.

        Parameters
        ----------
        held : Holder
            Its lease, as `look` gave it.
        limit : float, optional
            Seconds after which a leader that did not renew its lease is taken for dead; by default the timeout.

        Returns
        -------
        bool
            Whether it lives.
        """
        pause = min(max(held.timeout, 0.1) / _BEATS / 4, 1.0)
        end = None if limit is None else time.monotonic() + limit
        while self.look() is not None:
            if self.has_changed:
                return True
            if end is not None and time.monotonic() > end:
                return False
            time.sleep(pause)
        return False


_watched: dict[str, tuple[Holder | None, float]] = {}
"""By a store's URL: the lease that kept this process out, and since when on its monotonic clock."""


def living(store: Store) -> Holder | None:
    """Return the lease of the leader that most likely leads a store, for people; waits for a heartbeat if need be."""
    watch = Watch(store)
    held = watch.look()
    if held is None or held.seems_fresh(time.time()):
        return held
    return held if watch.decided(held, 1.5 * held.timeout / _BEATS) else None


class Lease:
    """A store's lease, held by this process until `release` or its end.

    Attributes
    ----------
    epoch : int
        One more than that of the leader before.
    lost : bool
        Whether another leader has been seen to take over.
    """

    def __init__(self, store: Store, held: Holder, clock: Callable[[], float] | None = None) -> None:
        self._store = store
        self._held = held
        self._clock = clock or time.time
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="toilfn-lease", daemon=True)
        self.epoch = held.epoch
        self.lost = False

    @classmethod
    def acquire(cls, store: Store, *, timeout: float = 30.0, clock: Callable[[], float] | None = None) -> Lease:
        """Become the leader of a store.

        Parameters
        ----------
        store : Store
            The store. Segments that its log writes from now on carry the lease's epoch.
        timeout : float
            Seconds without a heartbeat after which a leader counts as dead.
        clock : callable, optional
            A clock that all leaders of the store share, in seconds since the epoch: heartbeats are compared with it.
            By default each host has its own, and a leader counts as dead when it was watched for `timeout` seconds.

        Raises
        ------
        StoreLockedError
            If another leader is alive; names it, and what to do.
        """
        while True:
            last = _last_epoch(store, timeout, clock)  # whoever takes the next one meanwhile wins
            held = _claim(last + 1, (clock or time.time)(), timeout)
            if _take(store, held):
                break
        store.objects.delete(name for name in _names(store) if name < _name(held.epoch))
        store.log.epoch = held.epoch
        lease = cls(store, held, clock)
        lease._thread.start()
        return lease

    def release(self) -> None:
        """Return the store up. May be called twice."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            if not self._write(self._held._replace(heartbeat=self._clock(), released=True)):
                with suppress(StoreError):  # the warning says why, and what the run raises must not be hidden
                    self._store.objects.delete([_name(self.epoch)])  # a disk that is full has room for that

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._ended.wait(self._held.timeout / _BEATS):
            self._write(self._held._replace(heartbeat=self._clock()))

    def _write(self, held: Holder) -> bool:
        """Write this lease, unless another leader has taken over; whether the store says so now."""
        try:
            newest = holder(self._store)
            if newest is None or newest.epoch > self.epoch:
                self.lost = True
                self._ended.set()
            else:
                self._store.objects.put(_name(self.epoch), _encode(held))
        except StoreError as error:
            _log.warning("The lease of %s could not be renewed: %s", self._store.url, error)
            return False
        return True


def _last_epoch(store: Store, timeout: float, clock: Callable[[], float] | None) -> int:
    """Return the epoch of the last leader, or 0, when it does not live; to see that may take the whole timeout."""
    watch = Watch.recalled(store, timeout)
    last = watch.look()
    now = (clock or time.time)()
    if last is None or (clock is not None and not last.holds(now, timeout)):
        return watch.epoch
    if clock is None and not last.seems_fresh(now):
        _log.warning(
            "waiting up to %.0f s to see whether process %d on %s still renews its lease of %s",
            max(timeout, last.timeout), last.pid, last.host, store.url,
        )  # fmt: skip
        if not watch.decided(last):
            return watch.epoch
    watch.remember()
    raise StoreLockedError(_describe(store, last, now))


def _take(store: Store, held: Holder) -> bool:
    """Write a new lease, and say whether it is ours: the answer to a write that succeeded may have been lost."""
    name, content = _name(held.epoch), _encode(held)
    if store.objects.put_new(name, content):
        return True
    with suppress(MissingObjectError):  # a newer leader has just taken it away
        return store.objects.get(name) == content
    return False


def _claim(epoch: int, now: float, timeout: float) -> Holder:
    started = psutil.Process().create_time()
    return Holder(epoch, socket.gethostname(), os.getpid(), _machine(), started, now, now, timeout)


def _name(epoch: int) -> str:
    return f"leases/{epoch:016d}"


def _encode(held: Holder) -> bytes:
    return json.dumps(held._asdict()).encode()


def _names(store: Store) -> list[str]:
    """List the leases in order; what has another name, such as a copy that an editor made, is not the store's."""
    return sorted(name for name in store.objects.list("leases/") if _NAME.fullmatch(name))


def _read(store: Store, name: str) -> Holder:
    what = _label(name, store.url)
    held = checked.read(Holder, store.objects.get(name), json.loads, what, _ADVICE)
    if _name(held.epoch) != name:
        raise checked.damaged(what, f"it is a copy of the lease with the number {held.epoch}", _ADVICE)
    return held


def _label(name: str, where: str) -> str:
    return f"the job store {where}: {name}"


def _describe(store: Store, last: Holder, now: float) -> str:
    since = _shown(last.acquired)
    age = f"{max(0, now - last.heartbeat):.0f} s ago" if last.seems_fresh(now) else "a moment ago"
    return (
        f"The job store {store.url} is in use by process {last.pid} on {last.host} since {since}"
        f" (epoch {last.epoch}, last sign of life {age})."
        f" Wait for it or end it: toilfn kill {store.url}. If it is dead, try again in {last.timeout:.0f} s."
    )


def _shown(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # a time that no calendar has
        return f"{seconds:.0f}"


def _machine() -> str:
    return f"{socket.gethostname()} {_read_link('/proc/self/ns/pid')} {_boot_id()}"


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:  # not Linux
        return ""


def _read_link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # not Linux
        return ""


def _is_running(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < _SAME_START
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
