"""Submitting in a separate thread: a slow system does not block the leader, and temporary refusals are repeated.

A system that refuses one shape permanently fails the tasks of that shape. If it accepts no more jobs now, or answers
with a temporary error, the refused batches wait and are sent again, later each time, while the leader polls.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from toilfn.clusters.base import Batch, Cluster, JobId, Refusal, SubmissionError
from toilfn.ids import BatchId
from toilfn.resources import Resources
from toilfn.units import format_duration

__all__ = ["Parcel", "Refused", "Sent", "Submitting"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a refused submission is repeated; doubled each time."""

_PATIENCE = 600.0
"""Seconds for which one shape may be refused, while no job of this leader is there whose end may help."""

_WARN_AGAIN = 600.0
"""Seconds between two warnings about refusals."""

_LONGEST_CALL = 150.0
"""Seconds that a leader waits for a submission in progress before it ends its jobs."""


class Parcel(NamedTuple):
    """A batch that is being submitted."""

    id: BatchId
    batch: Batch


class Sent(NamedTuple):
    """A batch has become a job."""

    parcel: Parcel
    job: JobId


class Refused(NamedTuple):
    """A batch that the cluster will not take."""

    parcel: Parcel
    text: str
    """The system's answer; for the first of several, the submission as well."""


@dataclass
class _Line:
    """The batches of one shape that wait to be sent."""

    waiting: deque[Parcel] = field(default_factory=deque)
    most: int | None = None
    """How many are sent together; None is all."""
    next: float = 0.0
    pause: float = _FIRST_PAUSE
    since: float | None = None
    """When the first of the refusals came that have not ended yet."""


class Submitting:
    """Submits batches to a cluster in a separate thread, those of one shape at a time.

    Parameters
    ----------
    cluster : Cluster
        Opened; one that `submits_beside`.

    Attributes
    ----------
    limit : int or None
        How many jobs the system took at most, if it refused more; forgotten after a while.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lines: dict[Resources, _Line] = {}
        self._requests: queue.SimpleQueue[list[Batch] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[list[JobId] | Exception] = queue.SimpleQueue()
        self._under_way: list[Parcel] = []
        self._thread: threading.Thread | None = None
        self._warned: dict[str, float] = {}
        self.limit: int | None = None
        self._limit_since = 0.0

    @property
    def is_under_way(self) -> bool:
        """Whether the cluster is being given batches, or its answer has not been taken in."""
        return bool(self._under_way)

    def put(self, parcels: Iterable[Parcel]) -> None:
        """Add batches, which are sent as soon as possible."""
        for parcel in parcels:
            self._lines.setdefault(parcel.batch.resources, _Line()).waiting.append(parcel)

    def withdraw(self) -> list[Parcel]:
        """Remove and return all batches that have not been sent."""
        taken = [parcel for line in self._lines.values() for parcel in line.waiting]
        self._lines.clear()
        return taken

    def work(self, now: float, others: int) -> Iterator[Sent | Refused]:
        """Process the answers of the system, and send the next batches, without waiting.

        Parameters
        ----------
        now : float
            The time, in seconds on a monotonic scale.
        others : int
            How many jobs of this leader the system has.

        Raises
        ------
        ClusterError
            If the system has been away for too long and nothing runs.
        """
        if self._under_way and not self._answers.empty():
            parcels, self._under_way = self._under_way, []
            yield from self._take(parcels, self._answers.get(), now, others)
        if self.limit is not None and now - self._limit_since > _PATIENCE:
            self.limit = None
        if not self._under_way:
            self._send(now)

    def close(self) -> None:
        """End the thread; waits for a submission under way, whose jobs the cluster knows then."""
        if self._thread is not None:
            self._requests.put(None)
            self._thread.join(_LONGEST_CALL if self._under_way else None)

    def _send(self, now: float) -> None:
        due = [line for line in self._lines.values() if line.waiting and line.next <= now]
        if not due:
            return
        line = min(due, key=lambda line: line.next)
        count = len(line.waiting) if line.most is None else min(line.most, len(line.waiting))
        self._under_way = [line.waiting.popleft() for _ in range(count)]
        line.next = now  # those of other shapes come first the next time
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="toilfn-submitting", daemon=True)
            self._thread.start()
        self._requests.put([parcel.batch for parcel in self._under_way])

    def _run(self) -> None:
        while (batches := self._requests.get()) is not None:
            try:
                answer: list[JobId] | Exception = self._cluster.submit(batches)
            except Exception as error:
                answer = error
            self._answers.put(answer)
            self._cluster.wake()

    def _take(
        self, parcels: Sequence[Parcel], answer: list[JobId] | Exception, now: float, others: int
    ) -> Iterator[Sent | Refused]:
        shape = parcels[0].batch.resources
        line = self._lines.setdefault(shape, _Line())
        if isinstance(answer, list):
            line.pause, line.since = _FIRST_PAUSE, None
            line.most = line.most and 2 * line.most
            yield from map(Sent, parcels, answer)
        elif isinstance(answer, SubmissionError):
            sent = [parcel for parcel in parcels if parcel.batch.name in answer.submitted]
            yield from (Sent(parcel, answer.submitted[parcel.batch.name]) for parcel in sent)
            left = [parcel for parcel in parcels if parcel.batch.name not in answer.submitted]
            if self._is_final(line, answer, now, others + len(sent), len(left)):
                texts = (str(answer) if parcel is left[0] else answer.words for parcel in left)
                yield from map(Refused, left, texts)
            else:
                line.waiting.extendleft(reversed(left))
        else:
            raise answer
        if not line.waiting:
            self._lines.pop(shape, None)

    def _is_final(self, line: _Line, error: SubmissionError, now: float, others: int, count: int) -> bool:
        """Judge a refusal: say whether it is permanent, or note when to try again."""
        if error.refusal is Refusal.FINAL:
            return True
        line.since = now if line.since is None else line.since
        if not others and now - line.since > _PATIENCE:
            if error.refusal is Refusal.AWAY:
                raise error
            return True
        if error.refusal is Refusal.FULL and count > 1:
            line.most = count // 2
            return False  # fewer may fit
        line.next, line.pause = now + line.pause, min(2 * line.pause, _LONGEST_PAUSE)
        if error.refusal is Refusal.FULL:
            self.limit, self._limit_since = max(1, others), now
            for other in self._lines.values():
                other.next = max(other.next, line.next)
        self._warn(error, line, now, others)
        return False

    def _warn(self, error: SubmissionError, line: _Line, now: float, others: int) -> None:
        if now - self._warned.get(error.refusal.value, float("-inf")) < _WARN_AGAIN:
            return
        self._warned[error.refusal.value] = now
        again = f"trying again, next in {format_duration(line.next - now)}"
        if error.refusal is Refusal.FULL:
            again = f"{others} jobs are queued or running, and others wait until it accepts more (see --max-jobs)"
        _log.warning("the batch system is refusing jobs; %s; its message: %s", again, error.words)
