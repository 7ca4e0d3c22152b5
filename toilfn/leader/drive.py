"""One run, led on a cluster."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeAlias

from toilfn.clusters import make_cluster
from toilfn.clusters.base import FRESH_VARIABLE, Cluster, JobId
from toilfn.clusters.local.beside import BesideCluster
from toilfn.config.settings import Settings
from toilfn.errors import ClusterError, KilledError
from toilfn.files.node import KEEP_VARIABLE, begin
from toilfn.files.room import AGE_VARIABLE, LIMIT_VARIABLE
from toilfn.files.scratch import CODE_VARIABLE
from toilfn.files.sharing import SHARED_VARIABLE
from toilfn.files.task_files import DIGEST_VARIABLE, LINK_VARIABLE
from toilfn.files.transfer import local_path
from toilfn.graph.record import OWN_BUFFERS_VARIABLE
from toilfn.ids import TaskId
from toilfn.leader.abandoned import Earlier, outlives_leaders
from toilfn.leader.attemptlogs import AttemptLogs, log_file
from toilfn.leader.callbacks import TERMINATED, BadWorkers, Callbacks, Interrupts, ScarceDisk, interrupted_run
from toilfn.leader.cluster_context import check_shared, jobs_name, run_context
from toilfn.leader.committer import Committer
from toilfn.leader.failures import describe_arguments, failed_tasks, stuck_tasks
from toilfn.leader.garbage import remove_garbage
from toilfn.leader.intermediates import Intermediates
from toilfn.leader.leader import Leader
from toilfn.leader.loading import Loader
from toilfn.leader.mailbox import Mailbox, StoreMailbox
from toilfn.leader.metrics import Metrics, Watched
from toilfn.leader.policy import capped, policy, worker_memory
from toilfn.leader.progress import Progress
from toilfn.model import records
from toilfn.model.index import Index
from toilfn.model.traces import VARIABLE as TRACE_VARIABLE
from toilfn.model.traces import run_span
from toilfn.model.values import Values
from toilfn.moved import MOVED_VARIABLE
from toilfn.resources import Capacity
from toilfn.scheduler import Scheduler
from toilfn.stores import Store, is_local
from toilfn.stores.digests import DEFAULT
from toilfn.stores.options import worker_variables
from toilfn.worker.passed import (
    ENVIRONMENT_VARIABLE,
    SET_VARIABLE,
    VERSIONS_VARIABLE,
    pack_environment,
    read_ref,
    versions,
    write_ref,
)
from toilfn.worker.surroundings import OWN_DIRECTORY_VARIABLE, START_VARIABLE
from toilfn.worker.usage import WORKER_MEMORY_VARIABLE

__all__ = ["RunDriver", "choose_cluster"]

_log = logging.getLogger(__name__)

Ended: TypeAlias = Callable[[str, "records.Outcome | records.Failure"], None]

_SHELL_STEP = "toilfn.steps.run._run"
"""The full name of the function of all shell steps."""

_FLAG_INTERVAL = 2.0
"""Seconds between two looks at the kill flag."""


def choose_cluster(settings: Settings, url: str, place: str) -> Cluster:
    """Build the cluster of a run.

    Parameters
    ----------
    settings : Settings
    url : str
        The store's.
    place : str
        The store as the user named it.

    Raises
    ------
    ClusterError
        If the cluster does not exist, what it needs is missing, or its workers could not reach the store.
    """
    if url.startswith("memory:"):
        if settings.cluster not in (None, "inline"):
            raise ClusterError(
                f"store {place} exists in this process only, and other processes cannot reach it",
                hint="use cluster='inline', or a store on disk",
            )
        settings = replace(settings, cluster="inline")
    cluster = make_cluster(settings)
    return cluster if cluster.capabilities.direct else BesideCluster(cluster, settings.max_local_jobs)


class RunDriver:
    """Brings scheduler, leader and cluster together for one run, and judges how it ended.

    Parameters
    ----------
    store : Store
        Led by this process.
    index : Index
        The index of its log.
    settings : Settings
    cluster : Cluster
        Not open yet.
    place : str
        The store as the user named it.
    is_stopped : callable
        Whether the run has to end at once.
    elsewhere : mapping
        Living jobs, and their batches, that earlier leaders gave to clusters of the same class with other settings.
    metrics : Metrics, optional
        Served while the run is led.
    """

    def __init__(
        self,
        store: Store,
        index: Index,
        settings: Settings,
        cluster: Cluster,
        place: str,
        is_stopped: Callable[[], bool],
        elsewhere: Mapping[JobId, str],
        metrics: Metrics | None = None,
    ) -> None:
        self._store = store
        self._index = index
        self._settings = settings
        self._cluster = cluster
        self._place = place
        self._is_stopped = is_stopped
        self._elsewhere = elsewhere
        self._metrics = metrics
        self._passed: list[records.BlobRef] = []
        self.may_have_jobs = not cluster.capabilities.direct
        """Whether jobs may live on: those of this leader, or those of earlier ones where it could not look."""

    def lead(self, run: records.Run, loader: Loader, committer: Committer, *, resumed: bool) -> Values:
        """Run until the run's tasks are complete, and give their values.

        Parameters
        ----------
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
        cluster = self._cluster
        committer.sync()
        self._sweep()
        self._open(run, resumed, committer)
        try:
            with Interrupts() as interrupts, Progress(self._settings.progress) as progress, log_file(self._settings):
                answers = self._mailbox(cluster)
                leader = self._leader(cluster, run, loader, committer, answers, interrupts, progress)
                earlier = self._earlier(direct=cluster.capabilities.direct)
                with self._served(leader, committer, run):
                    leader.run((*run.roots, *run.forced), earlier)
        except BaseException:
            self._leave()
            raise
        if interrupts.is_terminated and leader.has_jobs:
            self._leave()
        else:
            leader.finish()
            committer.then((earlier.mailbox or answers).close)
            cluster.close()
            self.may_have_jobs = cluster.has_left_jobs and not leader.is_done
        self._judge(leader, interrupts)
        return leader.values

    def _served(self, leader: Leader, committer: Committer, run: records.Run) -> AbstractContextManager[None]:
        if self._metrics is None:
            return nullcontext()
        return self._metrics.served(Watched(leader, committer, self._cluster, self._store, run))

    def _earlier(self, *, direct: bool) -> Earlier:
        """Return what earlier leaders may have left, whose workers may have answered through the store."""
        was_far = direct and any(map(outlives_leaders, self._index.runs))
        return Earlier(self._elsewhere, StoreMailbox(self._store) if was_far else None)

    def _leave(self) -> None:
        """Leave the jobs to the next leader: only the user ends them."""
        self._cluster.leave()
        if self.may_have_jobs:
            text = f"its jobs on the cluster keep running; to resume: toilfn resume {self._place}"
            _log.warning("the leader ends; %s; to end them: toilfn kill %s", text, self._place)

    def _open(self, run: records.Run, resumed: bool, committer: Committer) -> None:
        cluster, code = self._cluster, run.code
        environment = self._environment(direct=cluster.capabilities.direct)
        environment[TRACE_VARIABLE] = str(run_span(self._store.id, run.number, run.settings.get("traceparent")))
        if code is not None and (resumed or not cluster.capabilities.direct):  # else workers import what we import
            environment[CODE_VARIABLE] = write_ref(code)

        def outage(error: str) -> None:
            committer.add(records.encode(records.Outage(error, time.time())))

        variables = (ENVIRONMENT_VARIABLE, CODE_VARIABLE)
        self._passed = [read_ref(environment[name]) for name in variables if name in environment]
        begin(self._store, {**os.environ, **environment})
        cluster.open(run_context(self._store, self._settings.as_dict(), environment, outage))
        if not cluster.capabilities.direct:
            check_shared(cluster, self._store.url, self._place)

    def _environment(self, *, direct: bool) -> dict[str, str]:
        """Return the variables of workers; those on other machines get the rest of ours through the store.

        A direct cluster's workers are this process's children and have that anyway.
        """
        settings = self._settings
        given = {
            "TOILFN_LOG_LIMIT": str(settings.log_limit),
            "TOILFN_LOG_LEVEL": settings.log_level,
            "TOILFN_CLEAN_WORK_DIR": settings.clean_work_dir,
            OWN_DIRECTORY_VARIABLE: str(int(settings.own_directory)),
            START_VARIABLE: _directory(),
            LINK_VARIABLE: settings.link_imports or "copy",
            DIGEST_VARIABLE: settings.digest or DEFAULT,
        }
        if MOVED_VARIABLE in os.environ:
            given[MOVED_VARIABLE] = os.environ[MOVED_VARIABLE]
        given |= worker_variables(self._store.url, private=direct)
        given |= _machine_variables(settings)
        if settings.intermediates == "drop":
            given[OWN_BUFFERS_VARIABLE] = "1"
        if settings.fresh_process:
            given[FRESH_VARIABLE] = "1"
        if settings.stream_logs:
            given["TOILFN_STREAM_LOGS"] = "1"
        if settings.set_env:
            given[SET_VARIABLE] = " ".join(settings.set_env)
        if direct:
            memory = {WORKER_MEMORY_VARIABLE: str(self._worker_memory())}
            return {**given, **memory, **(settings.set_env or {})}
        passed = self._store.put_blob(pack_environment(os.environ, settings.set_env or {}))
        known_meta = {} if is_local(self._store.url) else self._store.worker_variables()
        return {**given, **known_meta, ENVIRONMENT_VARIABLE: write_ref(passed), VERSIONS_VARIABLE: versions()}

    def _worker_memory(self) -> int:
        return worker_memory(self._settings, is_local=is_local(self._store.url))

    def _mailbox(self, cluster: Cluster) -> Mailbox:
        return Mailbox() if cluster.capabilities.direct else StoreMailbox(self._store, self._passed)

    def _leader(
        self,
        cluster: Cluster,
        run: records.Run,
        loader: Loader,
        committer: Committer,
        mailbox: Mailbox,
        interrupts: Interrupts,
        progress: Progress,
    ) -> Leader:
        capacity = capped(cluster.capacity(), self._settings)
        is_queue = capacity.total is None
        gather = cluster.gather if is_queue else 0.0
        scheduler = Scheduler(capacity, policy(self._settings, gather, is_queue=is_queue))
        assert self._index.epoch is not None
        flag = _Flag(self._store)
        logs = AttemptLogs(self._settings, self._read_log, progress.message)
        tally = self._metrics.tally if self._metrics else None
        bad = BadWorkers(self._settings.bad_worker, self._settings.bad_worker_interval)
        return Leader(
            self._index,
            loader,
            scheduler,
            cluster,
            jobs_name(self._store),
            committer,
            mailbox,
            f"{self._index.epoch.number}",
            Callbacks(
                should_drain=lambda: interrupts.should_drain,
                should_hold=self._should_hold(),
                should_stop=lambda: interrupts.should_stop or self._is_stopped() or flag.is_set(),
                tick=progress.update,
                victims=bad.choose,
                ended=_each(*([tally.ended] if tally else []), *([logs.ended] if logs.is_needed else [])),
                said=logs.said if self._settings.stream_logs else None,
                warned=logs.warned,
                warn=_log.warning,
                worked=tally.worked if tally else None,
                service_patience=self._settings.service_patience,
            ),
            self._store.objects.delete,
            lambda limit: _limited(capacity, limit),
            self._worker_memory() if cluster.holds_worker else 0,
            self._intermediates(run, loader),
        )

    def _should_hold(self) -> Callable[[], bool]:
        """Return the check for a store's disk that is nearly full, if that slows the run down."""
        path, least = local_path(self._store.url), self._settings.min_free
        if path is None or (least is None and self._settings.intermediates != "drop"):
            return lambda: False
        return ScarceDisk(path, least, _log.warning).is_scarce

    def _intermediates(self, run: records.Run, loader: Loader) -> Intermediates | None:
        """Return the object that counts the readers of files, if the run drops files."""
        drops = self._settings.intermediates == "drop"
        if not (drops or any(each.options.get("intermediates") == "drop" for each in self._index.functions.values())):
            return None
        return Intermediates(self._index, run, loader.encoded, self._store.open_blob, drops=drops)

    def _sweep(self) -> None:
        """Remove what attempts that were killed with an earlier leader have left, if the run drops files."""
        was_killed = any(run.number not in self._index.ended for run in self._index.runs)
        may_live = not self._cluster.capabilities.direct or any(map(outlives_leaders, self._index.runs))
        if self._settings.intermediates == "drop" and was_killed and not may_live:
            remove_garbage(self._store)

    def _judge(self, leader: Leader, interrupts: Interrupts) -> None:
        """Raise the error of a run that did not succeed."""
        if leader.is_done:
            return
        if interrupts.is_terminated:
            _log.warning("ended by SIGTERM; to resume: toilfn resume %s", self._place)
            raise SystemExit(TERMINATED)
        if interrupts.count:
            raise interrupted_run(f"stopped by Ctrl-C; to resume: toilfn resume {self._place}")
        if self._is_stopped() or self._store.has_flag("kill"):
            raise KilledError("the run was stopped on request", hint=f"to resume: toilfn resume {self._place}")
        if leader.failures:
            raise failed_tasks(leader.failures, leader.tasks.name, self._inputs_of(leader), self._log_of, self._place)
        if stuck := leader.stuck():
            raise stuck_tasks(stuck, leader.tasks.name)

    def _inputs_of(self, leader: Leader) -> Callable[[TaskId], str]:
        def inputs(id_: TaskId) -> str:
            task = leader.tasks.get(id_)
            is_shell_step = leader.tasks.function(task).parts.get("name") == _SHELL_STEP
            return describe_arguments(task, leader.tasks.name, self._store.get_blob, is_shell_step=is_shell_step)

        return inputs

    def _log_of(self, failure: records.Failure) -> str:
        return self._read_log(failure).decode(errors="replace")

    def _read_log(self, attempt: records.Outcome | records.Failure) -> bytes:
        return self._store.payload(attempt.log)


def _each(*functions: Ended) -> Ended | None:
    """Return a function that calls all of these, or None if there is none."""
    if len(functions) < 2:
        return functions[0] if functions else None

    def call(name: str, attempt: records.Outcome | records.Failure) -> None:
        for function in functions:
            function(name, attempt)

    return call


def _directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


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


def _machine_variables(settings: Settings) -> dict[str, str]:
    """Return the variables that say where workers keep what they leave on a machine, and for how long."""
    places = {
        "TOILFN_WORK_DIR": settings.work_dir,
        "TOILFN_COORDINATION_DIR": settings.coordination_dir,
        SHARED_VARIABLE: settings.cache_shared,
    }
    times = {AGE_VARIABLE: settings.cache_age, KEEP_VARIABLE: settings.keep_on_nodes}
    given = {name: os.path.abspath(place) for name, place in places.items() if place is not None}
    given |= {name: f"{time:g}s" for name, time in times.items() if time is not None}
    return given if settings.cache_size is None else {**given, LIMIT_VARIABLE: str(settings.cache_size)}
