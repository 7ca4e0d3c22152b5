"""Run a workflow on a store, from the lease to the result."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING, Any

from toilfn.clusters import make_cluster
from toilfn.config.params import chosen
from toilfn.config.settings import Settings
from toilfn.errors import ClusterError, FencedError, GraphError, KilledError, StoreExistsError
from toilfn.files.file import held_by, holds_files
from toilfn.graph.record import Recorder
from toilfn.graph.serialize import dumps, loads, resolve
from toilfn.graph.values import Values
from toilfn.ids import TaskId
from toilfn.leader.committer import Committer
from toilfn.leader.loading import (
    NO_FORCE,
    REASON,
    Force,
    Forced,
    Loader,
    StaleOutcomes,
    forced_by_name,
    forced_in_graph,
    known_names,
)
from toilfn.leader.metrics import Metrics, check_metrics
from toilfn.model import records
from toilfn.model.index import Index
from toilfn.model.records import encode, uncollected
from toilfn.model.traces import VARIABLE as TRACE_VARIABLE
from toilfn.model.traces import TraceContext
from toilfn.moved import moved_from, new_place
from toilfn.stdio import open_closed_descriptors, report
from toilfn.stores import Store, is_local, open_store, temporary_store
from toilfn.stores.counted import counted
from toilfn.stores.digests import check_algorithm

if TYPE_CHECKING:
    from toilfn.clusters.base import Cluster, JobId
    from toilfn.stores.lease import Lease

__all__ = ["WorkflowRun"]

_logger = logging.getLogger("toilfn")

_CHUNK = 5000
"""How many records go into one segment when a graph is written."""

_REMEMBERED = ("digest", "intermediates", "link_imports")
"""Settings that a resumed run keeps from its start, unless they are given again."""

_MANY_SEGMENTS = 500
"""If the log has more segments than this, the next leader joins them."""


class WorkflowRun:
    """Works on a store, as its leader as soon as there is anything to write.

    Complete results are only read, which needs no lease and leaves no trace.

    Parameters
    ----------
    settings : Settings
    workflow : str
        Distinguishes this workflow from others that a user might run on the same store.
    create : bool
        Whether a store that does not exist is created.

    Raises
    ------
    StoreLockedError
        If another leader is alive.
    StoreError
        If the store cannot be used.

    Attributes
    ----------
    store : Store
    index : Index
        The content of its log.
    settings : Settings
    place : str
        The store as the user named it.
    cluster : Cluster
        Set only while this process is the store's leader.
    metrics : Metrics or None
    is_stopped : bool
        Whether the run has to stop at once.
    elsewhere : dict
        Living jobs, and their batches, that earlier leaders gave to clusters of the same class with other settings.
    may_have_jobs : bool
        Whether jobs may still live: those of this leader, or those of earlier ones that it could not query.
    """

    def __init__(self, settings: Settings, *, workflow: str = "", create: bool = True) -> None:
        open_closed_descriptors()
        self.settings = settings
        self._workflow = workflow
        self._temporary = settings.store is None
        check_metrics(settings.metrics_port)
        self.metrics = None if settings.metrics_port is None else Metrics(settings.metrics_port)
        self.store = _open(settings, workflow, create)
        if self.metrics is not None:
            self.store = self.store.over(counted(self.store.objects, self.metrics.traffic))
        self.place = settings.store or self.store.url
        self._held = held_by(self.store)
        self.index = Index.load(self.store.log)
        self.cluster: Cluster  # set when this process becomes the leader
        self._lease: Lease | None = None
        self._committer: Committer | None = None
        self._has_begun = False
        self._keep = False
        self.is_stopped = False
        self.elsewhere: dict[JobId, str] = {}
        self.may_have_jobs = False

    def _take_the_lead(self) -> Committer:
        """Become the store's leader: from here on, an earlier leader can no longer write."""
        # Imported here: results that are only read need none of it, and are read three times as quickly.
        from toilfn.stores.lease import Lease

        if self.settings.digest is not None:
            check_algorithm(self.settings.digest)
        self.cluster = _choose_cluster(self.settings, self.store.url, self.place)  # a wrong one leaves no trace
        self._lease = Lease.acquire(self.store, timeout=self.settings.lease_timeout)
        while not self._write_epoch():  # someone has led since we read the log
            self.index = Index.load(self.store.log)
        self._look_elsewhere()
        self.cluster.warm_up({**os.environ, **(self.settings.set_env or {})})
        self.store.clear_flag("kill")
        self._compact()
        self._committer = Committer(self.store.log.append)
        return self._committer

    def _look_elsewhere(self) -> None:
        """Check that no job of an earlier run still runs on a cluster that this leader does not query."""
        if any(run.number not in self.index.ended for run in self.index.runs):
            from toilfn.leader.abandoned import living_elsewhere

            self.elsewhere = living_elsewhere(self.index, self.store, self.settings, self.place)

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
        if self.store.log.length > _MANY_SEGMENTS:
            self.store.log.compact([data for _, data in self.store.log.read()])
            self.index = Index.load(self.store.log)

    def __enter__(self) -> WorkflowRun:
        """Resolve files in payloads that are pickled and loaded in the block to the store, as `held_by` does."""
        self._held.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.__exit__()
        if self._committer is not None:
            self._committer.close()
        if self._lease is not None:
            self.cluster.cool_down()
            self._lease.release()
        if self._should_clean(kind is None):
            from toilfn.files import node

            self.store.destroy()
            node.remove(self.store.url, images=False)
        elif self._temporary:
            report(f"toilfn: the store is kept at {self.place}")

    @property
    def way_on(self) -> str | None:
        """The command that resumes a run that did not succeed; None if its store is removed."""
        return None if self._should_clean(succeeded=False) else f"toilfn resume {shlex.quote(self.place)}"

    def _should_clean(self, succeeded: bool) -> bool:
        if self.may_have_jobs:  # their workers need the store, and so does the leader that adopts them
            return False
        if not (succeeded or self._has_begun):  # a failure of this run must not remove the work of other runs
            return self._temporary
        policy = self.settings.clean or ("onSuccess" if self._temporary else "never")
        if succeeded and self._keep:
            return False
        return policy == "always" or policy == ("onSuccess" if succeeded else "onError")

    def stop(self) -> None:
        """Ask a run in another thread to stop at once."""
        self.is_stopped = True

    def compute(self, wanted: Any, force: Force = NO_FORCE) -> Any:
        """Run what promises need, and return their values."""
        recorder = Recorder(self.store)
        with uncollected():
            payload, refs = dumps(wanted, recorder.identify)
        self._check_workflow(recorder)
        _say_not_compared(recorder.not_compared)
        forced = forced_in_graph(force, recorder, self.index, refs)
        if not forced.again and self._has_all(refs):
            _check_known(forced)
            return self._result(payload, refs, Values(self.index.value))
        committer = self._take_the_lead()
        loader = self._loader(forced, refs)
        run = self._record(recorder, payload, refs, loader)
        del recorder  # it holds as much as the graph itself
        return self._finish(run, loader, committer)

    def _loader(self, forced: Forced, roots: tuple[TaskId, ...]) -> Loader:
        """Build the loader, for which outcomes that are forced, or that have lost files of the results, do not hold."""
        loader = Loader(self.index, self.settings, self.store.payload)
        # Now no other leader writes: one that led meanwhile may have taken some of these back already.
        loader.stale.force((id_ for id_ in forced.again if id_ in self.index.outcomes), REASON)
        loader.stale.renew_results(roots)
        return loader

    def resume(self, force: Force = NO_FORCE) -> Any:
        """Finish the newest run of the store."""
        run = self.index.runs[-1]
        forced = forced_by_name(force, self.index, run.roots, self.store.open_blob)
        run = run._replace(forced=tuple(dict.fromkeys((*run.forced, *forced.ids))))
        if run.code is not None:
            from toilfn.files.node import attach, code_dir
            from toilfn.graph.code import install

            attach(self.store)
            install(self.store.get_blob(run.code), code_dir(self.store.url))
        if not forced.again and self._has_all((*run.roots, *run.forced)):
            return self._result(run.results, run.roots, Values(self.index.value))
        if self.settings.cluster is None:
            from toilfn.leader.abandoned import cluster_of

            self.settings = replace(self.settings, cluster=cluster_of(run, self.place))
        kept: dict[str, Any] = {
            name: run.settings.get(name) for name in _REMEMBERED if getattr(self.settings, name) is None
        }
        self.settings = replace(self.settings, **kept)
        home = run.settings.get("home")
        settings = {**self.settings.as_dict(), "home": home, "traceparent": run.settings.get("traceparent")}
        here = self._home()
        with new_place(moved_from(home, here[1]) if home and here else None):
            committer = self._take_the_lead()
            committer.add(encode(run._replace(settings=settings)))  # it has not ended, nor where it began
            return self._finish(run, self._loader(forced, run.roots), committer, resumed=True)

    def _has_all(self, roots: tuple[TaskId, ...]) -> bool:
        """Return whether the store has the results of a run, with their files."""
        if not all(map(self.index.is_complete, roots)):
            return False
        return not (self.index.dropped and StaleOutcomes(self.index, self.store.payload).lacks_files(roots))

    def _record(self, recorder: Recorder, payload: bytes, refs: tuple[TaskId, ...], loader: Loader) -> records.Run:
        """Put a graph in the store, and its new tasks in the loader."""
        # Tasks that have not run are written again: their options may have changed, and the newest record counts.
        made = recorder.emit(self.index.is_complete, self.index.outcomes.__contains__, [])
        first = list(islice(made, 1))
        run = records.Run(
            number=len(self.index.runs) + 1,
            workflow=self._workflow,
            results=payload,
            roots=refs,
            settings=self.settings.as_dict() | self._circumstances(),
            code=self._code_of(recorder) if first else None,
            time=time.time(),
        )
        self._write(chain([run], first, made), loader)
        return run

    def _circumstances(self) -> dict[str, Any]:
        return {"home": self._home(), "params": chosen(), "traceparent": _outer_span()}

    def _home(self) -> list[str] | None:
        """Return the working directory and the store's path, if it is a directory on this machine: `toilfn.moved`."""
        place = self.store.objects.local_path("store.json") if is_local(self.store.url) else None
        try:
            return None if place is None else [os.getcwd(), str(place.parent)]
        except FileNotFoundError:  # someone has removed the working directory
            return None

    def _code_of(self, recorder: Recorder) -> records.BlobRef | None:
        """Keep the user's own modules in the store: for other machines, and for a resume after they have changed."""
        from toilfn.graph.code import archive

        code = archive(recorder.functions(), self.settings.deploy or ())
        return None if code is None else self.store.put_blob(code)

    def _check_workflow(self, recorder: Recorder) -> None:
        names = {function.name for function in self.index.functions.values()}
        ours = {task.name for task in recorder.functions()}
        if not names or names & ours or self._is_same_script():
            return
        raise StoreExistsError(
            f"store {self.place} holds another workflow, with the tasks {', '.join(sorted(names)[:5])};"
            f" this one has {', '.join(sorted(ours)[:5])}",
            hint=f"choose another store, or remove this one: toilfn clean {self.place}",
        )

    def _is_same_script(self) -> bool:
        """Return whether an earlier run came from the same file of the user's (an installed program is none)."""
        is_script = os.path.isfile(self._workflow) and not self._workflow.startswith(sys.prefix)
        return is_script and any(run.workflow == self._workflow for run in self.index.runs)

    def _write(self, made: Iterator[records.Record], loader: Loader) -> None:
        while part := list(islice(made, _CHUNK)):
            encoded = [encode(record) for record in part]
            self.store.log.append(encoded)
            for record, data in zip(part, encoded, strict=True):
                if isinstance(record, records.TaskRecord):
                    loader.add(record, data)
                elif isinstance(record, records.Function):
                    self.index.functions[record.digest] = record

    def _finish(self, run: records.Run, loader: Loader, committer: Committer, *, resumed: bool = False) -> Any:
        from toilfn.leader.drive import lead

        self._has_begun = True
        status = "interrupted"
        try:
            values = lead(self, run, loader, committer, resumed=resumed)
            status = "done"
        except Exception as error:
            status = "killed" if isinstance(error, KilledError) else "failed"
            raise
        finally:
            if committer.error is None:  # else the store is no longer ours, or cannot be written to
                if not self.may_have_jobs:  # else `kill` and later leaders look for them
                    committer.add(encode(records.End(run.number, status, time.time(), self.store.objects.requests)))
                committer.sync()
                self._tell_hook(status)
        return self._result(run.results, run.roots, values)

    def _tell_hook(self, status: str) -> None:
        if self.settings.on_success or self.settings.on_failure:
            from toilfn.leader.notifications import call_hook

            call_hook(self.settings, self.store, status)

    def _result(self, payload: bytes, refs: tuple[TaskId, ...], values: Values) -> Any:
        result = loads(payload, self._load(values, refs))
        if self._temporary:
            self._keep = holds_files(result)
        return result

    def _load(self, values: Values, ids: Sequence[TaskId]) -> dict[TaskId, Any]:
        payloads = {id_: (self.store.payload(value), refs) for id_, (value, refs) in values.closure(ids).items()}
        return resolve(ids, payloads)


