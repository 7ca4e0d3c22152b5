"""The leader's machine: reusable worker processes, whose memory and time are limited."""

from __future__ import annotations

import itertools
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypedDict

from toilfn.clusters.base import (
    FRESH_VARIABLE,
    Batch,
    Capabilities,
    Cluster,
    JobId,
    JobState,
    RunContext,
    Update,
    open_output,
    read_output,
    worker_command,
)
from toilfn.clusters.local import machine
from toilfn.clusters.local.channel import AttemptPage, CurrentAttempt, MessageSocket
from toilfn.clusters.local.forkserver import ForkServer, new_fork_server
from toilfn.clusters.local.machine import used_memory
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.protocol import DONE, READY, RECALL, Open, encode
from toilfn.resources import Accelerator, Capacity, Resources
from toilfn.units import format_duration, format_size, parse_disk, parse_memory

__all__ = [
    "Cleaner", "Launcher", "LocalCluster", "Process", "Verdict", "WorkerProcess", "exceeded_limit", "judge_exit",
    "launch",
]  # fmt: skip

_MOST_RETAINED = 512 * 2**20
"""Bytes of memory that a worker may retain from earlier tasks. If its last task requested more, that is the limit."""
_EXIT_TIME = 1.0
"""Seconds that a worker may take to end after its connection was closed."""


class Process(Protocol):
    """The part of the interface of `subprocess.Popen` that this module uses."""

    @property
    def pid(self) -> int:
        """The process id."""

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process ends, and return its exit status; raises `subprocess.TimeoutExpired`."""


Launcher = Callable[[tuple[int, ...], int, Mapping[str, str]], Process]
"""A function that starts a worker in a new session. Its arguments are the descriptors for ``--fd``, the descriptor for
output, and the environment."""


def launch(fds: tuple[int, ...], output: int, environment: Mapping[str, str]) -> Process:
    """Start a worker in a new Python interpreter; see `Launcher` for the arguments."""
    return subprocess.Popen(
        [*worker_command(sys.executable), "--fd", *map(str, fds)],
        stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        pass_fds=fds, env=dict(environment), start_new_session=True,
    )  # fmt: skip


class WorkerProcess:
    """A worker process. The constructor starts it; messages are sent to it once it is ready.

    The worker leads a session of its own, so that one signal reaches all processes that its tasks start. It dies with
    the leader: when the leader dies, its end of a pipe closes, and the kernel sends the worker a signal (see
    `toilfn.worker`).

    Parameters
    ----------
    store : str
        The store's URL.
    environment : mapping
        All environment variables of the process.
    launcher : callable
        Starts the process.
    """

    def __init__(self, store: str, environment: Mapping[str, str], launcher: Launcher = launch) -> None:
        ours, theirs = socket.socketpair()
        life, self._life = os.pipe()
        self._output = open_output()
        with tempfile.TemporaryFile() as page, theirs:
            self._page = AttemptPage(page.fileno())
            fds = (theirs.fileno(), life, page.fileno())
            try:
                self._process = launcher(fds, self._output, environment)
            finally:
                os.close(life)
        self._connection = MessageSocket(ours)
        self._first_base = 0
        self._waiting: list[bytes] | None = None
        path = [os.path.abspath(entry) if os.path.exists(entry or ".") else entry for entry in sys.path]
        # Tasks run in other directories, so relative paths must become absolute; and paths need not be valid Unicode.
        self.send(encode(Open(store, path)))
        self._waiting = []

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the process group."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the file descriptor to wait on for messages."""
        return self._connection.fileno()

    def send(self, message: bytes) -> None:
        """Send a message once the worker is ready. If the worker has died, `receive` notices that."""
        if self._waiting is not None:
            self._waiting.append(message)
            return
        with suppress(OSError):
            self._connection.send(message)

    def receive(self) -> list[bytes] | None:
        """Return the messages received from the worker; None if it has ended."""
        messages = self._connection.receive()
        if messages and messages[0] == READY:
            del messages[0]
            waiting, self._waiting = self._waiting or [], None
            for message in waiting:
                self.send(message)
        return messages

    def attempt(self) -> CurrentAttempt | None:
        """Return the worker's current attempt, or the one at its death.

        The result is None between two tasks, and while the worker is writing the next attempt.
        """
        first = self._page.read()
        return first if first == self._page.read() else None

    def retains_much_memory(self) -> bool:
        """Return whether the worker retains so much memory of earlier tasks that it should be replaced.

        Memory that a worker uses before a task starts is not charged to the task, so it must be limited here.
        """
        last = self._page.last()
        if not last.task.strip(b"\0"):
            return False
        self._first_base = self._first_base or last.base
        return last.base - self._first_base > max(_MOST_RETAINED, last.memory)

    def log(self) -> bytes:
        """Return the output of the current task."""
        attempt = self._page.read()
        return read_output(self._output, attempt.log if attempt else 0)

    def is_dead(self) -> bool:
        """Return whether the worker has ended and all its messages have been received.

        Usually `receive` notices the end, because the connection closes. It does not if a process that the worker has
        started holds the other end open.
        """
        if self._process.poll() is None:
            return False
        poller = select.poll()
        poller.register(self, select.POLLIN)
        return not poller.poll(0)

    def signal(self, number: int) -> None:
        """Send a signal to the worker and all processes it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def disconnect(self) -> None:
        """Close the connection, so that an idle worker ends."""
        self._connection.close()

    def end(self, patience: float = _EXIT_TIME) -> int:
        """Wait at most `patience` seconds until the worker ends, then kill it and all processes it has started.

        Returns
        -------
        int
            The exit status, or the negative number of the signal that killed the worker.
        """
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
        status = self._process.wait()
        self.signal(signal.SIGKILL)
        return status

    def close(self) -> None:
        """Free the leader's resources for a worker that has ended."""
        self._connection.close()
        self._page.close()
        os.close(self._life)
        os.close(self._output)


