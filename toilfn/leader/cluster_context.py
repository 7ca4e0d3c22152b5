"""Prepare for a cluster: the environment of its workers, its notes, and the policy of the scheduler.

It also checks whether the cluster's nodes see the store. `policy` is here because it depends on what the cluster can
do, and on the store's place.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import psutil

from toilfn.clusters.base import FRESH_VARIABLE, Cluster, ClusterNotes, RunContext
from toilfn.config.settings import Settings
from toilfn.errors import ClusterError
from toilfn.files.cache import SHARED_VARIABLE
from toilfn.files.node import KEEP_VARIABLE
from toilfn.files.room import AGE_VARIABLE, LIMIT_VARIABLE
from toilfn.files.task_files import DIGEST_VARIABLE, LINK_VARIABLE
from toilfn.graph.record import OWN_BUFFERS_VARIABLE
from toilfn.moved import MOVED_VARIABLE
from toilfn.resources import Capacity
from toilfn.scheduler import Policy
from toilfn.stores import Store, is_local
from toilfn.stores.digests import DEFAULT
from toilfn.stores.options import worker_variables
from toilfn.worker.passed import (
    ENVIRONMENT_VARIABLE,
    SET_VARIABLE,
    VERSIONS_VARIABLE,
    pack_environment,
    versions,
    write_ref,
)
from toilfn.worker.surroundings import OWN_DIRECTORY_VARIABLE, START_VARIABLE
from toilfn.worker.usage import WORKER_MEMORY_VARIABLE

__all__ = [
    "CHECK_VARIABLE", "StoredNotes", "capped", "check_shared", "jobs_name", "policy", "run_context",
    "worker_environment", "worker_memory",
]  # fmt: skip

_log = logging.getLogger(__name__)


class StoredNotes(ClusterNotes):
    """A cluster's notes in a store.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def read(self, name: str) -> bytes:
        """Return a note, or an empty value if it does not exist."""
        return self._store.get_note(name)

    def write(self, name: str, data: bytes) -> None:
        """Keep a note instead of an earlier one of the name."""
        self._store.put_note(name, data)


def jobs_name(store: Store) -> str:
    """Return the name under which clusters have the jobs of a store's workflow."""
    return f"toilfn-{store.id[:12]}"


def run_context(
    store: Store,
    settings: Mapping[str, Any],
    environment: dict[str, str] | None = None,
    outage: Callable[[str], None] = lambda _: None,
) -> RunContext:
    """Build the context with which a cluster is opened.

    Parameters
    ----------
    store : Store
    settings : mapping
        Of the run, as its record has them.
    environment : dict, optional
        Variables for workers.
    outage : callable, optional
        Called with the description of an outage.
    """
    return RunContext(
        store.url,
        jobs_name(store),
        environment or {},
        StoredNotes(store),
        settings.get("batch_logs") or "",
        settings.get("keep_batch_logs", True),
        outage,
    )


_SHARED = (
    "nfs", "lustre", "gpfs", "beegfs", "ceph", "fuse", "gfs2", "ocfs2", "panfs", "pvfs", "orangefs", "glusterfs", "smb",
    "cifs", "afs", "9p", "virtiofs", "wekafs", "vastnfs", "quobyte", "autofs", "daos",
)  # fmt: skip
"""The beginnings of the types of file systems that several machines may share."""


def check_shared(cluster: Cluster, url: str, place: str) -> None:
    """Check that a cluster's nodes can see a store.

    Parameters
    ----------
    cluster : Cluster
        Opened; not a direct one.
    url : str
        The store's.
    place : str
        The store as the user named it.

    Raises
    ------
    ClusterError
        If the store is in a folder that each machine has for itself, and the cluster has other machines.
    """
    if not is_local(url):
        return
    has_others = cluster.has_other_machines()
    if has_others is False:
        return
    path = os.path.realpath(url.removeprefix("file://"))
    if (folder := _node_local(path)) is not None:
        text = f"the store {place} is in {folder}, which is local to each machine"
        if has_others:
            raise ClusterError(f"{text}: jobs on other machines cannot reach it", hint=_ADVICE)
        _log.warning("%s; if jobs run on other machines, %s", text, _ADVICE)
    elif not (kind := _file_system(path)).startswith(_SHARED):
        _log.warning(
            "the store %s is on a file system of type %s, which other machines may not see; if jobs run there, %s",
            place, kind or "unknown", _ADVICE,
        )  # fmt: skip


_ADVICE = "use a bucket, or a directory that the leader and the nodes share, as the store"


