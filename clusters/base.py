"""The interface that every cluster implements.

A cluster takes batches of tasks, runs each as one job, and says how the job ended. It knows
nothing of graphs, promises or outcomes: a batch is a message for `toilfn.worker`, and what the
worker answers is handed on as it came.

Two kinds of cluster exist. A *direct* one (`LocalCluster`) carries messages to its workers and
their answers back itself. Any other starts `worker_command` with STORE and BATCH somewhere,
and the worker reads the batch from the store and puts its answers there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, NewType

from toilfn.errors import ClusterError
from toilfn.ids import Cause, TaskId
from toilfn.resources import Capacity, Resources

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "FRESH_VARIABLE",
    "OUTPUT_VARIABLE",
    "Batch",
    "Capabilities",
    "Cluster",
    "ClusterNotes",
    "JobId",
    "JobState",
    "Refusal",
    "RunContext",
    "SubmissionError",
    "Update",
    "worker_command",
]

FRESH_VARIABLE = "TOILFN_FRESH_PROCESS"
"""The environment variable that workers find where each attempt is to have a process of its own."""

OUTPUT_VARIABLE = "TOILFN_OUTPUT_FILE"
"""The environment variable that names a file where a worker keeps what its task has printed, so that this outlives it:
for systems whose jobs print into a pipe."""

_START = "import sys; sys.path[:] = filter(None, sys.path); from toilfn.worker.main import start; start()"


def worker_command(python: str) -> tuple[str, ...]:
    """Return the command that runs a batch; the store's URL and the batch's name come after it.

    It is not ``python -m toilfn.worker``: Python would look for modules in the current directory first, and a file
    ``random.py`` among somebody's data would be taken for Python's own. The option ``-P`` exists from Python 3.11 on.
    """
    return (python, "-c", _START)


JobId = NewType("JobId", str)
"""The cluster's own name for a job, such as ``"4711_3"``."""


class JobState(str, Enum):
    """A cluster's knowledge of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    """It will not run any more; `Update.cause` says how it went."""
    UNKNOWN = "unknown"
    """The cluster does not know the job now. Never taken for success."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Features that a cluster has.

    Attributes
    ----------
    direct : bool
        Carries messages itself; the store is not used to start batches.
    arrays : bool
        Many batches of one shape go out in one submission.
    memory_limits, walltime_limits : bool
        The system ends a job that takes more than it asked for.
    accelerators, preemption : bool
        Understands these requirements.
    worker_cleanup : bool
        Can run a clean-up on each node at the end.
    """

    direct: bool = False
    arrays: bool = False
    memory_limits: bool = False
    walltime_limits: bool = False
    accelerators: bool = False
    preemption: bool = False
    worker_cleanup: bool = False


class ClusterNotes:
    """State that a cluster keeps for a later leader, such as the framework's id. In memory here."""

    def __init__(self) -> None:
        self._notes: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """Return a note, or an empty value if it does not exist."""
        return self._notes.get(name, b"")

    def write(self, name: str, data: bytes) -> None:
        """Keep a note instead of an earlier one of the name; an empty one is forgotten."""
        self._notes[name] = data