class Cleaner:
    """Cleans up after killed workers.

    The clean-up calls deferred functions, which are the user's code. So it runs in a separate process, where they can
    neither block nor crash the leader.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._next: Mapping[str, str] | None = None

    def request(self, environment: Mapping[str, str]) -> None:
        """Start a clean-up now, or, if one is running, another one after it."""
        self._next = environment
        self._start_next()

    def finish(self, patience: float = 10.0) -> None:
        """Wait until all requested clean-ups are done, at most `patience` seconds for each."""
        while self._process is not None:
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._start_next()

    def _start_next(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._process = None
        if self._next is not None:
            command = [*worker_command(sys.executable), "--sweep"]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=dict(self._next))
            self._next = None


Verdict = tuple[Cause, str]
"""Why a batch ended: the cause for the scheduler, and an explanation for users."""

_SHORT = 0.02
"""Seconds for which a task runs before its limits are checked; checks of many short tasks would cost too much time."""

_CRASH_SIGNALS = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP"}
"""Signals that are caused by errors of the program itself."""


def exceeded_limit(worker: WorkerProcess, *, memory: bool = True) -> Verdict | None:
    """Return which limit a worker's task has exceeded, if any. If `memory` is false, its memory is not checked."""
    attempt = worker.attempt()
    if attempt is None:
        return None
    elapsed = time.monotonic() - attempt.began
    if elapsed < _SHORT:
        return None
    verdict = None
    if attempt.walltime and elapsed > attempt.walltime:
        verdict = Cause.WALLTIME, f"took longer than its walltime of {format_duration(attempt.walltime)}"
    elif memory and attempt.memory:
        limit = attempt.base + attempt.spare + attempt.memory
        if (used := used_memory(worker.pid, limit)) > limit:
            verdict = Cause.MEMORY, _too_much(used - attempt.base, attempt)
    return verdict if worker.attempt() == attempt else None  # the worker may have started another task meanwhile


def _too_much(used: int, attempt: CurrentAttempt) -> str:
    """Describe the memory that a task used, without that of its worker."""
    asked, base = format_size(attempt.memory), format_size(attempt.base)
    more = f" (not counting the {base} of its worker)" if attempt.base else ""
    return f"used {format_size(used)} of memory but requested {asked}{more}"