def _node_local(path: str) -> str | None:
    """Return the folder of this machine alone that contains a path; None if there is none."""
    places = {"/tmp", "/var/tmp", "/dev/shm", "/run", os.path.realpath(tempfile.gettempdir())}  # noqa: S108 - nothing is written there
    inside = (place for place in places if os.path.commonpath([place, path]) == place)
    return next((place for place in inside if not _file_system(path).startswith(_SHARED)), None)


def _file_system(path: str) -> str:
    """Return the type of the file system of a path."""
    mounts = {mount.mountpoint: mount.fstype for mount in psutil.disk_partitions(all=True)}
    while path not in mounts and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return mounts.get(path, "")


def worker_environment(store: Store, settings: Settings, *, direct: bool) -> dict[str, str]:
    """Return the variables of workers; those on other machines get the rest of ours through the store.

    A direct cluster's workers are this process's children and have that anyway.
    """
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
    given |= worker_variables(store.url, private=direct)
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
        memory = {WORKER_MEMORY_VARIABLE: str(worker_memory(settings, is_local=is_local(store.url)))}
        return {**given, **memory, **(settings.set_env or {})}
    passed = store.put_blob(pack_environment(os.environ, settings.set_env or {}))
    known_meta = {} if is_local(store.url) else store.worker_variables()
    return {**given, **known_meta, ENVIRONMENT_VARIABLE: write_ref(passed), VERSIONS_VARIABLE: versions()}


def _machine_variables(settings: Settings) -> dict[str, str]:
    """Return the variables that set where workers keep their files on a machine, and for how long."""
    places = {
        "TOILFN_WORK_DIR": settings.work_dir,
        "TOILFN_COORDINATION_DIR": settings.coordination_dir,
        SHARED_VARIABLE: settings.cache_shared,
    }
    times = {AGE_VARIABLE: settings.cache_age, KEEP_VARIABLE: settings.keep_on_nodes}
    given = {name: os.path.abspath(place) for name, place in places.items() if place is not None}
    given |= {name: f"{time:g}s" for name, time in times.items() if time is not None}
    return given if settings.cache_size is None else {**given, LIMIT_VARIABLE: str(settings.cache_size)}


def _directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


CHECK_VARIABLE = "TOILFN_CHECK_SCHEDULER"
"""Has the scheduler check its whole state each time it starts tasks; for tests, and to find a bug."""

_PROBES = 4
_MOST_IN_A_BUNDLE = 1000

_ON_QUEUES: dict[str, Any] = {
    "target_seconds": 120.0, "max_batch": _MOST_IN_A_BUNDLE, "probes": 16, "probe_patience": 600.0, "spread": 32,
}  # fmt: skip
"""The default, as an administrator would want it: few tasks are submitted one by one; of many, some show
how long they take before the others are put together into jobs of some minutes."""


def policy(settings: Settings, gather: float, *, is_queue: bool) -> Policy:
    """Return the policy by which tasks share batches.

    Parameters
    ----------
    settings : Settings
    gather : float
        The seconds for which tasks wait for others, if the user has not chosen them.
    is_queue : bool
        Whether the cluster has its own queue: a job is slow to start there, and it is worthwhile to find out first
        how much goes into one.
    """
    chosen = Policy(gather=gather if settings.gather is None else settings.gather, check=CHECK_VARIABLE in os.environ)
    if settings.fresh_process:
        return replace(chosen, target_seconds=0.0, max_batch=1)
    if settings.bundle is None:
        return replace(chosen, **_ON_QUEUES) if is_queue else chosen
    chosen = replace(chosen, target_seconds=settings.bundle)
    return replace(chosen, max_batch=_MOST_IN_A_BUNDLE, probes=_PROBES) if is_queue and settings.bundle else chosen


def worker_memory(settings: Settings, *, is_local: bool) -> int:
    """Return how many bytes a worker needs for itself.

    A worker takes 31 MiB before its first task. With the driver of a bucket, it takes 70 MiB, and 140 MiB while it
    reads two large files and writes a third.

    Parameters
    ----------
    settings : Settings
    is_local : bool
        Whether the store is a directory.
    """
    if settings.worker_memory is not None:
        return settings.worker_memory
    return (64 if is_local else 150) * 2**20


def capped(capacity: Capacity, settings: Settings) -> Capacity:
    """Combine the user's limits with the cluster's capacity: they hold wherever tasks run."""
    batches = min((n for n in (capacity.batches, settings.max_jobs) if n is not None), default=None)
    services = (settings.max_service_tasks, settings.max_preemptible_service_tasks)
    limits = (settings.max_cores, settings.max_memory, settings.max_disk)
    return Capacity(capacity.total, capacity.largest, batches, services[0], services[1], *limits)
