"""Processes that a task forks: what signals do in this process, they do not do in those."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

__all__ = ["in_forked_children"]


def in_forked_children(forget: Callable[[], None]) -> None:
    """Have a function that removes a handler of SIGTERM called in each process that this one forks.

    SIGTERM waits until then: one that came before would call the handler, or be lost with it.
    """
    masks = threading.local()

    def block() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def begin() -> None:
        forget()
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=begin)
