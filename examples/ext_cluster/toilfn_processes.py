"""Define a cluster whose jobs are processes of this machine. Each job has a folder, so that it can outlive its leader.

The folder of a job holds the name of its ``batch``, the ``pid`` of its process, its ``output``, and at the end its
exit ``status``.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

from toilfn.clusters.base import Batch, Capabilities, Cluster, JobId, JobState, RunContext, Update, exit_cause
from toilfn.errors import ClusterError
from toilfn.ids import Cause
from toilfn.resources import Capacity

__all__ = ["ProcessCluster"]

_SCRIPT = 'folder=$1; shift; "$@" >"$folder/output" 2>&1; echo $? >"$folder/part"; mv "$folder/part" "$folder/status"'


class ProcessCluster(Cluster):
    """Run each batch as a process.

    Parameters
    ----------
    folder : str, optional
        The directory for the folders of the jobs; by default, one for this user in the system's temporary directory.
    worker_command : sequence of str, optional
        The command that runs a batch; the URL of the store and the name of the batch are appended to it.
    poll_interval : float
        Seconds between two checks of the jobs.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()

    def __init__(
        self,
        folder: str | None = None,
        worker_command: Sequence[str] = (sys.executable, "-m", "toilfn.worker"),
        poll_interval: float = 0.2,
    ) -> None:
        self._root = Path(folder or Path(tempfile.gettempdir(), f"toilfn-processes-{os.getuid()}"))
        self._command = list(worker_command)
        self._interval = poll_interval
        self._live: set[JobId] = set()
        self._context: RunContext | None = None
        self._woken = threading.Event()

    def open(self, context: RunContext) -> None:
        if not re.fullmatch(r"[\w.-]+", context.workflow):
            raise ClusterError(
                f"cannot create a folder for the workflow {context.workflow!r}",
                hint="use only letters, digits, '_', '.' and '-' in the name",
            )
        self._context = context
        self._root.mkdir(mode=0o700, exist_ok=True)
        (self._root / context.workflow).mkdir(exist_ok=True)

    def capacity(self) -> Capacity:
        return Capacity(total=None, batches=os.cpu_count())

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        return [self._start(batch) for batch in batches]

    def _start(self, batch: Batch) -> JobId:
        assert self._context is not None, "open first"
        job = JobId(f"{self._context.workflow}/{uuid4().hex}")
        folder = self._root / job
        folder.mkdir()
        (folder / "batch").write_text(batch.name)
        words = ["sh", "-c", _SCRIPT, "sh", str(folder), *self._command, self._context.store, batch.name]
        environment = os.environ | self._context.environment
        process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        threading.Thread(target=process.wait, daemon=True).start()
        (folder / "pid").write_text(str(process.pid))
        self._live.add(job)
        return job

    def poll(self, timeout: float) -> list[Update]:
        end = time.monotonic() + timeout
        while not (updates := self._look()) and (left := end - time.monotonic()) > 0:
            if self._woken.wait(min(left, self._interval)):
                break
        self._woken.clear()
        return updates

    def _look(self) -> list[Update]:
        updates = [self._ended(job) for job in sorted(self._live) if not self._is_alive(job)]
        self._live -= {update.job for update in updates}
        return updates

    def _is_alive(self, job: JobId) -> bool:
        """Return whether a job is still running; a job without a process and without a status was killed."""
        if (self._root / job / "status").exists():
            return False
        try:
            state = (
                Path("/proc", (self._root / job / "pid").read_text(), "stat").read_text().rpartition(")")[2].split()[0]
            )
        except OSError:
            return False
        return state != "Z"

    def _ended(self, job: JobId) -> Update:
        folder = self._root / job
        try:
            status = int((folder / "status").read_text())
        except OSError:
            return Update(job, JobState.ENDED, Cause.LOST, "its process was killed")
        detail = f"exit status {status}; output: {(folder / 'output').read_text()[-1000:]}" if status else ""
        return Update(job, JobState.ENDED, exit_cause(status), detail)

    def kill(self, jobs: Iterable[JobId]) -> None:
        for job in jobs:
            with suppress(OSError):
                os.killpg(int((self._root / job / "pid").read_text()), signal.SIGKILL)

    def close(self) -> None:
        self.kill(self._live)
        self._live.clear()

    def list(self, workflow: str) -> dict[JobId, str]:
        jobs = [JobId(f"{workflow}/{path.parent.name}") for path in (self._root / workflow).glob("*/pid")]
        found = {job: (self._root / job / "batch").read_text() for job in jobs if self._is_alive(job)}
        self._live |= found.keys()
        return found

    def wake(self) -> None:
        self._woken.set()
