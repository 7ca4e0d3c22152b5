"""The lease: an object that says which process leads a store, for people and for the next leader.

The lease is advisory. It keeps a second leader out as long as the first one renews it. If it is wrong, the log still
lets only one leader write, and fences the other.

The clocks of different hosts differ, so the times in a lease prove nothing. A leader counts as dead when its heartbeat
has not changed for a whole timeout, measured by the monotonic clock of the process that watches it.
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

__all__ = ["Holder", "Lease", "Watch", "holder", "living", "start_of", "this_machine"]

_BEATS = 6
"""Heartbeats per timeout, so that some of them may be late or lost."""

_SAME_START = 2.0
"""Seconds by which two readings of a process's start time may differ."""

_NAME = re.compile(r"leases/[0-9]{16}")

_READ_ATTEMPTS = 50
"""How many times to list and read the newest lease while newer leaders keep deleting it."""

_ADVICE = "if no leader of the store is running, delete this object"

_log = logging.getLogger("toilfn.stores")


class Holder(NamedTuple):
    """The content of a lease: the leader that holds it. Times are in seconds since the epoch."""

    epoch: int
    host: str
    pid: int
    machine: str
    """Identifies the host, its boot and its container: a process id is unique only within these."""
    started: float
    """When the process started."""
    acquired: float
    heartbeat: float
    timeout: float
    """Seconds without a heartbeat after which the leader counts as dead."""
    released: bool = False

    @property
    def is_gone(self) -> bool:
        """Whether the leader has released the lease, or was a process of this machine that has ended."""
        return self.released or (self.machine == this_machine() and not _is_running(self.pid, self.started))

    def holds(self, now: float, timeout: float = 0.0) -> bool:
        """Return whether the leader is alive, by a clock that it shares with the caller."""
        return not self.is_gone and now - self.heartbeat <= max(timeout, self.timeout)

    def seems_fresh(self, now: float) -> bool:
        """Return whether the heartbeat is recent, assuming that this host's clock and the leader's agree."""
        return abs(now - self.heartbeat) <= self.timeout


def holder(store: Store) -> Holder | None:
    """Return the newest lease of a store, whether or not it is still held; None if there never was one.

    Raises
    ------
    CorruptObjectError
        If it cannot be read.
    """
    for attempt in range(_READ_ATTEMPTS):
        names = _names(store)
        if not names:
            return None
        with suppress(MissingObjectError):  # a newer leader has just deleted it
            return checked.reread(partial(_read, store, names[-1]), store.objects.pause)
        time.sleep(min(0.01 * attempt, 0.2))
    raise checked.damaged(_label(names[-1], store.url), "it is listed but cannot be read", _ADVICE)


class Watch:
    """Watches the newest lease of a store: a leader is alive as long as its heartbeat changes.

    Parameters
    ----------
    store : Store
    timeout : float
        Seconds without a change after which the leader counts as dead. A longer timeout in the lease takes precedence.

    Attributes
    ----------
    has_changed : bool
        Whether the lease was renewed, or another one was taken, since this object first saw one.
    """

    def __init__(self, store: Store, timeout: float = 0.0) -> None:
        self._store = store
        self._timeout = timeout
        self._seen: Holder | None = None
        self._since = 0.0
        self.has_changed = False

    @property
    def epoch(self) -> int:
        """The epoch of the last lease that was seen; 0 if there was none."""
        return self._seen.epoch if self._seen else 0

    def look(self) -> Holder | None:
        """Return the leader's lease; None if there is none, or if its leader counts as dead."""
        held = holder(self._store)
        if held != self._seen:
            self.has_changed = self._seen is not None
            self._seen, self._since = held, time.monotonic()
        if held is None or held.is_gone or time.monotonic() - self._since > max(self._timeout, held.timeout):
            return None
        return held

    def remember(self) -> None:
        """Save how long the lease has not changed, for the next call of `Watch.recalled` in this process."""
        _watched[self._store.url] = (self._seen, self._since)

    @classmethod
    def recalled(cls, store: Store, timeout: float) -> Watch:
        """Build a watch that continues from the state the last one in this process saved."""
        watch = cls(store, timeout)
        watch._seen, watch._since = _watched.pop(store.url, (None, 0.0))
        watch.look()
        watch.has_changed = False  # a change before now does not show that the leader is still alive
        return watch

    def decided(self, held: Holder, limit: float | None = None) -> bool:
        """Wait until the leader renews its lease or the timeout passes, and return whether the leader is alive.

        Parameters
        ----------
        held : Holder
            The lease that `look` returned.
        limit : float, optional
            Seconds after which a leader that has not renewed its lease counts as dead. The default is the timeout.

        Returns
        -------
        bool
            Whether the leader is alive.
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
"""For each store's URL: the lease that kept this process out, and since when it has not changed (monotonic time)."""


def living(store: Store) -> Holder | None:
    """Return the lease of the leader that is probably alive, for display; wait for a heartbeat if necessary."""
    watch = Watch(store)
    held = watch.look()
    if held is None or held.seems_fresh(time.time()):
        return held
    return held if watch.decided(held, 1.5 * held.timeout / _BEATS) else None


