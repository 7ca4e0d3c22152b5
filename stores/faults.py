"""Named points in the write path at which a test can kill the process.

``TOILFN_FAULT=objects.linked:3`` sends it SIGKILL when it passes that point for the third time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

__all__ = ["fault", "hook", "killer"]


def killer(plan: str) -> Callable[[str], None] | None:
    """Build a function that kills the process as a plan ``POINT:COUNT`` says; return None for an empty plan."""
    point, _, passing = plan.partition(":")
    if not point:
        return None
    left = int(passing or 1)

    def kill(name: str) -> None:
        nonlocal left
        left -= name == point
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


hook: Callable[[str], None] | None = killer(os.environ.get("TOILFN_FAULT", ""))
"""Called with the name of each point that the process passes. Tests may replace it."""


def fault(name: str) -> None:
    """Report that the process passes a named point: call `hook`, if it is set."""
    if hook is not None:
        hook(name)
