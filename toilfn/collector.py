"""The garbage collector steps aside while many objects are made that will stay."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Make many objects that stay, as a decorator or a context.

    The collector would look through all that was made so far again and again: a third of the time that a graph of
    ten thousand tasks takes to read and to name.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
