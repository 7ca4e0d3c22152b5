"""Going on with the jobs of earlier leaders that the cluster still has."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from toilfn.clusters.base import JobId
from toilfn.ids import TaskId
from toilfn.leader.jobs import Jobs, SubmittedBatch
from toilfn.leader.mailbox import Mailbox
from toilfn.scheduler import Scheduler
from toilfn.scheduler.events import Adopted, Submit

__all__ = ["Earlier", "adopt"]


class Earlier(NamedTuple):
    """Jobs and messages of earlier leaders, besides those that the cluster can list."""

    jobs: Mapping[JobId, str] = MappingProxyType({})
    """Living jobs, with their batches, that were given to the cluster with other settings."""
    mailbox: Mailbox | None = None
    """Where their workers' answers are, if this leader's own workers do not put theirs there."""


def adopt(
    live: Mapping[JobId, str],
    mailbox: Mailbox,
    is_void: Callable[[TaskId, str], bool],
    scheduler: Scheduler,
    jobs: Jobs,
) -> list[JobId]:
    """Take over what jobs are at, or will be, as if this leader had sent them.

    Parameters
    ----------
    live : mapping
        The jobs of the workflow, and the names of their batches.
    mailbox : Mailbox
        Has the batches' messages.
    is_void : callable
        Whether what a batch says of a task does not count.
    scheduler : Scheduler
    jobs : Jobs

    Returns
    -------
    list of JobId
        The jobs of which nothing is needed any more.
    """
    return [job for job, name in live.items() if not _adopt(job, name, mailbox, is_void, scheduler, jobs)]


def _adopt(
    job: JobId,
    name: str,
    mailbox: Mailbox,
    is_void: Callable[[TaskId, str], bool],
    scheduler: Scheduler,
    jobs: Jobs,
) -> bool:
    tasks = mailbox.tasks(name)
    valid = tuple(id_ for id_ in tasks if not is_void(id_, name))
    adopted = scheduler.handle(Adopted(valid, time.monotonic()))
    for command in adopted:
        if isinstance(command, Submit):
            jobs.add(SubmittedBatch(command.batch, name, job, owed=None if valid == tasks else set(valid)), command.ids)
    return bool(adopted)
