"""The interface that every cluster implements.

A cluster takes batches of tasks, runs each as one job, and reports how the job ended. It knows nothing of graphs,
promises or outcomes: a batch is a message for `toilfn.worker`, and the worker's answers are passed on unchanged.

There are two kinds of clusters. A *direct* cluster (such as `LocalCluster`) exchanges messages with its workers
itself. Any other cluster runs `worker_command` with the arguments STORE and BATCH; that worker reads the batch from
the store and writes its answers there.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NewType

from toilfn.errors import ClusterError
from toilfn.ids import Cause, TaskId
from toilfn.resources import Capacity, Resources

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "FRESH_VARIABLE", "LOG_LIMIT", "NOT_MINE", "OUTPUT_VARIABLE", "Batch", "Capabilities", "Cluster", "ClusterNotes",
    "JobId", "JobState", "Refusal", "RunContext", "SubmissionError", "Update", "Verdict", "ended", "exceeded",
    "exit_cause", "open_output", "queued", "read_output", "running", "unknown", "worker_command",
]  # fmt: skip

FRESH_VARIABLE = "TOILFN_FRESH_PROCESS"
"""The environment variable that tells workers to run each attempt in a new process."""

OUTPUT_VARIABLE = "TOILFN_OUTPUT_FILE"
"""The environment variable that names the file to which a worker writes its task's output. It is for systems whose jobs
print to a pipe: the file still has the output after the worker was killed."""

_START = "import sys; sys.path[:] = filter(None, sys.path); from toilfn.worker.main import start; start()"


def worker_command(python: str) -> tuple[str, ...]:
    """Return the command that runs a batch; callers append the store's URL and the batch's name.

    It is not ``python -m toilfn.worker``: Python would then look for modules in the current directory first, and import
    a user's file ``random.py`` instead of the standard library's. The option ``-P`` exists only since Python 3.11.
    """
    return (python, "-c", _START)


JobId = NewType("JobId", str)
"""The cluster's id of a job, such as ``"4711_3"``."""


class JobState(str, Enum):
    """The state of a job, as far as the cluster knows it."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    """The job will no longer run; `Update.cause` says how it ended."""
    UNKNOWN = "unknown"
    """The cluster does not know the job at present. This never counts as success."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The features of a cluster.

    Attributes
    ----------
    direct : bool
        The cluster exchanges messages with its workers itself, not through the store.
    arrays : bool
        Many batches of one shape can be submitted at once.
    memory_limits, walltime_limits : bool
        The system ends a job that exceeds its request.
    accelerators, preemption : bool
        The cluster supports these requirements.
    """

    direct: bool = False
    arrays: bool = False
    memory_limits: bool = False
    walltime_limits: bool = False
    accelerators: bool = False
    preemption: bool = False


class ClusterNotes:
    """State that a cluster saves for a later leader, such as a framework's id. This class keeps it in memory only."""

    def __init__(self) -> None:
        self._notes: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """Return a note; empty if there is none."""
        return self._notes.get(name, b"")

    def write(self, name: str, data: bytes) -> None:
        """Save a note, replacing an earlier one of that name; an empty value deletes it."""
        self._notes[name] = data


