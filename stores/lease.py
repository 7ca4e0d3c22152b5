"""The lease: who leads a store, for people and for the next leader.

It is advice. It keeps a second leader out as long as the first one shows that it lives; if it errs,
the log still lets one of them write and fences the other.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

import psutil

from toilfn.errors import CorruptObjectError, StoreError, StoreLockedError
from toilfn.stores.objects import MissingObjectError
from toilfn.stores.store import Store

__all__ = ["Holder", "Lease", "holder"]

_BEATS = 6
"""Heartbeats in one timeout: some may be late or lost."""

_SAME_START = 2.0
"""Seconds by which two readings of a process's start may differ."""

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

    def holds(self, now: float, timeout: float = 0.0) -> bool:
        """Say whether the leader is thought to be alive."""
        if self.released or now - self.heartbeat > max(timeout, self.timeout):
            return False
        return self.machine != _machine() or _is_running(self.pid, self.started)


def holder(store: Store) -> Holder | None:
    """Give the newest lease of a store, whether it is still held or not; None if there never was one.

    Raises
    ------
    CorruptObjectError
        If it cannot be read.
    """
    while names := sorted(store.objects.list("leases/")):
        with suppress(MissingObjectError):  # a newer leader has just taken it away
            return _decode(names[-1], store.objects.get(names[-1]))
    return None


class Lease:
    """A store's lease, held by this process until `release` or its end.

    Attributes
    ----------
    epoch : int
        One more than that of the leader before.
    lost : bool
        Whether another leader has been seen to take over.
    """

    def __init__(self, store: Store, held: Holder, clock: Callable[[], float]) -> None:
        self._store = store
        self._held = held
        self._clock = clock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="toilfn-lease", daemon=True)
        self.epoch = held.epoch
        self.lost = False

    @classmethod
    def acquire(cls, store: Store, *, timeout: float = 30.0, clock: Callable[[], float] = time.time) -> Lease:
        """Become the leader of a store.

        Parameters
        ----------
        store : Store
            The store. Segments that its log writes from now on carry the lease's epoch.
        timeout : float
            Seconds without a heartbeat after which a leader counts as dead.
        clock : callable
            Gives seconds since the epoch.

        Raises
        ------
        StoreLockedError
            If another leader is alive; says who, and what to do.
        """
        while True:
            last = holder(store)
            if last is not None and last.holds(clock(), timeout):
                raise StoreLockedError(_describe(store, last, clock()))
            held = _claim(last.epoch + 1 if last else 1, clock(), timeout)
            if _take(store, held):
                break
        store.objects.delete(name for name in store.objects.list("leases/") if name < _name(held.epoch))
        store.log.epoch = held.epoch
        lease = cls(store, held, clock)
        lease._thread.start()
        return lease

    def release(self) -> None:
        """Give the store up. May be called twice."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            if not self._write(self._held._replace(heartbeat=self._clock(), released=True)):
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


def _decode(name: str, data: bytes) -> Holder:
    try:
        return Holder(**json.loads(data))
    except (ValueError, TypeError):
        raise CorruptObjectError(f"{name} is damaged. If no leader of the store is running, delete it.") from None


def _describe(store: Store, last: Holder, now: float) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.acquired))
    return (
        f"The job store {store.url} is in use by process {last.pid} on {last.host} since {since}"
        f" (epoch {last.epoch}, last sign of life {max(0, now - last.heartbeat):.0f} s ago)."
        f" Wait for it or end it: toilfn kill {store.url}. If it is dead, try again in {last.timeout:.0f} s."
    )


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
