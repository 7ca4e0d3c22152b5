"""Named points in the write path at which a test can end the process.

``TOILFN_FAULT=objects.linked:3`` kills it with SIGKILL at the third passing of that point.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

__all__ = ["fault", "hook"]


def _killer() -> Callable[[str], None] | None:
    """Read the environment: the function that kills, or None when no fault is asked for."""
    point, _, passing = os.environ.get("TOILFN_FAULT", "").partition(":")
    if not point:
        return None
    left = int(passing or 1)

    def kill(name: str) -> None:
        nonlocal left
        left -= name == point
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


hook: Callable[[str], None] | None = _killer()
"""Called with the name of each point that is passed. Tests may put their own here."""


def fault(name: str) -> None:
    """Pass a point."""
    if hook is not None:
        hook(name)