class Lease:
    """A store's lease, held by this process until it calls `release` or ends.

    Attributes
    ----------
    epoch : int
        The number of this lease: one more than that of the previous leader.
    lost : bool
        Whether another leader has taken over.
    """

    def __init__(self, store: Store, held: Holder, clock: Callable[[], float] | None = None) -> None:
        # After `acquire`, only the thread `_beat` writes the lease, until `_ended` is set. `release` joins it first, so
        # the two never write at the same time and need no lock.
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
            The store. Its log writes the lease's epoch into all further segments.
        timeout : float
            Seconds without a heartbeat after which a leader counts as dead.
        clock : callable, optional
            A clock that all leaders of the store share, in seconds since the epoch; heartbeats are compared with it.
            By default each host has its own clock, and a leader counts as dead after it was watched for `timeout`
            seconds without a heartbeat.

        Raises
        ------
        StoreLockedError
            If another leader is alive. The message names it, and says what to do.
        """
        while True:
            last = _last_epoch(store, timeout, clock)  # another process may take the next epoch first, and wins
            held = _new_holder(last + 1, (clock or time.time)(), timeout)
            if _write_new(store, held):
                break
        # Older leases go only after the new one is written: at no moment does a store in use look free.
        store.objects.delete(name for name in _names(store) if name < _name(held.epoch))
        store.log.epoch = held.epoch
        lease = cls(store, held, clock)
        lease._thread.start()
        return lease

    def release(self) -> None:
        """Release the lease. Further calls do nothing."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            if not self._write(self._held._replace(heartbeat=self._clock(), released=True)):
                with suppress(StoreError):  # a warning was logged; do not hide the run's own error
                    self._store.objects.delete([_name(self.epoch)])  # works even if the disk is full

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
        """Write this lease, unless another leader has taken over; return False if the store could not be written."""
        # Between this look and the write, another leader may take over. The write then renews an old epoch, which is
        # harmless: readers look at the newest lease, and the log fences this process.
        try:
            newest = holder(self._store)
            if newest is None or newest.epoch > self.epoch:
                self.lost = True
                self._ended.set()
            else:
                self._store.objects.put(_name(self.epoch), _encode(held))
        except StoreError as error:
            _log.warning("could not renew the lease of %s: %s", self._store.url, error)
            return False
        return True


def _last_epoch(store: Store, timeout: float, clock: Callable[[], float] | None) -> int:
    """Return the epoch of the last leader, or 0, once it is known to be dead; that may take the whole timeout."""
    watch = Watch.recalled(store, timeout)
    last = watch.look()
    now = (clock or time.time)()
    if last is None or (clock is not None and not last.holds(now, timeout)):
        return watch.epoch
    if clock is None and not last.seems_fresh(now):
        _log.warning(
            "waiting up to %.0f s to find out whether process %d on %s still renews its lease of %s",
            max(timeout, last.timeout), last.pid, last.host, store.url,
        )  # fmt: skip
        if not watch.decided(last):
            return watch.epoch
    watch.remember()
    raise _in_use(store, last, now)


def _write_new(store: Store, held: Holder) -> bool:
    """Write a new lease, and return whether it is ours: a write may have succeeded although its answer was lost."""
    name, content = _name(held.epoch), _encode(held)
    if store.objects.put_new(name, content):
        return True
    with suppress(MissingObjectError):  # a newer leader has just deleted it
        return store.objects.get(name) == content
    return False


def _new_holder(epoch: int, now: float, timeout: float) -> Holder:
    started = start_of(os.getpid())
    return Holder(epoch, socket.gethostname(), os.getpid(), this_machine(), started, now, now, timeout)


def _name(epoch: int) -> str:
    return f"leases/{epoch:016d}"


def _encode(held: Holder) -> bytes:
    return json.dumps(held._asdict()).encode()


def _names(store: Store) -> list[str]:
    """List the leases in order, ignoring objects with other names, such as an editor's backup copy."""
    return sorted(name for name in store.objects.list("leases/") if _NAME.fullmatch(name))


def _read(store: Store, name: str) -> Holder:
    what = _label(name, store.url)
    held = checked.read(Holder, store.objects.get(name), json.loads, what, _ADVICE)
    if _name(held.epoch) != name:
        raise checked.damaged(what, f"it is a copy of the lease with the number {held.epoch}", _ADVICE)
    return held


def _label(name: str, where: str) -> str:
    return f"the job store {where}: {name}"


def _in_use(store: Store, last: Holder, now: float) -> StoreLockedError:
    since = _shown(last.acquired)
    age = f"{max(0, now - last.heartbeat):.0f} s ago" if last.seems_fresh(now) else "a moment ago"
    return StoreLockedError(
        f"job store {store.url} is in use by process {last.pid} on {last.host} since {since}"
        f" (epoch {last.epoch}, last heartbeat {age})",
        hint=f"wait until it finishes, or stop it: toilfn kill {store.url}; if it is dead, try again in "
        f"{last.timeout:.0f} s",
    )


def _shown(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # a time outside the calendar's range
        return f"{seconds:.0f}"


def this_machine() -> str:
    """Return a text that identifies the host, its boot and its container: process ids mean something only there."""
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


def start_of(pid: int) -> float:
    """Return when a process started, in seconds by a clock that stays the same when the machine's clock is set.

    On Linux psutil adds the time of the last boot, which changes with the clock.
    """
    booted = psutil.boot_time() if psutil.LINUX else 0.0  # asked first, since older versions of psutil keep the answer
    return psutil.Process(pid).create_time() - booted


def _is_running(pid: int, started: float) -> bool:
    try:
        is_same = abs(start_of(pid) - started) < _SAME_START
        return is_same and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