def judge_exit(status: int, *, in_task: bool) -> Verdict:
    """Return why a worker ended although it was not asked to end.

    Parameters
    ----------
    status : int
        The exit status, or the negative number of the signal that killed the worker.
    in_task : bool
        Whether the worker was running a task.
    """
    where = "while running the task" if in_task else "between two tasks"
    if status >= 0:
        return (Cause.ERROR if in_task else Cause.LOST), f"the worker process ended with exit status {status} {where}"
    name = _signal_name(-status)
    hint = "; perhaps the machine ran out of memory" if name == "SIGKILL" else ""
    cause = Cause.ERROR if in_task and name in _CRASH_SIGNALS else Cause.LOST
    return cause, f"the worker process was killed by {name} {where}{hint}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_CHECK = 0.05
"""Seconds between two checks of the resources that workers use."""

_CHECK_SHARE = 20
"""After a check, the leader waits at least this many times as long as the check took, so that checks of many workers
take only a small part of its time."""

_LAST_ANSWERS = 0.5
"""Seconds to wait at the end of a run for workers to report that their batches are done."""

_GRACE = 2.0
"""Seconds between asking a worker to end and killing it."""

_DETAIL = 4096
"""Number of characters of a dead worker's log to show."""


@dataclass(slots=True)
class _Job:
    id: JobId
    worker: WorkerProcess
    devices: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    """Why the job was ended early."""
    kill_at: float = float("inf")


class LocalSettings(TypedDict, total=False):
    """Settings of `LocalCluster` in files and as flags.

    Parameters
    ----------
    cores : float
        Cores to use on this machine. Default: all that this process may use.
    memory : str or float
        Memory to use on this machine, such as ``"8G"``. Default: all memory.
    disk : str or float
        Disk space to use on this machine, such as ``"100G"``. Default: all free disk space.
    watch_memory : bool
        Whether to kill a task that uses more memory than it requested. Default: true.
    """

    cores: float
    memory: str | float
    disk: str | float
    watch_memory: bool