def _ignore(error: str) -> None:
    """Ignore a report of an outage; the default of `RunContext.outage`."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """The information that a leader passes to a cluster when it opens it.

    Attributes
    ----------
    store : str
        The store's URL, as workers must open it.
    workflow : str
        A name unique to the store and valid in job names. It is part of every job's name, so that jobs can be found.
    environment : dict
        Environment variables for workers.
    notes : ClusterNotes
        State kept in the store for later leaders.
    log_directory : str
        The folder for job scripts and job output, unless the cluster's own settings name one; empty means the cluster's
        default.
    keep_output : bool
        Whether to keep what jobs print outside of tasks until the jobs end successfully.
    outage : callable
        Called with an error message when the system stops answering, and with an empty text when it answers again.
    """

    store: str
    workflow: str
    environment: dict[str, str] = field(default_factory=dict)
    notes: ClusterNotes = field(default_factory=ClusterNotes, compare=False)
    log_directory: str = ""
    keep_output: bool = True
    outage: Callable[[str], None] = field(default=_ignore, compare=False)


class Refusal(str, Enum):
    """Why a submission was refused, and so whether the system may accept the same job later."""

    FINAL = "final"
    """The system will never accept such a job."""
    FULL = "full"
    """The system accepts no more jobs at present."""
    PASSING = "passing"
    """Unknown: the system may accept the same job later."""
    AWAY = "away"
    """The system does not answer."""


class SubmissionError(ClusterError):
    """The system refused some of the submitted batches.

    Parameters
    ----------
    text : str
        The message, with the system's own message and the rejected request.
    words : str
        The system's own message.
    refusal : Refusal
    submitted : mapping
        The batches submitted before the refusal, and their jobs, which are alive.
    """

    def __init__(self, text: str, words: str, refusal: Refusal, submitted: Mapping[str, JobId]) -> None:
        super().__init__(text)
        self.words = words
        self.refusal = refusal
        self.submitted = submitted


@dataclass(frozen=True, slots=True)
class Batch:
    """Work for one job.

    Attributes
    ----------
    name : str
        A name unique in the store; unless the cluster is direct, the worker's BATCH argument.
    label : str
        For people: the name of the first task, and the number of tasks.
    resources : Resources
        The job's requirements.
    message : bytes
        The message for the worker, if the cluster is direct; else empty.
    is_service : bool
        Whether the batch is a service, which runs until it receives the order to stop.
    """

    name: str
    label: str
    resources: Resources
    message: bytes = b""
    is_service: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """A change of a job's state.

    Attributes
    ----------
    job : JobId
    state : JobState
    cause : Cause or None
        For an ended job: why it failed, or None if the worker reported success.
    detail : str
        Details from the cluster: exit status, signal, reason, location of the log.
    is_held : bool
        For a queued job: whether it cannot start until a user or an administrator acts; `detail` has the reason.
    is_ending : bool
        For a job that has not ended: whether its processes have ended or are being ended, so that only the system's own
        clean-up is left. Tasks whose outcomes it has reported are done; others must not be started again yet.
    answers : tuple of bytes
        For a direct cluster: the worker's messages, in order.
    running : TaskId or None
        For an ended job: the task that was running, if known.
    log : bytes
        The output of that task.
    since : float
        When that task started, in seconds since the epoch; 0 if unknown.
    """

    job: JobId
    state: JobState
    cause: Cause | None = None
    detail: str = ""
    answers: tuple[bytes, ...] = ()
    running: TaskId | None = None
    log: bytes = b""
    since: float = 0.0
    is_held: bool = False
    is_ending: bool = False


class Cluster(ABC):
    """A place where batches run.

    A constructor only takes settings: it starts no process and sends no request; `open` does.
    A cluster can be opened again after it was closed.

    A leader calls all methods from one thread, with three exceptions: any thread may call `wake` and `nodes` at any
    time, and if `submits_beside` is true, `submit` runs in a second thread.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    constructor_arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    """The constructor's arguments, for the record of a run; see `toilfn.clusters.resume`."""
    not_recorded: ClassVar[frozenset[str]] = frozenset()
    """Parameters of the constructor that make sense only in this process; a resumed run does not get them."""
    poll_interval: float = 2.0
    """Seconds between two queries of a system that must be polled."""
    has_left_jobs: bool = False
    """After `close`: whether jobs may still be running because the system did not end them."""
    submits_beside: bool = False
    """Whether `submit` may run in a second thread while the leader's thread calls `poll`, `kill` and other methods."""
    holds_worker: bool = True
    """Whether the memory requested for a batch must include the worker process, not only its tasks."""
    gather: float = 0.5
    """For a cluster with its own queue: seconds for which a ready task waits, so that tasks that become ready in the
    meantime are submitted together with it. About as long as one submission takes."""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Create a cluster, and save the constructor's arguments."""
        made = super().__new__(cls)
        made.constructor_arguments = (args, settings)
        return made

    @abstractmethod
    def open(self, context: RunContext) -> None:
        """Prepare to run batches.

        Raises
        ------
        ClusterError
            If the system cannot be reached. The hint says what to do.
        """

    @abstractmethod
    def capacity(self) -> Capacity:
        """Return how much can run at the same time."""

    @abstractmethod
    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start one job for each batch, and return the jobs in the order of the batches.

        Raises
        ------
        ClusterError
            If the system refuses a job. The error has the system's message and the jobs submitted so far.
        """

    @abstractmethod
    def poll(self, timeout: float) -> list[Update]:
        """Wait at most `timeout` seconds for updates, and return them."""

    @abstractmethod
    def kill(self, jobs: Iterable[JobId]) -> None:
        """End jobs. `poll` returns an `Update` for each of them; a job that no longer exists is ignored."""

    @abstractmethod
    def close(self) -> None:
        """End all jobs of this leader, and free all resources. May be called twice."""

    def nodes(self) -> dict[str, int] | None:
        """Count the system's nodes by their state, in the system's words; None if they are not known.

        Another thread may call this at any time.
        """
        return None

    def warm_up(self, environment: Mapping[str, str]) -> None:
        """Begin what takes long before the first job can run, without waiting for it; the default is nothing.

        The leader calls this as soon as it has the lease, and `open` when it has written the graph.

        Parameters
        ----------
        environment : mapping
            The environment variables of this process, with those that the user has set for tasks.
        """
        return

    def cool_down(self) -> None:
        """Undo `warm_up` if the cluster was not opened."""
        return

    def leave(self) -> None:
        """Free all resources, but let jobs that can outlive this process continue, for the next leader."""
        self.close()

    def list(self, workflow: str) -> dict[JobId, str]:
        """Return the live jobs of a workflow, with the names of their batches, for a resumed run."""
        return {}

    def address(self) -> dict[str, Any] | None:
        """Return the constructor's arguments for a cluster object that finds this one's jobs with `list`.

        The arguments are plain values, which are kept in the store: no secrets, and nothing that only matters for new
        jobs. None if all jobs end with this process.
        """
        return None if self.capabilities.direct else {}

    def has_other_machines(self) -> bool | None:
        """Return whether jobs may run on other machines, and so need a shared folder; None if that is unknown."""
        return False

    def recall(self, job: JobId) -> None:
        """Ask a worker to return the tasks that it has not started. A cluster may ignore this."""

    def tell(self, job: JobId, message: bytes) -> None:
        """For a direct cluster: send a message to a job's worker, if it is still running."""

    def wake(self) -> None:
        """Wake a `poll` that is waiting in another thread."""


