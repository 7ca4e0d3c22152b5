"""Calls of drivers with a limit of time: many drivers wait for ever for a server that says nothing."""

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
"""Bytes a second of the slowest transfer that is waited for where a driver does not say how far it is."""

_LOOK = 1.0
"""Seconds between two looks at how far a call is."""


class NoAnswerError(TimeoutError):
    """A driver did not come back in time. Its thread stays until the driver gives up or the process ends."""


def _nothing() -> None:
    return None


def limited(
    limit: float,
    function: Callable[[], T],
    *,
    progress: Callable[[], object] = _nothing,
    more: Callable[[], float] | None = None,
) -> T:
    """Call a driver, which may have no limit of time of its own.

    Parameters
    ----------
    limit : float
        Seconds that it may take without progress.
    function : callable
    progress : callable
        Returns something else for as long as there is progress.
    more : callable, optional
        Returns further seconds; asked once, when the limit is reached.

    Raises
    ------
    NoAnswerError
        If there is no answer in time.
    """
    ended: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            ended.put((function(), None))
        except BaseException as error:
            ended.put((None, error))

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
    return value  # type: ignore[return-value]  # what the function has returned
