"""The leader's side of services: telling them to stop, and hearing from those that write to the store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from toilfn.clusters.base import Cluster
from toilfn.graph.serialize import dumps
from toilfn.ids import TaskId
from toilfn.leader.jobs import SubmittedBatch
from toilfn.leader.mailbox import Mailbox
from toilfn.model import records
from toilfn.protocol import STOP, Started, decode

__all__ = ["ServiceMessages", "never_ran"]

_LOOK = 1.0
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
        """Look now and then for services that have started, where their workers cannot say so themselves."""
        if self._cluster.capabilities.direct or time.monotonic() - self._looked < _LOOK:
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
            f"there is never room for it beside the services that must run with it: {', '.join(names)}. "
            "Let them ask for less, raise max_service_tasks, or use a larger cluster"
        )


def never_ran(id_: TaskId) -> records.Outcome:
    """Build the outcome of a service whose users are complete without it."""
    return records.Outcome(id_, 0, dumps(None)[0], (), (), (), (), (), b"", records.Stats())
