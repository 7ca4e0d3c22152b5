"""Messages about running tasks: services that start and stop, and the output and warnings of tasks.

Those of workers whose cluster carries no messages are read from the store.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from toilfn.clusters.base import Cluster
from toilfn.graph.serialize import dumps
from toilfn.ids import TaskId
from toilfn.leader.jobs import SubmittedBatch
from toilfn.leader.mailbox import Mailbox
from toilfn.model import records
from toilfn.protocol import STOP, Log, Started, Warnings, decode

__all__ = ["OutputMessages", "ServiceMessages", "never_ran"]

_SERVICES_LOOK = 1.0
"""Seconds between two looks at what services that start have put in the store."""


class ServiceMessages:
    """Talks to the workers of services.

    Parameters
    ----------
    cluster : Cluster
    mailbox : Mailbox
        For clusters that are not direct.
    """

    def __init__(self, cluster: Cluster, mailbox: Mailbox) -> None:
        self._cluster = cluster
        self._mailbox = mailbox
        self._stopped: set[str] = set()
        self._heard: set[str] = set()
        self._looked = 0.0

    def stop(self, batch: SubmittedBatch) -> None:
        """Ask the service of a batch to stop, once."""
        if batch.name in self._stopped:
            return
        self._stopped.add(batch.name)
        if self._cluster.capabilities.direct and batch.job is not None:
            self._cluster.tell(batch.job, STOP)
        else:
            self._mailbox.stop(batch.name)

    def stop_the_last(self, batches: Iterable[SubmittedBatch]) -> None:
        """Stop all services when nothing else runs."""
        if all(batch.service for batch in batches):
            for batch in batches:
                self.stop(batch)

    def news(self, batches: Iterable[SubmittedBatch]) -> Iterator[tuple[SubmittedBatch, bytes]]:
        """Look periodically for services that have started, where their workers cannot say so themselves."""
        if self._cluster.capabilities.direct or time.monotonic() - self._looked < _SERVICES_LOOK:
            return
        self._looked = time.monotonic()
        for batch in [batch for batch in batches if batch.service and batch.name not in self._heard]:
            for message in self._mailbox.so_far(batch.name):
                if isinstance(decode(message), Started):
                    self._heard.add(batch.name)
                    yield batch, message

    def deadlock(self, names: Sequence[str]) -> str:
        """Return the message that running services leave no room for a task."""
        return (
            f"the cluster can never run it at the same time as its services: {', '.join(names)}. "
            "Reduce their requests, raise max_service_tasks, or use a larger cluster"
        )


def never_ran(id_: TaskId) -> records.Outcome:
    """Build the outcome of a service that never ran, because its users are complete without it."""
    return records.Outcome(id_, 0, dumps(None)[0], (), (), (), (), (), b"", records.Stats())


_LOOK = 2.0
"""Seconds between two looks for output of tasks."""

_WARNINGS_LOOK, _FAR_WARNINGS_LOOK = 5.0, 60.0
"""The same where only warnings are wanted, in a store on this machine and in another one, where each look costs."""


class OutputMessages:
    """Reads the answers of batches that run, for messages about tasks' output.

    Parameters
    ----------
    mailbox : Mailbox
    is_wanted : bool
        Whether the output of tasks is shown, not only their warnings.
    """

    def __init__(self, mailbox: Mailbox, *, is_wanted: bool) -> None:
        self._mailbox = mailbox
        period = _WARNINGS_LOOK if mailbox.is_near else _FAR_WARNINGS_LOOK
        self._period = _LOOK if is_wanted else period
        self._heard: dict[str, int] = {}
        self._looked = time.monotonic()

    def news(self, batches: Iterable[SubmittedBatch]) -> Iterator[tuple[SubmittedBatch, bytes]]:
        """Look periodically for new messages about output."""
        if time.monotonic() - self._looked < self._period:
            return
        self._looked = time.monotonic()
        counts = self._mailbox.left()
        for batch in list(batches):
            heard = self._heard.get(batch.name, 0)
            if counts.get(batch.name, 0) > heard:
                new = self._mailbox.so_far(batch.name, heard)
                self._heard[batch.name] = heard + len(new)
                yield from ((batch, message) for message in new if _is_output(message))

    def rest(self, name: str, answers: Sequence[bytes]) -> Iterator[bytes]:
        """Yield the answers of a batch that has ended, except those that `news` has yielded."""
        heard = self._heard.pop(name, 0)
        return (message for n, message in enumerate(answers) if n >= heard or not _is_output(message))


def _is_output(message: bytes) -> bool:
    return isinstance(decode(message), Log | Warnings)