class LocalCluster(Cluster):
    """Runs tasks in processes of this machine.

    Parameters
    ----------
    workers : int, optional
        Maximum number of batches at the same time; by default as many as the resources allow.
    cores : float, optional
        Cores to use; by default all that this process may use.
    memory, disk : int or str, optional
        Bytes to use, or a text such as ``"8G"``; by default all memory and all free disk space.
    launcher : callable, optional
        Starts worker processes, such as a `ForkServer` or `launch`; by default, they are forked from a new Python
        interpreter that has loaded only the worker's own code.
    watch_memory : bool
        Whether to kill a task that uses more memory than it requested.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        direct=True, memory_limits=True, walltime_limits=True, accelerators=True, preemption=True
    )
    not_recorded = frozenset({"launcher"})

    holds_worker = False

    def __init__(
        self,
        workers: int | None = None,
        cores: float | None = None,
        memory: int | str | None = None,
        disk: int | str | None = None,
        *,
        launcher: Launcher | None = None,
        watch_memory: bool = True,
    ) -> None:
        if workers is not None and (type(workers) is not int or workers < 1):
            raise InputError(f"LocalCluster: workers={workers!r} is not a whole number above 0")
        if cores is not None and (type(cores) not in (int, float) or not cores > 0):
            raise InputError(f"LocalCluster: cores={cores!r} is not a number above 0")
        self._workers = workers
        self._launcher = launcher
        self._watch_memory = watch_memory
        self._cores = cores
        self._memory = None if memory is None else parse_memory(memory)
        self._disk = None if disk is None else parse_disk(disk)
        self._context: RunContext | None = None
        self._fork_server: ForkServer | None = None
        self._busy: dict[JobId, _Job] = {}
        self._idle: list[WorkerProcess] = []
        self._leaving: list[WorkerProcess] = []
        self._failed: list[Update] = []
        self._cleaner = Cleaner()
        self._woken = False
        self._numbers = itertools.count(1)

    def warm_up(self, environment: Mapping[str, str]) -> None:
        """Start the interpreter from which workers will be forked."""
        if self._launcher is None and self._context is None and self._fork_server is None:
            with suppress(OSError):  # the system has no memory or processes left: each worker is started alone
                self._fork_server = new_fork_server(environment)

    def cool_down(self) -> None:
        """End that interpreter if the cluster was not opened."""
        if self._context is None and self._fork_server is not None:
            self._fork_server.close()
            self._fork_server = None

    def open(self, context: RunContext) -> None:
        """Determine the machine's resources. Workers are started later, when there is work."""
        if self._context is not None:
            raise ClusterError(
                "this LocalCluster is in use by another run", hint="create one cluster object for each run"
            )
        environment = {**os.environ, **context.environment}
        self.warm_up(environment)
        self._context = context
        self._environment = environment
        self._next_look = 0.0
        self._devices = machine.nvidia_devices()
        self._total = self._resources()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)

    def _resources(self) -> Resources:
        count = len(self._devices)
        return Resources(
            cores=machine.cores() if self._cores is None else self._cores,
            memory=machine.memory() if self._memory is None else self._memory,
            disk=machine.disk() if self._disk is None else self._disk,
            accelerators=(Accelerator(count, brand="nvidia", api="cuda"),) if count else (),
        )

    def capacity(self) -> Capacity:
        """Return the resources given to the constructor, else those of the machine."""
        return Capacity(total=self._total, largest=self._total, batches=self._workers)

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Send each batch to an idle worker, or to a new one."""
        return [self._start(batch) for batch in batches]

    def _start(self, batch: Batch) -> JobId:
        id_ = JobId(str(next(self._numbers)))
        count = sum(accelerator.count for accelerator in batch.resources.accelerators)
        devices, self._devices = self._devices[:count], self._devices[count:]
        try:
            worker = self._new_worker(devices) if devices or not self._idle else self._idle.pop()
        except OSError as error:
            self._devices += devices
            self._failed.append(Update(id_, JobState.ENDED, Cause.LOST, f"cannot start a worker process: {error}"))
            return id_
        job = self._busy[id_] = _Job(id_, worker, devices)
        self._selector.modify(worker, selectors.EVENT_READ, job)
        worker.send(batch.message)
        return id_

    def _new_worker(self, devices: list[str]) -> WorkerProcess:
        assert self._context is not None
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
        worker = WorkerProcess(self._context.store, {**self._environment, **visible}, self._launcher or self._launch)
        self._selector.register(worker, selectors.EVENT_READ)
        return worker

    def _launch(self, fds: tuple[int, ...], output: int, environment: Mapping[str, str]) -> Process:
        """Fork a worker or, if that is impossible, start it in a new interpreter."""
        if self._fork_server is not None:
            with suppress(OSError):  # the fork server was killed, or the environment is too large for a message
                return self._fork_server(fds, output, environment)
        return launch(fds, output, environment)

    def poll(self, timeout: float) -> list[Update]:
        """Wait for messages of the workers, and check their limits. See `Cluster.poll`."""
        deadline = time.monotonic() + timeout
        while True:
            updates, self._failed = self._failed, []
            remaining = max(0.0, deadline - time.monotonic())
            updates += self._listen(0.0 if updates else remaining)
            if updates or remaining == 0.0 or self._woken:
                return updates

    def _listen(self, timeout: float) -> list[Update]:
        if self._busy:
            timeout = min(timeout, max(0.0, self._next_look - time.monotonic()))
        updates: list[Update] = []
        self._woken = False
        for key, _ in self._selector.select(timeout):
            if key.fd == self._wake_read:
                self._woken = bool(os.read(self._wake_read, 4096))
            elif key.data is not None:
                updates += self._receive(key.data)
            elif isinstance(worker := key.fileobj, WorkerProcess) and worker.receive() is None:
                self._idle.remove(worker)
                self._remove(worker)
        if self._busy and time.monotonic() >= self._next_look:
            updates += self._check()
        return updates

    def _receive(self, job: _Job) -> list[Update]:
        messages = job.worker.receive()
        if messages is None:
            return [self._ended(job)]
        if DONE not in messages:
            return [Update(job.id, JobState.RUNNING, answers=tuple(messages))] if messages else []
        messages.remove(DONE)
        self._free(job)
        is_reusable = not job.devices and FRESH_VARIABLE not in self._environment
        if job.verdict is None and is_reusable and not job.worker.retains_much_memory():
            self._selector.modify(job.worker, selectors.EVENT_READ, None)
            self._idle.append(job.worker)
        else:  # ended early, limited to one task, bound to its devices, or using too much memory
            self._selector.unregister(job.worker)
            job.worker.disconnect()
            self._leaving.append(job.worker)
        return [Update(job.id, JobState.ENDED, answers=tuple(messages))]

    def _ended(self, job: _Job) -> Update:
        """Build the update for a job whose worker has closed its connection: it has died or is about to exit."""
        self._free(job)
        status, attempt, log = job.worker.end(), job.worker.attempt(), job.worker.log()
        cause, detail = job.verdict or judge_exit(status, in_task=attempt is not None)
        if attempt is None and log and job.verdict is None:
            detail += ": " + log.decode(errors="replace").strip()[-_DETAIL:]
        self._remove(job.worker)
        if attempt is None:
            return Update(job.id, JobState.ENDED, cause, detail, log=log)
        return Update(job.id, JobState.ENDED, cause, detail, running=attempt.task, log=log, since=attempt.start)

    def _free(self, job: _Job) -> None:
        del self._busy[job.id]
        self._devices += job.devices

    def _remove(self, worker: WorkerProcess) -> None:
        self._selector.unregister(worker)
        worker.end()
        worker.close()
        self._cleaner.request(self._environment)

    def _check(self) -> list[Update]:
        """Check that each busy worker is alive, keeps to its limits, and has ended if it was asked to."""
        start = time.monotonic()
        updates = []
        for job in list(self._busy.values()):
            if job.worker.is_dead():
                updates.append(self._ended(job))
            elif start > job.kill_at:
                job.worker.signal(signal.SIGKILL)
            elif job.verdict is None and (verdict := self._verdict(job)) is not None:
                self._end_early(job, verdict)
        now = time.monotonic()
        self._next_look = now + max(_CHECK, _CHECK_SHARE * (now - start))
        return updates

    def _verdict(self, job: _Job) -> Verdict | None:
        return exceeded_limit(job.worker, memory=self._watch_memory)

    def _end_early(self, job: _Job, verdict: Verdict) -> None:
        job.verdict = verdict
        job.kill_at = time.monotonic() + _GRACE
        # A process that uses too much memory would use even more while it shuts down.
        job.worker.signal(signal.SIGKILL if verdict[0] is Cause.MEMORY else signal.SIGTERM)

    def kill(self, jobs: Iterable[JobId]) -> None:
        """Ask workers to end, with all processes that their tasks have started, and kill them after two seconds."""
        for id_ in jobs:
            job = self._busy.get(id_)
            if job is not None and job.verdict is None:
                self._end_early(job, (Cause.LOST, "killed on request"))

    def recall(self, job: JobId) -> None:
        """Ask the worker to return the tasks it has not started."""
        if job in self._busy:
            self._busy[job].worker.send(RECALL)

    def tell(self, job: JobId, message: bytes) -> None:
        """Send a message to the worker."""
        if job in self._busy:
            self._busy[job].worker.send(message)

    def wake(self) -> None:
        """Wake a `poll` that is waiting in another thread."""
        if self._context is not None:
            with suppress(BlockingIOError):
                os.write(self._wake_write, b"!")

    def _await_last_answers(self) -> None:
        """Wait until workers without a current task report that their batches are done.

        A run ends as soon as it has the outcomes of all tasks, which arrive shortly before these reports. Without this
        wait, `close` would kill workers that are about to finish.
        """
        deadline = time.monotonic() + _LAST_ANSWERS
        while any(job.worker.attempt() is None for job in self._busy.values()):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            self._listen(remaining)

    def close(self) -> None:
        """End all workers and the processes they have started, and wait until their temporary files are removed."""
        if self._context is None:
            return
        self._await_last_answers()
        self.kill(list(self._busy))
        for worker in self._idle:
            worker.disconnect()
        deadline = time.monotonic() + _GRACE
        for worker in (*self._idle, *self._leaving, *(job.worker for job in self._busy.values())):
            worker.end(max(0.0, deadline - time.monotonic()))
            worker.close()
        if self._busy:
            self._cleaner.request(self._environment)
        self._cleaner.finish()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._busy, self._idle, self._leaving, self._failed, self._context = {}, [], [], [], None
        self.cool_down()
