"""Start new Python processes for measurements, as a user's shell would."""

from __future__ import annotations

import os
import subprocess
import sys
import time

__all__ = ["run", "seconds"]


def run(*command: str, timeout: float = 1800) -> str:
    """Run Python with some arguments and return the last line of its standard output.

    The process may cache bytecode, as installed packages do, even if the environment forbids it. Otherwise every
    process would compile every module again.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [sys.executable, *command], stdout=subprocess.PIPE, check=True, timeout=timeout, env=environment, text=True
    )
    return (result.stdout.splitlines() or [""])[-1]


def seconds(*command: str) -> float:
    """Run Python with some arguments and return the seconds that the process took."""
    began = time.perf_counter()
    run(*command)
    return time.perf_counter() - began