def _ignore(error: str) -> None:
    """Ignore news of outages."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """Everything that a leader hands to a cluster when it opens it.

    Attributes
    ----------
    store : str
        The store's URL, as workers must open it.
    workflow : str
        A name unique to the store and safe in job names; jobs carry it, so that they can be listed.
    environment : dict
        Variables to set for workers.
    notes : ClusterNotes
        Outlive the leader, in the store.
    log_directory : str
        Where a batch system is to put scripts and what jobs print, where the cluster itself has no setting for
        that; empty leaves it to the cluster.
    keep_output : bool
        Whether what jobs print outside their tasks is kept until they end well.
    outage : callable
        Called with an error when the system stops answering, and with an empty text when it answers again.
    """

    store: str
    workflow: str
    environment: dict[str, str] = field(default_factory=dict)
    notes: ClusterNotes = field(default_factory=ClusterNotes, compare=False)
    log_directory: str = ""
    keep_output: bool = True
    outage: Callable[[str], None] = field(default=_ignore, compare=False)


class Refusal(str, Enum):
    """Prospects of a job whose submission was refused."""

    FINAL = "final"
    """The system will never take such a job."""
    FULL = "full"
    """It takes no more jobs now."""
    PASSING = "passing"
    """Unknown: the system may take the same job later."""
    AWAY = "away"
    """It does not answer."""


class SubmissionError(ClusterError):
    """A system has refused some of the batches that it was given.

    Parameters
    ----------
    text : str
        With the system's words, and what it was given.
    words : str
        The system's words.
    refusal : Refusal
    submitted : mapping
        The batches that it took before that, and their jobs: they are alive.
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
        Unique in the store; for a cluster that is not direct, the worker's BATCH argument.
    label : str
        For people: the name of the first task and how many there are.
    resources : Resources
        The job's requirements.
    message : bytes
        For a direct cluster: what to send to the worker. Else empty.
    is_service : bool
        Whether it runs until it receives the order to stop.
    """

    name: str
    label: str
    resources: Resources
    message: bytes = b""
    is_service: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """News of one job.

    Attributes
    ----------
    job : JobId
    state : JobState
    cause : Cause or None
        For an ended job: None when the worker said it was done, else why it ended.
    detail : str
        The cluster's own words: exit status, signal, reason, where the log is.
    is_held : bool
        For a queued job: whether it will not start before somebody changes something; `detail` has the reason.
    is_ending : bool
        For a job that is not over: whether its processes have ended or are being ended, and only the system's own work
        is left. Tasks that it has answered for count already; others may not be started again yet.
    answers : tuple of bytes
        For a direct cluster: messages of the worker, in order.
    running : TaskId or None
        For an ended job: the task that was running, where that is known.
    log : bytes
        And what that task had printed.
    since : float
        And when that task started, in seconds since the epoch; 0 where that is not known.
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
    """Where batches run.

    Constructors take settings only: no process is started and nothing is asked before `open`.
    A cluster object can be opened again after it was closed.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    made_with: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    """The arguments that the constructor was given, for the record of a run; see `toilfn.clusters.common.resume`."""
    not_recorded: ClassVar[frozenset[str]] = frozenset()
    """Parameters of the constructor that are a means of this process: a resumed run does without them."""
    poll_interval: float = 2.0
    """Seconds between two queries of a system that has to be asked for news."""
    has_left_jobs: bool = False
    """After `close`: whether jobs may live on, because the system did not end them."""
    submits_beside: bool = False
    """Whether `submit` may be called in a thread of its own while others use the cluster."""
    holds_worker: bool = True
    """Whether the memory that a batch asks for must hold its worker, too; False where only tasks are counted."""
    gather: float = 0.5
    """Seconds for which tasks wait for others, to go out in one submission, where the cluster queues by itself: about
    what a submission takes."""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Build a cluster, and keep what it is made with."""
        made = super().__new__(cls)
        made.made_with = (args, settings)
        return made

    @abstractmethod
    def open(self, context: RunContext) -> None:
        """Get ready to run batches.

        Raises
        ------
        ClusterError
            If the system cannot be reached; says what to do.
        """

    @abstractmethod
    def capacity(self) -> Capacity:
        """Return what can run at one time."""

    @abstractmethod
    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start jobs for batches, one each, in order.

        Raises
        ------
        ClusterError
            If the system refuses; carries its own words and what was submitted.
        """

    @abstractmethod
    def poll(self, timeout: float) -> list[Update]:
        """Wait for news, at most `timeout` seconds, and return all there is."""

    @abstractmethod
    def kill(self, jobs: Iterable[JobId]) -> None:
        """End jobs. An `Update` of each one follows; a job that is gone is not an error."""

    @abstractmethod
    def close(self) -> None:
        """End all jobs of this leader and free everything. May be called twice."""

    def leave(self) -> None:
        """Free everything, and let jobs run on for the next leader wherever they can outlive this process."""
        self.close()

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find live jobs of a workflow, with the names of their batches, for a leader that comes back."""
        return {}

    def address(self) -> dict[str, Any] | None:
        """Return the arguments with which another process makes a cluster that finds this one's jobs with `list`.

        Plain values that are kept in the store: no secrets, and nothing that only matters for new jobs. None if
        all jobs end with this process.
        """
        return None if self.capabilities.direct else {}

    def has_other_machines(self) -> bool | None:
        """Return whether jobs that need a shared folder may run on other machines; None where that is not known."""
        return False

    def recall(self, job: JobId) -> None:
        """Ask a worker to give back the tasks it has not started. A cluster may ignore it."""

    def tell(self, job: JobId, message: bytes) -> None:
        """For a direct cluster: send one more message to a job's worker, if that still runs."""

    def wake(self) -> None:
        """Build a `poll` that waits in another thread return now."""
