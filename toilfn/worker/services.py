"""Run a service: its start, its checks, and its end, whichever side stops it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from toilfn.errors import InputError, StoreError
from toilfn.graph.task import Service
from toilfn.ids import TaskId
from toilfn.model.records import BlobRef
from toilfn.stores import Store
from toilfn.stores.lease import Watch

__all__ = ["NOBODY", "Host", "StoreWish", "serve", "stop_flag"]

_END = object()


class Host(NamedTuple):
    """The functions of a worker that a service needs."""

    announce: Callable[[TaskId, bytes | BlobRef], None]
    """Tells the leader the service's value, pickled."""
    wait: Callable[[float], bool]
    """Waits for a number of seconds; returns True at once when the service has to stop."""


NOBODY = Host(lambda *_: None, lambda _: True)
"""The host of a service without clients."""


class _Generator(Service[Any]):
    """A generator as a service."""

    def __init__(self, steps: Iterator[Any]) -> None:
        self._steps = steps

    def start(self) -> Any:
        value = next(self._steps, _END)
        if value is _END:
            raise InputError(
                "the service function returned without a yield",
                hint="it must yield the value for its clients, exactly once",
            )
        return value

    def stop(self) -> None:
        if next(self._steps, _END) is not _END:
            raise InputError(
                "the service function yielded twice",
                hint="it must yield exactly once; the code after the yield is clean-up",
            )


def serve(made: Any, announce: Callable[[Any], None], wait: Callable[[float], bool], interval: float) -> None:
    """Run a service until it has to stop.

    Parameters
    ----------
    made : generator or Service
        The result of calling the service's function.
    announce : callable
        Told what the service tells its clients.
    wait : callable
        See `Host`.
    interval : float
        Seconds between two checks.

    Raises
    ------
    Exception
        The exception of a check: the service has failed.
    """
    service = made if isinstance(made, Service) else _Generator(made)
    value = service.start()
    try:
        announce(value)
        is_running = True
        while not wait(interval):
            is_running = is_running and service.check() is not False
    finally:
        service.stop()


def stop_flag(batch: str) -> str:
    """Return the name of the store's flag that tells a batch's service to stop."""
    return f"stop-{batch}"


class StoreWish:
    """Reads the wish to stop from the store, for workers that their leader cannot reach.

    A service also stops when its leader is dead or another one has taken over: that starts its own.
    """

    def __init__(self, store: Store, batch: str) -> None:
        self._store = store
        self._flag = stop_flag(batch)
        self._watch = Watch(store)
        self._epoch: int | None = None

    def wait(self, seconds: float) -> bool:
        """Look now, and if there is no wish after so many seconds."""
        if self._is_wished():
            return True
        time.sleep(seconds)
        return self._is_wished()

    def _is_wished(self) -> bool:
        with suppress(StoreError):  # what cannot be seen now may be seen the next time
            return self._store.has_flag(self._flag) or self._store.has_flag("kill") or self._is_orphan()
        return False

    def _is_orphan(self) -> bool:
        leader = self._watch.look()
        if leader is None:
            return True
        self._epoch = self._epoch or leader.epoch
        return leader.epoch != self._epoch
