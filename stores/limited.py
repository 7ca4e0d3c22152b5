"""Call storage drivers with a time limit, since many of them wait forever for a server that does not answer."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["SLOWEST", "NoAnswerError", "limited"]

T = TypeVar("T")

SLOWEST = 100_000
"""The slowest accepted transfer, in bytes per second. It limits the time of a driver that reports no progress."""

_LOOK = 1.0
"""Seconds between two checks of a call's progress."""


class NoAnswerError(TimeoutError):
    """A driver did not return in time. Its thread cannot be stopped; it ends when the driver gives up."""


def _nothing() -> None:
    return None


def limited(
    limit: float,
    function: Callable[[], T],
    *,
    progress: Callable[[], object] = _nothing,
    more: Callable[[], float] | None = None,
) -> T:
    """Call a function of a driver in a thread, and wait for its result for a limited time.

    Parameters
    ----------
    limit : float
        The number of seconds that the call may take without progress.
    function : callable
        The function to call.
    progress : callable
        Returns a value that changes as long as the call makes progress, such as a number of bytes.
    more : callable, optional
        Returns a number of seconds by which to extend the limit. It is called once, when the limit is reached.

    Raises
    ------
    NoAnswerError
        If the function does not return in time.
    """
    ended: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            ended.put((function(), None))
        except BaseException as error:
            ended.put((None, error))

    # Not a thread of a pool: at exit, Python would wait for a pool whose call never returns.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(call,), name="toilfn-driver", daemon=True).start()
    seen, since = progress(), time.monotonic()
    while True:
        try:
            value, error = ended.get(timeout=min(limit, _LOOK))
            break
        except queue.Empty:
            now = progress()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > limit:
                if more is None:
                    raise NoAnswerError(f"no answer for {limit:.0f} s") from None
                limit, more = limit + more(), None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # without an error, this is the result of the function
