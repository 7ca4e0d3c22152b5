"""Fresh processes for measurements, as a user's shell would start them."""

from __future__ import annotations

import os
import subprocess
import sys
import time

__all__ = ["run", "seconds"]


def run(*command: str, timeout: float = 1800) -> str:
    """Run Python with some arguments and give what it printed last on standard output.

    Bytecode may be cached, as it is for installed packages: some test environments forbid it, and
    then every process compiles every module again.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [sys.executable, *command], stdout=subprocess.PIPE, check=True, timeout=timeout, env=environment, text=True
    )
    return (result.stdout.splitlines() or [""])[-1]


def seconds(*command: str) -> float:
    """How long a process takes."""
    began = time.perf_counter()
    run(*command)
    return time.perf_counter() - began
