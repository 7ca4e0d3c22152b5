"""The failures of tasks: what is known of each, and what is written of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from toilfn.ids import Cause, TaskId
from toilfn.leader.committer import Committer
from toilfn.model import records
from toilfn.model.records import encode
from toilfn.resources import Resources
from toilfn.scheduler.events import RollBack
from toilfn.units import format_duration, format_size

__all__ = ["Tally"]


class Tally:
    """Counts attempts, and writes down how they failed once the scheduler has said what follows.

    Parameters
    ----------
    committer : Committer
    ended : callable
        Called with each failure.
    too_large : callable
        Says of a task why it asks for more than there is.
    shape : callable
        Returns what a task asks for.
    worker_memory : int
        The bytes that a job asks for on top of its tasks' memory.

    Attributes
    ----------
    attempts : dict
        How often each task has failed.
    final : dict
        The last failure of each task that was given up.
    """

    def __init__(
        self,
        committer: Committer,
        ended: Callable[[records.Failure], None],
        too_large: Callable[[TaskId], str],
        shape: Callable[[TaskId], Resources],
        worker_memory: int = 0,
    ) -> None:
        self._committer = committer
        self._ended = ended
        self._too_large = too_large
        self._shape = shape
        self._worker_memory = worker_memory
        self._last: dict[TaskId, records.Failure] = {}
        self.attempts: dict[TaskId, int] = {}
        self.final: dict[TaskId, records.Failure] = {}

    def describe(self, failure: records.Failure) -> None:
        """Keep what is known of an attempt that failed, until the scheduler has said what follows."""
        self._last[failure.id] = failure

    def describe_lost(self, id_: TaskId, cause: Cause, text: str, log: bytes, since: float) -> None:
        """The same where all that is known comes from the cluster, perhaps also since when it ran."""
        now = time.time()
        stats = records.Stats(start=since, wall=max(0.0, now - since)) if since else records.Stats(start=now)
        text += _asked(cause, self._shape(id_), text, self._worker_memory)
        self.describe(records.Failure(id_, self.attempts.get(id_, 0) + 1, cause.value, text, "", log, stats))

    def describe_impossible(self, id_: TaskId, text: str) -> None:
        """The same for a task that cannot even be started."""
        self.describe(_failure(id_, 1, Cause.INPUT, text))

    def retry(self, id_: TaskId, cause: Cause, attempt: int) -> None:
        """Note that a task is tried again."""
        self.attempts[id_] = attempt
        self._note(id_, cause, final=False)

    def give_up(self, id_: TaskId, cause: Cause) -> None:
        """Note that a task was given up."""
        self.final[id_] = self._note(id_, cause, final=True)

    def roll_back(self, command: RollBack, text: str) -> None:
        """Note that a checkpoint is run again."""
        self.describe(_failure(command.id, command.attempt, command.cause, text))
        self.retry(command.id, command.cause, command.attempt)

    def write_described(self, id_: TaskId) -> None:
        """Write what is known of a failure of which nothing follows."""
        if (failure := self._last.pop(id_, None)) is not None:
            self._committer.add(encode(failure))

    def succeed(self, id_: TaskId) -> None:
        """Note that a task has an outcome."""
        self.attempts.pop(id_, None)

    def forget(self, id_: TaskId) -> None:
        """Forget what happened to a task."""
        for kept in (self.attempts, self.final, self._last):
            kept.pop(id_, None)

    def _note(self, id_: TaskId, cause: Cause, *, final: bool) -> records.Failure:
        failure = (self._last.pop(id_, None) or self._unheard(id_, cause))._replace(final=final)
        self._committer.add(encode(failure))
        self._ended(failure)
        return failure

    def _unheard(self, id_: TaskId, cause: Cause) -> records.Failure:
        """Describe a failure that no worker and no cluster has described."""
        is_large = cause is Cause.INPUT
        text = self._too_large(id_) if is_large else f"ended without an answer ({cause.value})"
        return _failure(id_, self.attempts.get(id_, 1), cause, text)


def _asked(cause: Cause, shape: Resources, said: str, worker_memory: int) -> str:
    """Return what a task asked for that has broken a limit, where the cluster has not said it, and the way out."""
    if cause is Cause.MEMORY:
        added = f", to which {format_size(worker_memory)} were added for its worker" if worker_memory else ""
        asked = "" if "asked for" in said else f"; it asked for {format_size(shape.memory)} of memory{added}"
        return f"{asked}; ask for more with the option memory"
    if cause is Cause.WALLTIME and shape.walltime and "its walltime" not in said:
        return f"; its walltime is {format_duration(shape.walltime)}"
    return ""


def _failure(id_: TaskId, attempt: int, cause: Cause, text: str) -> records.Failure:
    return records.Failure(id_, attempt, cause.value, text, "", b"", records.Stats())
