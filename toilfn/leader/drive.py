"""Lead a run that has a lease to its values: open the cluster, build the leader, and judge the result."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from toilfn.config.settings import Settings
from toilfn.errors import KilledError
from toilfn.files.node import begin
from toilfn.files.scratch import CODE_VARIABLE
from toilfn.files.transfer import local_path
from toilfn.graph.values import Values
from toilfn.ids import TaskId
from toilfn.leader.abandoned import Earlier, outlives_leaders
from toilfn.leader.batches import Names
from toilfn.leader.callbacks import TERMINATED, BadWorkers, Callbacks, Interrupts, ScarceDisk, interrupted_run
from toilfn.leader.cluster_context import (
    capped,
    check_shared,
    jobs_name,
    policy,
    run_context,
    worker_environment,
    worker_memory,
)
from toilfn.leader.committer import Committer, Ledger
from toilfn.leader.failures import describe_arguments, failed_tasks, stuck_tasks
from toilfn.leader.intermediates import Intermediates, remove_garbage
from toilfn.leader.leader import Leader
from toilfn.leader.loading import Loader
from toilfn.leader.mailbox import Mailbox, StoreMailbox
from toilfn.leader.metrics import Watched
from toilfn.leader.notifications import AttemptLogs, Progress, log_file
from toilfn.model import records
from toilfn.model.traces import VARIABLE as TRACE_VARIABLE
from toilfn.model.traces import run_span
from toilfn.resources import Capacity
from toilfn.scheduler import Scheduler
from toilfn.stores import Store, is_local
from toilfn.worker.passed import (
    ENVIRONMENT_VARIABLE,
    read_ref,
    write_ref,
)

if TYPE_CHECKING:
    from toilfn.leader.run import WorkflowRun

__all__ = ["lead"]

_log = logging.getLogger(__name__)

Ended: TypeAlias = Callable[[str, "records.Outcome | records.Failure"], None]

_SHELL_STEP = "toilfn.steps.run._run"
"""The full name of the function of all shell steps."""

_FLAG_INTERVAL = 2.0
"""Seconds between two looks at the kill flag."""


def lead(work: WorkflowRun, run: records.Run, loader: Loader, committer: Committer, *, resumed: bool) -> Values:
    """Open the cluster, run until the run's tasks are complete, and return their values.

    Parameters
    ----------
    work : WorkflowRun
        Has the lease of the store, and a cluster that is not open yet.
    run : records.Run
    loader : Loader
        Has the run's new tasks.
    committer : Committer
    resumed : bool
        Whether to take the user's modules from the store, not from this process.

    Raises
    ------
    FailedTasksError
        If tasks failed permanently.
    KilledError, KeyboardInterrupt
        If the user stopped the run.
    SystemExit
        If SIGTERM came.
    GraphError
        If tasks wait for each other.
    """
    cluster = work.cluster
    work.may_have_jobs = not cluster.capabilities.direct
    committer.sync()
    _sweep(work)
    mailbox = _open(work, run, committer, resumed=resumed)
    try:
        with Interrupts() as interrupts, Progress(work.settings.progress) as progress, log_file(work.settings):
            leader = _leader(work, run, loader, committer, mailbox, _callbacks(work, interrupts, progress))
            earlier = _earlier(work)
            with _served(work, leader, committer, run):
                leader.run((*run.roots, *run.forced), earlier)
    except BaseException:
        _leave(work)
        raise
    if interrupts.is_terminated and leader.has_jobs:
        _leave(work)
    else:
        leader.finish()
        committer.then((earlier.mailbox or mailbox).close)
        cluster.close()
        work.may_have_jobs = cluster.has_left_jobs and not leader.is_done
    _judge(work, leader, interrupts)
    return leader.values


def _open(work: WorkflowRun, run: records.Run, committer: Committer, *, resumed: bool) -> Mailbox:
    """Open the cluster; return the mailbox of its workers if it does not carry messages itself."""
    cluster, code, direct = work.cluster, run.code, work.cluster.capabilities.direct
    environment = worker_environment(work.store, work.settings, direct=direct)
    environment[TRACE_VARIABLE] = str(run_span(work.store.id, run.number, run.settings.get("traceparent")))
    if code is not None and (resumed or not direct):  # else workers import what we import
        environment[CODE_VARIABLE] = write_ref(code)

    def outage(error: str) -> None:
        committer.add(records.encode(records.Outage(error, time.time())))

    begin(work.store, {**os.environ, **environment})
    cluster.open(run_context(work.store, work.settings.as_dict(), environment, outage))
    if direct:
        return Mailbox()
    check_shared(cluster, work.store.url, work.place)
    variables = (ENVIRONMENT_VARIABLE, CODE_VARIABLE)
    return StoreMailbox(work.store, [read_ref(environment[name]) for name in variables if name in environment])


def _leader(
    work: WorkflowRun,
    run: records.Run,
    loader: Loader,
    committer: Committer,
    mailbox: Mailbox,
    callbacks: Callbacks,
) -> Leader:
    cluster, settings = work.cluster, work.settings
    capacity = capped(cluster.capacity(), settings)
    is_queue = capacity.total is None
    scheduler = Scheduler(capacity, policy(settings, cluster.gather if is_queue else 0.0, is_queue=is_queue))
    assert work.index.epoch is not None
    own_memory = worker_memory(settings, is_local=is_local(work.store.url)) if cluster.holds_worker else 0
    return Leader(
        Ledger(work.index, loader, committer, work.store.objects.delete, _intermediates(work, run, loader)),
        scheduler,
        cluster,
        mailbox,
        callbacks,
        Names(jobs_name(work.store), f"{work.index.epoch.number}"),
        lambda limit: _limited(capacity, limit),
        own_memory,
    )


def _callbacks(work: WorkflowRun, interrupts: Interrupts, progress: Progress) -> Callbacks:
    settings = work.settings
    flag = _Flag(work.store)
    logs = AttemptLogs(settings, partial(_read_log, work.store), progress.message)
    tally = work.metrics.tally if work.metrics else None
    return Callbacks(
        should_drain=lambda: interrupts.should_drain,
        should_hold=_should_hold(work.store, settings),
        should_stop=lambda: interrupts.should_stop or work.is_stopped or flag.is_set(),
        tick=progress.update,
        victims=BadWorkers(settings.bad_worker, settings.bad_worker_interval).choose,
        ended=_each(*([tally.ended] if tally else []), *([logs.ended] if logs.is_needed else [])),
        said=logs.said if settings.stream_logs else None,
        warned=logs.warned,
        warn=_log.warning,
        worked=tally.worked if tally else None,
        service_patience=settings.service_patience,
    )


def _should_hold(store: Store, settings: Settings) -> Callable[[], bool]:
    """Return the check for a store's disk that is nearly full, if that slows the run down."""
    path, least = local_path(store.url), settings.min_free
    if path is None or (least is None and settings.intermediates != "drop"):
        return lambda: False
    return ScarceDisk(path, least, _log.warning).is_scarce