def _outer_span() -> str | None:
    """Return the context of the span in which this process was started, for the run's own span."""
    outer = TraceContext.read(os.environ.get(TRACE_VARIABLE, ""))
    return None if outer is None else str(outer)


def _open(settings: Settings, workflow: str, create: bool) -> Store:
    if settings.store is None:
        return temporary_store(workflow)
    # Only stores on disk have the option not to wait for the disk.
    options = {"sync": False} if settings.durability == "none" and is_local(settings.store) else {}
    return open_store(settings.store, create=create, workflow=workflow, **options, **(settings.store_options or {}))


def _choose_cluster(settings: Settings, url: str, place: str) -> Cluster:
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
        If the cluster does not exist, lacks a package or command, or if its workers could not reach the store.
    """
    if url.startswith("memory:"):
        if settings.cluster not in (None, "inline"):
            raise ClusterError(
                f"store {place} exists in this process only, and other processes cannot reach it",
                hint="use cluster='inline', or a store on disk",
            )
        settings = replace(settings, cluster="inline")
    cluster = make_cluster(settings)
    if cluster.capabilities.direct:
        return cluster
    from toilfn.clusters.local.beside import BesideCluster

    return BesideCluster(cluster, settings.max_local_jobs)


def _check_known(forced: Forced) -> None:
    """Raise an error if no task that is still to come can have a name in `force`: the name is misspelled."""
    if forced.unknown:
        raise GraphError(f"force: no task is named {forced.unknown[0]!r}", hint=known_names(forced.names))


_MOST_NAMES = 5
_said: set[str] = set()
"""The names about which this process has warned already."""


def _say_not_compared(found: Mapping[str, str]) -> None:
    """Warn once about objects that tasks use and whose edits do not run a task again."""
    new = sorted(found.keys() - _said)
    if not new:
        return
    _said.update(new)
    names = ", ".join(f"{place} ({found[place]})" for place in new[:_MOST_NAMES])
    rest = f" and {len(new) - _MOST_NAMES} more" if len(new) > _MOST_NAMES else ""
    _logger.warning(
        "not compared: %s%s; editing it does not make tasks run again: pass what matters as an argument, or change the "
        "task's option version",
        names,
        rest,
    )
