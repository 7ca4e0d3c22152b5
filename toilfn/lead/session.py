"""One leader's time on a store: from the lease to the result."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from types import TracebackType
from typing import Any

from toilfn import records
from toilfn.clusters import make_cluster
from toilfn.clusters.base import Cluster
from toilfn.clusters.base import Session as ClusterSession
from toilfn.deploy import archive, install
from toilfn.errors import ClusterError, FencedError, KilledError, StoreExistsError
from toilfn.events import Capacity, TaskId
from toilfn.files import holds_files
from toilfn.filing import cache as filecache
from toilfn.graph import Recorder
from toilfn.lead.attemptlogs import AttemptLogs, log_file
from toilfn.lead.badworkers import BadWorkers
from toilfn.lead.committer import Committer
from toilfn.lead.failures import describe_arguments, failed_tasks, stuck_tasks
from toilfn.lead.index import Index
from toilfn.lead.interrupts import Interrupts
from toilfn.lead.leader import Answers, Leader, Watch
from toilfn.lead.loading import Loader
from toilfn.lead.mailbox import StoreAnswers
from toilfn.lead.valuecache import Values
from toilfn.progress import Progress
from toilfn.records import encode
from toilfn.scheduler import Policy, Scheduler
from toilfn.serialize import dumps, loads, resolve
from toilfn.settings import Settings
from toilfn.stores import Store, is_local, open_store, temporary_store
from toilfn.stores.lease import Lease
from toilfn.work.passed import ENVIRONMENT_VARIABLE, pack_environment, write_ref
from toilfn.work.scratch import CODE_VARIABLE, base_dir

__all__ = ["Session"]

_CHUNK = 5000
"""How many records go into one segment when a graph is written."""

_MANY_SEGMENTS = 500
"""More segments than this are joined when the next leader starts."""

_FLAG_INTERVAL = 2.0
"""Seconds between two looks at the kill flag."""


class Session:
    """Works on a store, as its leader as soon as there is anything to write.

    What is complete already is only read: that neither needs the lease nor leaves a trace.

    Parameters
    ----------
    settings : Settings
    workflow : str
        Tells this workflow from others that might be given the same store.
    create : bool
        Whether a store that does not exist is made.

    Raises
    ------
    StoreLockedError
        If another leader is alive.
    StoreError
        If the store cannot be used.
    """

    def __init__(self, settings: Settings, *, workflow: str = "", create: bool = True) -> None:
        self._settings = settings
        self._workflow = workflow
        self._temporary = settings.store is None
        self.store = _open(settings, workflow, create)
        self._place = settings.store or self.store.url
        self.index = Index.load(self.store.log)
        self._lease: Lease | None = None
        self._committer: Committer | None = None
        self._keep = False
        self._stopped = False

    def _take_the_lead(self) -> Committer:
        """Become the store's leader: from here on, whoever led before cannot write any more."""
        self._lease = Lease.acquire(self.store, timeout=self._settings.lease_timeout)
        while not self._write_epoch():  # somebody has led since we read the log
            self.index = Index.load(self.store.log)
        self.store.clear_flag("kill")
        self._compact()
        self._committer = Committer(self.store.log.append)
        return self._committer

    def _write_epoch(self) -> bool:
        number = self.index.epoch.number + 1 if self.index.epoch else 1
        epoch = records.Epoch(number, socket.gethostname(), os.getpid(), time.time())
        try:
            self.store.log.append([encode(epoch)])
        except FencedError:
            return False
        self.index.epoch = epoch
        return True

    def _compact(self) -> None:
        """Join the log's segments when earlier runs have left many."""
        if self.store.log.segments > _MANY_SEGMENTS:
            self.store.log.compact([data for _, data in self.store.log.read()])
            self.index = Index.load(self.store.log)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._committer is not None:
            self._committer.close()
        if self._lease is not None:
            self._lease.release()
        if self._should_clean(kind is None):
            self.store.destroy()
            filecache.forget(self.store.url)
        elif self._temporary:
            print(f"toilfn: the store is kept at {self._place}", file=sys.stderr)

    def _should_clean(self, succeeded: bool) -> bool:
        policy = self._settings.clean or ("onSuccess" if self._temporary else "never")
        if succeeded and self._keep:
            return False
        return policy == "always" or policy == ("onSuccess" if succeeded else "onError")

    def stop(self) -> None:
        """Ask a run in another thread to end at once."""
        self._stopped = True

    def compute(self, wanted: Any) -> Any:
        """Run what promises need, and give their values."""
        recorder = Recorder(self.store)
        payload, refs = dumps(wanted, recorder.identify)
        self._check_workflow(recorder)
        if all(map(self.index.is_complete, refs)):
            return self._result(payload, refs, Values(self.index.value))
        committer = self._take_the_lead()
        loader = Loader(self.index, self._settings, self.store.get_blob)
        run = self._record(recorder, payload, refs, loader)
        del recorder  # it holds as much as the graph itself
        return self._finish(run, loader, committer)

    def resume(self) -> Any:
        """Finish the newest run of the store."""
        run = self.index.runs[-1]
        if run.code is not None:
            install(self.store.get_blob(run.code), base_dir() / "code")
        if all(map(self.index.is_complete, run.roots)):
            return self._result(run.results, run.roots, Values(self.index.value))
        committer = self._take_the_lead()
        return self._finish(run, Loader(self.index, self._settings, self.store.get_blob), committer, resumed=True)

    def _record(self, recorder: Recorder, payload: bytes, refs: tuple[TaskId, ...], loader: Loader) -> records.Run:
        """Put a graph in the store, and its new tasks in the loader."""
        # What has not run is written again: its options may be others now, and the newest record counts.
        made = recorder.emit(self.index.is_complete, self.index.outcomes.__contains__, [])
        first = list(islice(made, 1))
        run = records.Run(
            number=len(self.index.runs) + 1,
            workflow=self._workflow,
            results=payload,
            roots=refs,
            settings=self._settings.as_dict(),
            code=self._code_of(recorder) if first else None,
            time=time.time(),
        )
        self._write(chain([run], first, made), loader)
        return run

    def _code_of(self, recorder: Recorder) -> records.BlobRef | None:
        """Keep the user's own modules in the store: for other machines, and for a resume after they have changed."""
        code = archive(recorder.functions())
        return None if code is None else self.store.put_blob(code)

    def _check_workflow(self, recorder: Recorder) -> None:
        names = {function.name for function in self.index.functions.values()}
        ours = {task.name for task in recorder.functions()}
        if not names or names & ours or self._is_same_script():
            return
        raise StoreExistsError(
            f"the store {self._place} holds another workflow, with the tasks {', '.join(sorted(names)[:5])}; "
            f"this one has {', '.join(sorted(ours)[:5])}. "
            f"Choose another store, or remove this one: toilfn clean {self._place}"
        )

    def _is_same_script(self) -> bool:
        """Whether an earlier run came from the same file of the user's (an installed program is none)."""
        is_script = os.path.isfile(self._workflow) and not self._workflow.startswith(sys.prefix)
        return is_script and any(run.workflow == self._workflow for run in self.index.runs)

    def _write(self, made: Iterator[records.Record], loader: Loader) -> None:
        while part := list(islice(made, _CHUNK)):
            encoded = [encode(record) for record in part]
            self.store.log.append(encoded)
            for record, data in zip(part, encoded, strict=True):
                if isinstance(record, records.Task):
                    loader.add(record, data)
                elif isinstance(record, records.Function):
                    self.index.functions[record.digest] = record

    def _finish(self, run: records.Run, loader: Loader, committer: Committer, *, resumed: bool = False) -> Any:
        status = "interrupted"
        try:
            values = self._lead(run, loader, committer, resumed)
            status = "done"
        except Exception as error:
            status = "killed" if isinstance(error, KilledError) else "failed"
            raise
        finally:
            if committer.error is None:  # else the store is not ours any more, or cannot be written to
                committer.add(encode(records.End(run.number, status, time.time())))
                committer.sync()
        return self._result(run.results, run.roots, values)

    def _result(self, payload: bytes, refs: tuple[TaskId, ...], values: Values) -> Any:
        result = loads(payload, self._load(values, refs))
        self._keep = self._temporary and holds_files(result)
        return result

    def _load(self, values: Values, ids: Sequence[TaskId]) -> dict[TaskId, Any]:
        payloads = {
            id_: (self.store.get_blob(value) if isinstance(value, records.BlobRef) else value, refs)
            for id_, (value, refs) in values.closure(ids).items()
        }
        return resolve(ids, payloads)

    def _lead(self, run: records.Run, loader: Loader, committer: Committer, resumed: bool) -> Values:
        cluster = self._cluster(run.code, resumed)
        try:
            with Interrupts() as interrupts, Progress(self._settings.progress) as progress, log_file(self._settings):
                leader = self._leader(cluster, loader, committer, interrupts, progress)
                leader.run(run.roots)
        finally:
            cluster.close()
        self._judge(leader, interrupts)
        return leader.values

    def _cluster(self, code: records.BlobRef | None, resumed: bool) -> Cluster:
        settings = self._settings
        if self.store.url.startswith("memory:"):
            if settings.cluster not in (None, "inline"):
                raise ClusterError(
                    f"the store {self._place} exists in this process only, and other processes cannot reach it: "
                    "use cluster='inline', or a store on disk"
                )
            settings = replace(settings, cluster="inline")
        cluster = make_cluster(settings)
        environment = self._environment(direct=cluster.capabilities.direct)
        if code is not None and (resumed or not cluster.capabilities.direct):  # else workers import what we import
            environment[CODE_VARIABLE] = write_ref(code)
        cluster.open(ClusterSession(self.store.url, self._jobs_name, environment))
        return cluster

    def _environment(self, *, direct: bool) -> dict[str, str]:
        """Give the variables that workers get; those on other machines are passed the rest of ours, through the store.

        A direct cluster's workers are this process's children and have that anyway.
        """
        settings = self._settings
        given = {"TOILFN_LOG_LIMIT": str(settings.log_limit), "TOILFN_LOG_LEVEL": settings.log_level}
        if settings.work_dir is not None:
            given["TOILFN_WORK_DIR"] = os.path.abspath(settings.work_dir)
        if settings.cache_size is not None:
            given["TOILFN_CACHE_SIZE"] = str(settings.cache_size)
        if direct:
            streams = {"TOILFN_STREAM_LOGS": "1"} if settings.stream_logs else {}
            return {**given, **streams, **(settings.set_env or {})}
        passed = self.store.put_blob(pack_environment(os.environ, settings.set_env or {}))
        return {**given, ENVIRONMENT_VARIABLE: write_ref(passed)}

    @property
    def _jobs_name(self) -> str:
        return f"toilfn-{self.store.id[:12]}"

    def _leader(
        self, cluster: Cluster, loader: Loader, committer: Committer, interrupts: Interrupts, progress: Progress
    ) -> Leader:
        capacity = _capped(cluster.capacity(), self._settings)
        self.scheduler = Scheduler(capacity, Policy(target_seconds=self._settings.batch_target))
        assert self.index.epoch is not None
        flag = _Flag(self.store)
        logs = AttemptLogs(self._settings, self._read_log, progress.message)
        bad = BadWorkers(self._settings.bad_worker, self._settings.bad_worker_interval)
        return Leader(
            self.index,
            loader,
            self.scheduler,
            cluster,
            self._jobs_name,
            committer,
            Answers() if cluster.capabilities.direct else StoreAnswers(self.store),
            f"{self.index.epoch.number}",
            Watch(
                should_drain=lambda: interrupts.count == 1,
                should_stop=lambda: interrupts.count > 1 or self._stopped or flag.is_set(),
                tick=progress.update,
                victims=bad.choose,
                ended=logs.ended if logs.is_needed else None,
                said=logs.said,
            ),
            self.store.objects.delete,
        )

    def _judge(self, leader: Leader, interrupts: Interrupts) -> None:
        """Raise what a run that did not end well is to raise."""
        if leader.is_done:
            return
        if interrupts.count:
            raise KeyboardInterrupt
        if self._stopped or self.store.has_flag("kill"):
            raise KilledError(f"the run was stopped on request; to go on: toilfn resume {self._place}")
        if leader.failures:
            raise failed_tasks(leader.failures, leader.task_name, self._inputs_of(leader), self._log_of, self._place)
        if stuck := leader.stuck():
            raise stuck_tasks(stuck, leader.task_name)

    def _inputs_of(self, leader: Leader) -> Callable[[TaskId], str]:
        return lambda id_: describe_arguments(leader.task(id_), leader.task_name, self.store.get_blob)

    def _log_of(self, failure: records.Failure) -> str:
        return self._read_log(failure).decode(errors="replace")

    def _read_log(self, attempt: records.Outcome | records.Failure) -> bytes:
        return self.store.get_blob(attempt.log) if isinstance(attempt.log, records.BlobRef) else attempt.log


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


def _open(settings: Settings, workflow: str, create: bool) -> Store:
    if settings.store is None:
        return temporary_store(workflow)
    # Only stores on disk can be told not to wait for the disk.
    options = {"sync": False} if settings.durability == "none" and is_local(settings.store) else {}
    return open_store(settings.store, create=create, workflow=workflow, **options)


def _capped(capacity: Capacity, settings: Settings) -> Capacity:
    """Take the user's limits off what the cluster can give."""
    total = capacity.total
    if total is not None:
        total = replace(
            total,
            cores=min(total.cores, settings.max_cores or total.cores),
            memory=min(total.memory, settings.max_memory or total.memory),
            disk=min(total.disk, settings.max_disk or total.disk),
        )
    batches = min((n for n in (capacity.batches, settings.max_jobs) if n is not None), default=None)
    services = (settings.max_service_tasks, settings.max_preemptible_service_tasks)
    return Capacity(total, capacity.largest, batches, *services)
