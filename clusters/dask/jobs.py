"""Code that runs inside the workers of dask.distributed: each job is a process of its own, so that it can be killed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["kill_jobs", "run_job"]

_TAIL = 1000
"""How many bytes of a job's output are kept."""

_WHEN_TOLD = 'read -r REPLY && exec "$0" "$@" < /dev/null'
"""A script that runs a job once it can be killed with us; if we die before that, it ends."""

_processes: dict[str, subprocess.Popen[bytes]] = {}
"""The jobs that this dask worker runs."""


def run_job(job: str, command: list[str], arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a job; give its exit status, or the negative number of a signal, and the end of its output."""
    program = command[0] or sys.executable
    with tempfile.TemporaryFile() as output, _leash() as leash:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _WHEN_TOLD, program, *command[1:], *arguments],
            env=os.environ | environment, stdin=subprocess.PIPE, stdout=output, stderr=output,
            start_new_session=True, pass_fds=[leash],
        )  # fmt: skip
        _processes[job] = process
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError), process.stdin as go:
                _kill_with_us(leash, process.pid)
                go.write(b"\n")
            status = process.wait()
        finally:
            del _processes[job]
        output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL))
        return status, output.read().decode(errors="replace").strip()


@contextmanager
def _leash() -> Iterator[int]:
    """Build a pipe that only this process holds the other end of."""
    leash, ours = os.pipe()
    try:
        yield leash
    finally:
        os.close(leash)
        os.close(ours)


def _kill_with_us(leash: int, group: int) -> None:
    """Have the system kill a job, and all that it started, when this dask worker dies, however it dies."""
    if sys.platform == "linux":
        fcntl.fcntl(leash, fcntl.F_SETOWN, -group)
        fcntl.fcntl(leash, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(leash, fcntl.F_SETFL, fcntl.fcntl(leash, fcntl.F_GETFL) | os.O_ASYNC)


def kill_jobs(jobs: list[str]) -> None:
    """End jobs, if they run here, and all that they started."""
    for job in jobs:
        process = _processes.get(job)
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
