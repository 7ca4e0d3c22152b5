"""Named points in the write path at which a test can end the process.

``TOILFN_FAULT=objects.linked:3`` kills it with SIGKILL at the third passing of that point.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

__all__ = ["fault", "hook", "killer"]


def killer(plan: str) -> Callable[[str], None] | None:
    """Build the function that kills as planned, by ``POINT:PASSING``; None for an empty plan."""
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
"""Called with the name of each point that is passed. Tests may put their own here."""


def fault(name: str) -> None:
    """Pass a point."""
    if hook is not None:
        hook(name)