NOT_MINE = 75
"""The exit status of a worker whose batch another worker has already answered (EX_TEMPFAIL of sysexits.h)."""


class Verdict(NamedTuple):
    """The meaning of a state, a reason or an exit status of a batch system.

    Attributes
    ----------
    state : JobState
    cause : Cause or None
        For a job that has ended: why it failed; None if it was successful.
    meaning : str
        The manual's explanation, in short.
    source : str
        The page of the manual, or the file of the system's source code, that documents it.
    """

    state: JobState
    cause: Cause | None
    meaning: str
    source: str


def queued(meaning: str, source: str) -> Verdict:
    """Build the row for a job that waits."""
    return Verdict(JobState.QUEUED, None, meaning, source)


def running(meaning: str, source: str) -> Verdict:
    """Build the row for a job that runs, or occupies a node without running."""
    return Verdict(JobState.RUNNING, None, meaning, source)


def unknown(meaning: str, source: str) -> Verdict:
    """Build the row for a job of which the system itself does not know whether it runs."""
    return Verdict(JobState.UNKNOWN, None, meaning, source)


def ended(cause: Cause | None, meaning: str, source: str) -> Verdict:
    """Build the row for a job that has ended."""
    return Verdict(JobState.ENDED, cause, meaning, source)


_LIMITS = (
    (Cause.MEMORY, re.compile(r"memory|\bmem\b|\bRSS\b|ResidentSetSize|ImageSize|\bOOM\b|swap", re.IGNORECASE)),
    (Cause.WALLTIME, re.compile(r"wall ?time|wall ?clock|run ?time|too long|duration|time limit", re.IGNORECASE)),
    (Cause.ERROR, re.compile(r"\bdisk|DiskUsage", re.IGNORECASE)),
)


def exceeded(text: str) -> Cause | None:
    """Return the cause for the limit that an administrator's message names, such as memory or walltime.

    Policies of a site end jobs with a text instead of a code. The result is None if the text names no known limit.
    """
    return next((cause for cause, words in _LIMITS if words.search(text)), None)


def exit_cause(status: int, signal: int = 0) -> Cause | None:
    """Return why a job failed, from the end of its process; None if it was successful.

    Parameters
    ----------
    status : int
        The exit status. As in shells, a status above 128 means a signal.
    signal : int
        The signal that ended the process, or 0.
    """
    signal = signal or max(0, status - 128)
    if signal in (9, 15):  # SIGKILL or SIGTERM come from the system or an administrator, hardly from the task itself
        return Cause.LOST
    if status == NOT_MINE:  # the system lost the first worker and restarted the job
        return Cause.LOST
    return Cause.ERROR if status or signal else None


LOG_LIMIT = 64 * 1024
"""Default number of bytes of an attempt's log to keep."""


def open_output() -> int:
    """Create a temporary file for a worker's output, and return its descriptor.

    Every write appends, so that several processes can share the descriptor without overwriting each other's output.
    """
    with tempfile.TemporaryFile() as file:
        fd = os.dup(file.fileno())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    return fd


def read_output(fd: int, start: int, limit: int = LOG_LIMIT) -> bytes:
    """Read from an offset to the end; if that is more than `limit` bytes, return the beginning and the end."""
    end = os.lseek(fd, 0, os.SEEK_END)
    if end - start <= limit:
        return os.pread(fd, max(end - start, 0), start)
    mark = f"\n[... {end - start - limit} or more bytes left out ...]\n".encode()
    half = max(0, limit - len(mark)) // 2
    return os.pread(fd, half, start) + mark + os.pread(fd, half, end - half)
