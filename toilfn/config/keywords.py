"""The keywords of `compute`, `submit` and `resume`, with the types that editors and type checkers see.

Each key is a field of `toilfn.config.settings.Settings`, which has the defaults and the parsers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from toilfn.clusters.base import Cluster

__all__ = ["Duration", "ResumeSettings", "RunSettings", "Size"]

Size: TypeAlias = "int | str"
"""Bytes, or a text such as ``"2G"`` or ``"512Mi"``."""

Duration: TypeAlias = "float | str"
"""Seconds, or a text such as ``"30s"`` or ``"1h30m"``."""

Place: TypeAlias = "str | os.PathLike[str]"
Cleaning: TypeAlias = Literal["always", "onError", "never", "onSuccess"]


class ResumeSettings(TypedDict, total=False):
    """Keywords of `resume`; None stands for "not given"."""

    store_options: Mapping[str, Any] | None
    """NAME=VALUE option of the store, such as endpoint_url, region, sse or encryption_key; write a secret as env:NAME
    or file:PATH; may be repeated."""

    clean: Cleaning | None
    """When to remove the store at the end of the run: always, onError, never or onSuccess (default: remove a temporary
    store after success, keep a named one)."""

    durability: Literal["full", "none"] | None
    """Full: finished work survives a power failure; none: it survives the death of processes only, which is faster for
    stores on this machine (default: full)."""

    link_imports: bool | Literal["copy", "reflink", "hard", "symlink", "reference"] | None
    """How imports without a choice of their own bring files of this machine into the store: copy, or reflink, hard or
    symlink, which take neither time nor space; reference is like symlink, and records only the addresses of s3: and gs:
    objects; linked files and objects must not change (default: copy)."""

    digest: Literal["blake2b", "sha256", "xxh3", "blake3"] | None
    """Algorithm of the digests of new files: blake2b, sha256 (that of sha256sum), xxh3 or blake3, which are several
    times as fast; blake3 uses several cores (default: blake2b)."""

    intermediates: Literal["keep", "drop"] | None
    """Files that no unfinished task needs and that the run does not return: keep them, or drop them during the run and
    make them again when a later run needs them (default: keep)."""

    min_free: Size | None
    """Space to keep free on the store's disk; with less, tasks without dependencies wait for the others, and then start
    one at a time (default: with intermediates=drop a twentieth of the disk, at most 10 GiB)."""

    workflow: str | None
    """Name of this workflow (default: the script's path)."""

    cluster: Cluster | str | None
    """Where tasks run: local, inline, or the name of a batch system (default: local)."""

    cluster_settings: Mapping[str, Mapping[str, Any]] | None
    """Settings of cluster classes by the names of their clusters, such as {'slurm': {'partition': 'long'}}; as flags
    --slurm-partition long and so on, in files sections of these names."""

    workers: int | None
    """Number of worker processes of the local cluster (default: one for each core)."""

    max_jobs: int | None
    """Maximum number of jobs on the cluster at once, services not counted (default: no limit)."""

    max_local_jobs: int | None
    """Maximum number of processes on the leader's machine at once, for tasks with local=True of a run on a batch system
    (default: one for each core)."""

    max_service_tasks: int | None
    """Maximum number of services that run at once (default: no limit)."""

    max_preemptible_service_tasks: int | None
    """Maximum number of services that run on preemptible nodes at once; counted separately (default: no limit)."""

    service_patience: Duration | None
    """How long tasks may wait in a batch system's queue because of a limit on the user's jobs, while only services run,
    before they fail; 24 times as long if the system gives another reason (default: 10m)."""

    bundle: Duration | None
    """Group short tasks into batches that run for about this long: with 30s, many tiny tasks share one job of a batch
    system, once the first few have been timed; 0 turns batches off (default: 50ms, on batch systems 2m, as long as more
    than 32 jobs are left)."""

    gather: Duration | None
    """Delay before ready tasks are submitted, so that more of them are submitted in one call (default: 0.5s on batch
    systems)."""

    batch_logs: Place | None
    """Directory, shared by the leader and the nodes, for the scripts and the output of a batch system's jobs (default:
    one in the store, or in the home directory)."""

    keep_batch_logs: bool | None
    """Keep the output of a batch system's jobs outside their tasks until the jobs succeed (default: True)."""

    poll_interval: Duration | None
    """Time between two queries of a batch system (default: chosen by the cluster)."""

    default_cores: float | None
    """Default cores per task (default: 1)."""

    default_memory: Size | None
    """Default memory per task (default: 2Gi)."""

    default_disk: Size | None
    """Default disk per task (default: 2Gi)."""

    default_walltime: Duration | None
    """Default time limit for one attempt of a task (default: no limit)."""

    default_preemptible: bool | None
    """Run tasks on preemptible nodes unless they say otherwise (default: False)."""

    default_accelerators: int | str | None
    """Default accelerators per task, such as 1, cuda:2 or nvidia-tesla-k80."""

    max_cores: float | None
    """Maximum cores in use at once, on any cluster; a task that requests more fails (default: no limit)."""

    max_memory: Size | None
    """Maximum memory in use at once, on any cluster; a task that requests more fails (default: no limit)."""

    max_disk: Size | None
    """Maximum disk in use at once, on any cluster; a task that requests more fails (default: no limit)."""

    worker_memory: Size | None
    """Memory of the worker itself and of the store's driver, which is added to each request to a batch system and does
    not count as the task's (default: 64Mi with a store in a directory, else 150Mi)."""

    set_env: Mapping[str, str] | Sequence[str] | str | None
    """Environment variable for the tasks: NAME=VALUE, or NAME to pass on its value from here; may be repeated."""

    deploy: Sequence[Place] | Place | None
    """Module or package of the leader's environment, or file or folder, to send to workers on other machines together
    with the user's own modules; may be repeated."""

    own_directory: bool | None
    """Start each attempt in its own empty directory, its temp_dir; otherwise tasks share the directory in which the
    cluster starts workers, and tasks that write files of the same name overwrite each other's files (default: True)."""

    fresh_process: bool | None
    """Run each attempt in a new process, so that no state of one task reaches another; slower for short tasks (default:
    False)."""

    work_dir: Place | None
    """Local directory in which each machine keeps temporary directories, copies of files and their locks (default: the
    system's directory for temporary files)."""

    clean_work_dir: Cleaning | None
    """When to remove the temporary directory of a finished attempt; the log names a directory that is kept (default:
    always)."""

    coordination_dir: Place | None
    """Local directory in which each machine keeps its locks, if the work directory is shared with other machines;
    containers on one machine that share this directory share the file cache."""

    cache_size: Size | None
    """Maximum size of each machine's file cache, 0 for no cache (default: a fifth of the disk)."""

    cache_age: Duration | None
    """Time after which a file that no task has used is removed from each machine's file cache (default: 30d)."""

    keep_on_nodes: Duration | None
    """Time for which a machine keeps copied files, unpacked code and container images after the last process of the run
    has left it, 0 to remove them at once (default: 1d)."""

    cache_shared: str | None
    """Local directory through which users of a machine share the files of their caches; on the file system of the work
    directory."""

    retries: int | None
    """Number of retries of a task that fails (default: 1)."""

    retry_backoff: Duration | None
    """Delay before the first retry; doubled for each further one, up to 60s (default: 0.5s)."""

    memory_retries: int | None
    """Number of retries of a task that was killed because of its memory use (default: the same as retries)."""

    walltime_retries: int | None
    """Number of retries of a task that exceeded its time limit (default: the same as retries)."""

    preempted_retries: int | None
    """Number of retries of a task that was preempted (default: no limit)."""

    lost_retries: int | None
    """Number of retries of a task whose worker or node died (default: 3)."""

    double_memory: bool | None
    """Double the memory of a task for its retry after it was killed because of its memory use (default: False)."""

    double_walltime: bool | None
    """Double the time limit of a task for its retry after it exceeded its limit (default: False)."""

    progress: bool | None
    """Show progress on standard error: a bar on a terminal, otherwise a line from time to time."""

    log_level: Literal["debug", "info", "warning", "error", "critical"] | None
    """Minimum level of log messages: debug, info, warning, error or critical (default: info)."""

    log_limit: Size | None
    """Maximum size of the log that is kept for each attempt; the middle of a longer log is left out (default: 64Ki)."""

    stream_logs: bool | None
    """Show the output of tasks on standard error, while they run if the cluster supports it (default: False)."""

    write_logs: Place | None
    """Write the log of each failed attempt to a file in this directory."""

    write_logs_success: bool | None
    """With write_logs, also write the logs of attempts that succeeded (default: False)."""

    write_logs_gzip: bool | None
    """Compress the files that write_logs writes (default: False)."""

    log_file: Place | None
    """Write the leader's log messages to this file."""

    log_file_size: Size | None
    """Size at which the log file is rotated; five old files are kept (default: 10M)."""

    metrics_port: int | None
    """Port on this machine's loopback interface at which the leader serves /metrics for Prometheus, 0 for any free port
    (default: none)."""

    on_success: str | Sequence[str] | None
    """Command to run once after the run has succeeded, with the summary of toilfn status --json on standard input, or
    an http(s) URL to which the summary is posted; not called if nothing had to run."""

    on_failure: str | Sequence[str] | None
    """The same for a run that failed, was killed or was interrupted."""

    lease_timeout: Duration | None
    """A leader that has been silent for this long may be replaced (default: 30s)."""

    config: Place | None
    """Settings file, as printed by toilfn config."""

    profile: str | None
    """Name of the section under 'profiles' in a settings file whose settings are used."""

    bad_worker: float | None
    """For testing: probability that a running job is killed (default: 0)."""

    bad_worker_interval: Duration | None
    """For testing: time between two such draws (default: 1s)."""


class RunSettings(ResumeSettings, total=False):
    """Keywords of `compute` and `submit`."""

    store: Place | None
    """Path or URL of the job store (default: a temporary store)."""
