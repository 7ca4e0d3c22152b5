"""Functions that run in dask workers: each job is a process of its own, so that it can be killed."""

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
"""Number of bytes of a job's output to keep."""

_AFTER_GO = 'read -r REPLY && exec "$0" "$@" < /dev/null'
"""A script that waits for a line on standard input before it runs the job; if this process dies first, it exits."""

_processes: dict[str, subprocess.Popen[bytes]] = {}
"""The processes of the jobs in this dask worker."""


def run_job(job: str, command: list[str], arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a job; return its exit status, or the negative number of a signal, and the end of its output."""
    program = command[0] or sys.executable
    with tempfile.TemporaryFile() as output, _leash() as leash:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _AFTER_GO, program, *command[1:], *arguments],
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
    """Create a pipe whose other end only this process holds, and yield its read end."""
    leash, ours = os.pipe()
    try:
        yield leash
    finally:
        os.close(leash)
        os.close(ours)


def _kill_with_us(leash: int, group: int) -> None:
    """Have the kernel kill a job and its descendants when this dask worker dies for any reason.

    When the write end of the pipe closes, the kernel sends SIGKILL, chosen by F_SETSIG, to the owner of the read end.
    """
    if sys.platform == "linux":
        fcntl.fcntl(leash, fcntl.F_SETOWN, -group)
        fcntl.fcntl(leash, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(leash, fcntl.F_SETFL, fcntl.fcntl(leash, fcntl.F_GETFL) | os.O_ASYNC)


def kill_jobs(jobs: list[str]) -> None:
    """Kill those of the jobs that run in this dask worker, with all their descendants."""
    for job in jobs:
        process = _processes.get(job)
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