def _intermediates(work: WorkflowRun, run: records.Run, loader: Loader) -> Intermediates | None:
    """Return the object that counts the readers of files, if the run drops files."""
    drops = work.settings.intermediates == "drop"
    if not (drops or any(each.options.get("intermediates") == "drop" for each in work.index.functions.values())):
        return None
    return Intermediates(work.index, run, loader.encoded, work.store.open_blob, drops=drops)


def _served(work: WorkflowRun, leader: Leader, committer: Committer, run: records.Run) -> AbstractContextManager[None]:
    if work.metrics is None:
        return nullcontext()
    return work.metrics.served(Watched(leader, committer, work.cluster, work.store, run))


def _earlier(work: WorkflowRun) -> Earlier:
    """Return the jobs and messages of earlier leaders, whose workers may have answered through the store."""
    was_far = work.cluster.capabilities.direct and any(map(outlives_leaders, work.index.runs))
    return Earlier(work.elsewhere, StoreMailbox(work.store) if was_far else None)


def _sweep(work: WorkflowRun) -> None:
    """Remove files of attempts that were killed with an earlier leader, if the run drops files."""
    was_killed = any(run.number not in work.index.ended for run in work.index.runs)
    may_live = not work.cluster.capabilities.direct or any(map(outlives_leaders, work.index.runs))
    if work.settings.intermediates == "drop" and was_killed and not may_live:
        remove_garbage(work.store)


def _leave(work: WorkflowRun) -> None:
    """Leave the jobs to the next leader: only the user cancels them."""
    work.cluster.leave()
    if work.may_have_jobs:
        text = f"its jobs on the cluster keep running; to resume: toilfn resume {work.place}"
        _log.warning("the leader stops; %s; to cancel the jobs: toilfn kill %s", text, work.place)


def _judge(work: WorkflowRun, leader: Leader, interrupts: Interrupts) -> None:
    """Raise the error of a run that did not succeed."""
    if leader.is_done:
        return
    way_on = f"to resume: {work.way_on}" if work.way_on else f"its store is removed: clean={work.settings.clean}"
    if interrupts.is_terminated:
        _log.warning("stopped by SIGTERM; %s", way_on)
        raise SystemExit(TERMINATED)
    if interrupts.count:
        raise interrupted_run(f"stopped by Ctrl-C; {way_on}")
    if work.is_stopped or work.store.has_flag("kill"):
        raise KilledError("the run was stopped on request", hint=way_on)
    if leader.failures:
        names, inputs = leader.tasks.name, _inputs_of(leader, work.store)
        raise failed_tasks(
            leader.failures, names, inputs, lambda failure: _log_of(work.store, failure), work.place, work.way_on
        )
    if stuck := leader.stuck():
        raise stuck_tasks(stuck, leader.tasks.name)


def _inputs_of(leader: Leader, store: Store) -> Callable[[TaskId], str]:
    def inputs(id_: TaskId) -> str:
        task = leader.tasks.get(id_)
        is_shell_step = leader.tasks.function(task).parts.get("name") == _SHELL_STEP
        return describe_arguments(task, leader.tasks.name, store.get_blob, is_shell_step=is_shell_step)

    return inputs


def _log_of(store: Store, failure: records.Failure) -> str:
    return _read_log(store, failure).decode(errors="replace")


def _read_log(store: Store, attempt: records.Outcome | records.Failure) -> bytes:
    return store.payload(attempt.log)


def _each(*functions: Ended) -> Ended | None:
    """Return a function that calls all of these, or None if there is none."""
    if len(functions) < 2:
        return functions[0] if functions else None

    def call(name: str, attempt: records.Outcome | records.Failure) -> None:
        for function in functions:
            function(name, attempt)

    return call


def _limited(capacity: Capacity, limit: int | None) -> Capacity:
    """Return the capacity of a system that has accepted only a certain number of jobs."""
    if limit is None:
        return capacity
    return capacity._replace(batches=limit if capacity.batches is None else min(limit, capacity.batches))


class _Flag:
    """The store's kill flag, looked at every few seconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looked = time.monotonic()
        self._is_set = False

    def is_set(self) -> bool:
        if not self._is_set and time.monotonic() - self._looked > _FLAG_INTERVAL:
            self._looked = time.monotonic()
            self._is_set = self._store.has_flag("kill")
        return self._is_set
