"""The settings of a run: one table for keywords of `compute`, configuration files and command-line flags.

`Settings` is that table. Each field has a default, a parser for what people write, a group and a
help text. A value comes from the first of these that has one:

1. a keyword of `compute`;
2. a flag of `toilfn run`, handed to the script in the environment variable ``TOILFN_SETTINGS``;
3. the file that the setting ``config`` names, which `toilfn config` makes;
4. the section of ``profiles`` that the setting ``profile`` names;
5. ``dask.config``, under ``toilfn`` and in kebab-case: ``~/.config/dask/toilfn.yaml``, ``DASK_TOILFN__MAX_JOBS=10``;
6. the default. A variable of the environment wins over a profile.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload
from urllib.parse import urlsplit, urlunsplit

from toilfn.config.flags import add_when_mentioned
from toilfn.config.sources import (
    boolean,
    configured,
    cores,
    count,
    environment,
    hook,
    in_environment,
    in_file,
    joined,
    link_kind,
    named_values,
    names,
    one_of,
    place,
    port,
    positive_count,
    probability,
    profiled,
    sections,
    text,
)
from toilfn.errors import InputError
from toilfn.resources import parse_accelerators
from toilfn.units import parse_disk, parse_duration, parse_memory, parse_size, parse_time_limit

if TYPE_CHECKING:
    from toilfn.clusters.base import Cluster

__all__ = ["SETTINGS_VARIABLE", "Settings", "add_options", "from_options"]

T = TypeVar("T")

SETTINGS_VARIABLE = "TOILFN_SETTINGS"
"""The environment variable in which `toilfn run` hands its flags to the script, as a JSON object."""

_DEST = "toilfn_"
"""Prefix of the names of our flags in an argparse namespace, so that they never clash with a script's own."""


def _cluster(value: Any) -> Cluster | str:
    if isinstance(value, type):
        raise ValueError(f"it is a class: write {value.__name__}()")
    if isinstance(value, str) or hasattr(value, "submit"):
        return cast("Cluster | str", value)
    raise ValueError("pass a Cluster object or the name of one, such as 'local'")


def _accelerators(value: Any) -> str:
    parse_accelerators(value)
    return str(value)


@overload
def _setting(default: None, parse: Callable[[Any], T], group: str, help: str) -> T | None: ...
@overload
def _setting(default: object, parse: Callable[[Any], T], group: str, help: str) -> T: ...
def _setting(default: object, parse: Callable[[Any], T], group: str, help: str) -> T | None:
    """Build a field of the table; `default` is as people write it.

    The result has the type of the parser's, so that mypy compares it with the field's annotation.
    """
    value = None if default is None else parse(default)
    entry: Any = field(default=value, metadata={"parse": parse, "group": group, "help": help, "default": default})
    return cast("T | None", entry)


_STORE, _CLUSTER, _RESOURCES = "where", "cluster", "resources"
_FAILURE, _OUTPUT, _EXPERT = "failures", "output", "expert"
_PLACES = "worker environment"

TITLES = (_STORE, _CLUSTER, _RESOURCES, _PLACES, _FAILURE, _OUTPUT, _EXPERT)
"""The groups of settings, in the order in which people read them."""


@dataclass(frozen=True)
class Settings:
    """Everything that can be set for a run. Sizes are in bytes and times in seconds, once resolved."""

    store: str | None = _setting(None, place, _STORE, "path or URL of the job store (default: a temporary store)")
    store_options: dict[str, Any] | None = _setting(
        None, named_values, _STORE,
        "NAME=VALUE option of the store, such as endpoint_url, region, sse or encryption_key; write a secret as "
        "env:NAME or file:PATH; may be repeated",
    )  # fmt: skip
    clean: str | None = _setting(
        None, one_of("always", "onError", "never", "onSuccess"), _STORE,
        "when to remove the store at the end of the run: always, onError, never or onSuccess (default: remove a "
        "temporary store after success, keep a named one)",
    )  # fmt: skip
    durability: str = _setting(
        "full", one_of("full", "none"), _STORE,
        "full: finished work survives a power failure; none: it survives the death of processes only, which is faster "
        "for stores on this machine",
    )  # fmt: skip
    link_imports: str | None = _setting(
        None, link_kind, _STORE,
        "how imports without a choice of their own bring files of this machine into the store: copy, or reflink, hard "
        "or symlink, which take neither time nor space; reference is like symlink, and records only the addresses of "
        "s3: and gs: objects; linked files and objects must not change (default: copy)",
    )  # fmt: skip
    digest: str | None = _setting(
        None, one_of("blake2b", "sha256", "xxh3", "blake3"), _STORE,
        "algorithm of the digests of new files: blake2b, sha256 (that of sha256sum), xxh3 or blake3, which are several "
        "times as fast; blake3 uses several cores (default: blake2b)",
    )  # fmt: skip
    intermediates: str | None = _setting(
        None, one_of("keep", "drop"), _STORE,
        "files that no unfinished task needs and that the run does not return: keep them, or drop them during the run "
        "and make them again when a later run needs them (default: keep)",
    )  # fmt: skip
    min_free: int | None = _setting(
        None, parse_size, _STORE,
        "space to keep free on the store's disk; with less, tasks without dependencies wait for the others, and then "
        "start one at a time (default: with intermediates=drop a twentieth of the disk, at most 10 GiB)",
    )  # fmt: skip
    workflow: str | None = _setting(None, text, _STORE, "name of this workflow (default: the script's path)")

    cluster: Cluster | str | None = _setting(
        None, _cluster, _CLUSTER, "where tasks run: local, inline, or the name of a batch system (default: local)"
    )
    cluster_settings: dict[str, Any] | None = _setting(
        None, sections, _CLUSTER,
        "settings of cluster classes by the names of their clusters, such as {'slurm': {'partition': 'long'}}; as "
        "flags --slurm-partition long and so on, in files sections of these names",
    )  # fmt: skip
    workers: int | None = _setting(
        None, positive_count, _CLUSTER, "number of worker processes of the local cluster (default: one for each core)"
    )
    max_jobs: int | None = _setting(
        None,
        positive_count,
        _CLUSTER,
        "maximum number of jobs on the cluster at once, services not counted (default: no limit)",
    )
    max_local_jobs: int | None = _setting(
        None, positive_count, _CLUSTER,
        "maximum number of processes on the leader's machine at once, for tasks with local=True of a run on a batch "
        "system (default: one for each core)",
    )  # fmt: skip
    max_service_tasks: int | None = _setting(
        None, count, _CLUSTER, "maximum number of services that run at once (default: no limit)"
    )
    max_preemptible_service_tasks: int | None = _setting(
        None,
        count,
        _CLUSTER,
        "maximum number of services that run on preemptible nodes at once; counted separately (default: no limit)",
    )
    service_patience: float = _setting(
        "10m", parse_duration, _CLUSTER,
        "how long tasks may wait in a batch system's queue because of a limit on the user's jobs, while only services "
        "run, before they fail; 24 times as long if the system gives another reason",
    )  # fmt: skip
    bundle: float | None = _setting(
        None, parse_duration, _CLUSTER,
        "group short tasks into batches that run for about this long: with 30s, many tiny tasks share one job of a "
        "batch system, once the first few have been timed; 0 turns batches off (default: 50ms, on batch systems 2m, as "
        "long as more than 32 jobs are left)",
    )  # fmt: skip
    gather: float | None = _setting(
        None, parse_duration, _CLUSTER,
        "delay before ready tasks are submitted, so that more of them are submitted in one call (default: 0.5s on "
        "batch systems)",
    )  # fmt: skip
    batch_logs: str | None = _setting(
        None, place, _CLUSTER,
        "directory, shared by the leader and the nodes, for the scripts and the output of a batch system's jobs "
        "(default: one in the store, or in the home directory)",
    )  # fmt: skip
    keep_batch_logs: bool = _setting(
        True, boolean, _CLUSTER, "keep the output of a batch system's jobs outside their tasks until the jobs succeed"
    )
    poll_interval: float | None = _setting(
        None,
        parse_time_limit,
        _CLUSTER,
        "time between two queries of a batch system (default: chosen by the cluster)",
    )

    default_cores: float = _setting(1, cores, _RESOURCES, "default cores per task")
    default_memory: int = _setting("2Gi", parse_memory, _RESOURCES, "default memory per task")
    default_disk: int = _setting("2Gi", parse_disk, _RESOURCES, "default disk per task")
    default_walltime: float | None = _setting(
        None,
        parse_time_limit,
        _RESOURCES,
        "default time limit for one attempt of a task (default: no limit)",
    )
    default_preemptible: bool = _setting(
        False, boolean, _RESOURCES, "run tasks on preemptible nodes unless they say otherwise"
    )
    default_accelerators: str | None = _setting(
        None, _accelerators, _RESOURCES, "default accelerators per task, such as 1, cuda:2 or nvidia-tesla-k80"
    )
    max_cores: float | None = _setting(
        None,
        cores,
        _RESOURCES,
        "maximum cores in use at once, on any cluster; a task that requests more fails (default: no limit)",
    )
    max_memory: int | None = _setting(
        None,
        parse_memory,
        _RESOURCES,
        "maximum memory in use at once, on any cluster; a task that requests more fails (default: no limit)",
    )
    max_disk: int | None = _setting(
        None,
        parse_disk,
        _RESOURCES,
        "maximum disk in use at once, on any cluster; a task that requests more fails (default: no limit)",
    )

    worker_memory: int | None = _setting(
        None, parse_size, _RESOURCES,
        "memory of the worker itself and of the store's driver, which is added to each request to a batch system and "
        "does not count as the task's (default: 64Mi with a store in a directory, else 150Mi)",
    )  # fmt: skip

    set_env: dict[str, str] | None = _setting(
        None, environment, _PLACES,
        "environment variable for the tasks: NAME=VALUE, or NAME to pass on its value from here; may be repeated",
    )  # fmt: skip
    deploy: list[str] | None = _setting(
        None, names, _PLACES,
        "module or package of the leader's environment, or file or folder, to send to workers on other machines "
        "together with the user's own modules; may be repeated",
    )  # fmt: skip
    own_directory: bool = _setting(
        True, boolean, _PLACES,
        "start each attempt in its own empty directory, its temp_dir; otherwise tasks share the directory in which the "
        "cluster starts workers, and tasks that write files of the same name overwrite each other's files",
    )  # fmt: skip
    fresh_process: bool = _setting(
        False, boolean, _PLACES,
        "run each attempt in a new process, so that no state of one task reaches another; slower for short tasks",
    )  # fmt: skip
    work_dir: str | None = _setting(
        None, place, _PLACES,
        "local directory in which each machine keeps temporary directories, copies of files and their locks "
        "(default: the system's directory for temporary files)",
    )  # fmt: skip
    clean_work_dir: str = _setting(
        "always", one_of("always", "onError", "never", "onSuccess"), _PLACES,
        "when to remove the temporary directory of a finished attempt; the log names a directory that is kept",
    )  # fmt: skip
    coordination_dir: str | None = _setting(
        None, place, _PLACES,
        "local directory in which each machine keeps its locks, if the work directory is shared with other machines; "
        "containers on one machine that share this directory share the file cache",
    )  # fmt: skip
    cache_size: int | None = _setting(
        None, parse_size, _PLACES,
        "maximum size of each machine's file cache, 0 for no cache (default: a fifth of the disk)",
    )  # fmt: skip

    cache_age: float | None = _setting(
        None, parse_duration, _PLACES,
        "time after which a file that no task has used is removed from each machine's file cache (default: 30d)",
    )  # fmt: skip
    keep_on_nodes: float | None = _setting(
        None, parse_duration, _PLACES,
        "time for which a machine keeps copied files, unpacked code and container images after the last process of the"
        " run has left it, 0 to remove them at once (default: 1d)",
    )  # fmt: skip
    cache_shared: str | None = _setting(
        None, place, _PLACES,
        "local directory through which users of a machine share the files of their caches; on the file system of the "
        "work directory",
    )  # fmt: skip

    retries: int = _setting(1, count, _FAILURE, "number of retries of a task that fails")
    retry_backoff: float = _setting(
        "0.5s", parse_duration, _FAILURE, "delay before the first retry; doubled for each further one, up to 60s"
    )
    memory_retries: int | None = _setting(
        None,
        count,
        _FAILURE,
        "number of retries of a task that was killed because of its memory use (default: the same as retries)",
    )
    walltime_retries: int | None = _setting(
        None, count, _FAILURE, "number of retries of a task that exceeded its time limit (default: the same as retries)"
    )
    preempted_retries: int | None = _setting(
        None, count, _FAILURE, "number of retries of a task that was preempted (default: no limit)"
    )
    lost_retries: int = _setting(3, count, _FAILURE, "number of retries of a task whose worker or node died")
    double_memory: bool = _setting(
        False,
        boolean,
        _FAILURE,
        "double the memory of a task for its retry after it was killed because of its memory use",
    )
    double_walltime: bool = _setting(
        False, boolean, _FAILURE, "double the time limit of a task for its retry after it exceeded its limit"
    )

    progress: bool | None = _setting(
        None,
        boolean,
        _OUTPUT,
        "show progress on standard error: a bar on a terminal, otherwise a line from time to time",
    )
    log_level: str = _setting(
        "info", one_of("debug", "info", "warning", "error", "critical"), _OUTPUT,
        "minimum level of log messages: debug, info, warning, error or critical",
    )  # fmt: skip
    log_limit: int = _setting(
        "64Ki",
        parse_size,
        _OUTPUT,
        "maximum size of the log that is kept for each attempt; the middle of a longer log is left out",
    )
    stream_logs: bool = _setting(
        False, boolean, _OUTPUT, "show the output of tasks on standard error, while they run if the cluster supports it"
    )
    write_logs: str | None = _setting(
        None, place, _OUTPUT, "write the log of each failed attempt to a file in this directory"
    )
    write_logs_success: bool = _setting(
        False, boolean, _OUTPUT, "with write_logs, also write the logs of attempts that succeeded"
    )
    write_logs_gzip: bool = _setting(False, boolean, _OUTPUT, "compress the files that write_logs writes")
    log_file: str | None = _setting(None, place, _OUTPUT, "write the leader's log messages to this file")
    log_file_size: int = _setting(
        "10M", parse_size, _OUTPUT, "size at which the log file is rotated; five old files are kept"
    )

    metrics_port: int | None = _setting(
        None, port, _OUTPUT,
        "port on this machine's loopback interface at which the leader serves /metrics for Prometheus, 0 for any "
        "free port (default: none)",
    )  # fmt: skip

    on_success: str | list[str] | None = _setting(
        None, hook, _OUTPUT,
        "command to run once after the run has succeeded, with the summary of toilfn status --json on standard input, "
        "or an http(s) URL to which the summary is posted; not called if nothing had to run",
    )  # fmt: skip
    on_failure: str | list[str] | None = _setting(
        None, hook, _OUTPUT,
        "the same for a run that failed, was killed or was interrupted",
    )  # fmt: skip

    lease_timeout: float = _setting(
        "30s", parse_time_limit, _EXPERT, "a leader that has been silent for this long may be replaced"
    )
    config: str | None = _setting(None, place, _EXPERT, "settings file, as printed by toilfn config")
    profile: str | None = _setting(
        None, text, _EXPERT, "name of the section under 'profiles' in a settings file whose settings are used"
    )
    bad_worker: float = _setting(0, probability, _EXPERT, "for testing: probability that a running job is killed")
    bad_worker_interval: float = _setting("1s", parse_time_limit, _EXPERT, "for testing: time between two such draws")

    @classmethod
    def resolve(cls, **keywords: Any) -> Settings:
        """Bring together keywords, flags, configuration and defaults.

        Parameters
        ----------
        **keywords
            Values by the names of the fields; None stands for "not given".

        Raises
        ------
        InputError
            If a name is unknown or a value cannot be read; says where it came from.
        """
        flags, standing = _flags(), configured()
        given = {**standing, **flags, **{name: value for name, value in keywords.items() if value is not None}}
        others = _read("the setting '{}'", {name: given.get(name) for name in ("config", "profile")})
        config, profile = others.get("config"), others.get("profile")
        layers = [("the configuration 'toilfn.{}'", standing)]
        if profile:
            layers += [
                (f"the setting '{{}}' of profile {profile}", profiled(profile, config)),
                (_VARIABLE, in_environment()),
            ]
        if config:
            layers.append((f"the setting '{{}}' in {config}", in_file(config)))
        layers += [("the flag '{}'", flags), ("the setting '{}'", keywords)]
        values: dict[str, Any] = {}
        for origin, layer in layers:
            found = _read(origin, layer)
            if "cluster_settings" in found:
                found["cluster_settings"] = joined(values.get("cluster_settings") or {}, found["cluster_settings"])
            values.update(found)
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, without what may be secret, for the store's `Run` record."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        if self.cluster is not None and not isinstance(self.cluster, str):
            from toilfn.clusters.resume import name_of, recipe_of

            values["cluster"], values["cluster_address"] = name_of(self.cluster), self.cluster.address()
            values["cluster_recipe"] = recipe_of(self.cluster)
        elif (self.cluster_settings or {}).get(self.cluster or "local"):
            from toilfn.clusters import make_cluster
            from toilfn.clusters.resume import recipe_of

            made = make_cluster(self)
            values["cluster"], values["cluster_address"] = self.cluster or "local", made.address()
            values["cluster_recipe"] = recipe_of(made)
        values["cluster_settings"] = sorted(self.cluster_settings or {})
        for name in ("on_success", "on_failure"):  # a URL may be a secret, and so may a word of a command
            values[name] = getattr(self, name) is not None
        if self.set_env is not None:
            values["set_env"] = sorted(self.set_env)  # values may be secrets
        if self.store_options is not None:
            values["store_options"] = sorted(self.store_options)
        if self.store is not None:
            values["store"] = _without_password(self.store)
        return values


_VARIABLE = "the environment variable of '{}'"

_METAVARS = {
    parse_size: "SIZE",
    parse_memory: "SIZE",
    parse_disk: "SIZE",
    parse_duration: "TIME",
    parse_time_limit: "TIME",
    cores: "N",
    count: "N",
    positive_count: "N",
    port: "PORT",
    environment: "NAME[=VALUE]",
    named_values: "NAME=VALUE",
    names: "NAME",
    hook: "COMMAND",
}
_LINK_FLAGS = {
    "--link-imports": ("symlink", "import files of this machine as symbolic links; they must stay as they are"),
    "--hardlink-imports": ("hard", "import files of this machine as hard links; they must stay as they are"),
    "--reflink-imports": ("reflink", "import files of this machine as reflinks, which share their blocks"),
    "--reference-imports": (
        "reference",
        "import objects of s3: and gs: by their addresses, and files of this machine as symbolic links",
    ),
    "--no-link-imports": ("copy", "import files of this machine as copies (the default)"),
}
_TABLE: dict[str, Field[Any]] = {entry.name: entry for entry in fields(Settings)}


def add_options(parser: argparse.ArgumentParser, *, leave_out: Collection[str] = ()) -> None:
    """Add the flags of `toilfn run` to a script's own parser.

    The parser then accepts options by their full names only: an abbreviation such as ``--retry`` could mean
    an option that the user does not mean.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The parser; `from_options` reads its result.
    leave_out : collection of str
        Names of settings that get no flag.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_options(parser)
    >>> from_options(parser.parse_args(["--store", "run1", "--retries", "3"]))
    {'store': 'run1', 'retries': 3}
    """
    parser.allow_abbrev = False
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, entry in _TABLE.items():
        if name in leave_out:
            continue
        title = entry.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(f"toilfn: {title}")
        if name == "cluster_settings":
            add_when_mentioned(parser, _DEST + name)
        else:
            _add_flag(groups[title], name, entry)


def from_options(namespace: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of a parsed command line, as keyword arguments for `compute`.

    Parameters
    ----------
    namespace : argparse.Namespace
        The result of a parser to which `add_options` added its flags.

    Returns
    -------
    dict
        The values of the settings that the command line has; the others keep their defaults, or the values of
        settings files and environment variables.
    """
    given = vars(namespace)
    return {name: given[_DEST + name] for name in _TABLE if _DEST + name in given}


def _add_flag(group: argparse._ArgumentGroup, name: str, entry: Field[Any]) -> None:
    flag = f"--{name.replace('_', '-')}"
    parse, default = entry.metadata["parse"], entry.metadata["default"]
    help = entry.metadata["help"] + (f" (default: {default})" if default not in (None, False) else "")
    if parse is link_kind:
        for own, (kind, text) in _LINK_FLAGS.items():
            group.add_argument(
                own, dest=_DEST + name, action="store_const", const=kind, default=argparse.SUPPRESS, help=text
            )
        return
    if parse is boolean:
        action: Any = argparse.BooleanOptionalAction
        group.add_argument(flag, dest=_DEST + name, action=action, default=argparse.SUPPRESS, help=help)
        return

    def read(text: str) -> Any:
        try:
            return parse(text)
        except (ValueError, InputError) as error:
            raise argparse.ArgumentTypeError(_reason(text, error)) from None

    metavar = _METAVARS.get(parse, name.upper())
    action = _Merge if parse in (environment, named_values, names) else "store"
    group.add_argument(
        flag, dest=_DEST + name, type=read, action=action, default=argparse.SUPPRESS, help=help, metavar=metavar
    )


class _Merge(argparse.Action):
    """Collects the values of a flag that is given several times."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        before = getattr(namespace, self.dest, type(values)())
        setattr(namespace, self.dest, [*before, *values] if isinstance(values, list) else {**before, **values})


def _read(origin: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Parse values of one origin; `origin` has a place for the setting's name."""
    values = {}
    for name, value in given.items():
        entry = _TABLE.get(name)
        if entry is None:
            raise InputError(f"{origin.format(name)} is unknown{_nearest(name, _TABLE)}")
        if value is None:
            continue
        try:
            values[name] = entry.metadata["parse"](value)
        except (ValueError, TypeError, InputError) as error:
            raise InputError(f"{origin.format(name)}: {_reason(value, error)}") from error
    return values


def _reason(value: object, error: Exception) -> str:
    """Return which value was refused and why, where the error does not name it itself."""
    text = str(error)
    return text if repr(value) in text else f"{value!r}: {text}"


def _nearest(name: str, names: Iterable[str]) -> str:
    matches = get_close_matches(name, names, n=1)
    return f"; did you mean '{matches[0]}'?" if matches else f"; known are {', '.join(sorted(names))}"


def _flags() -> dict[str, Any]:
    text = os.environ.get(SETTINGS_VARIABLE, "")
    try:
        given = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"environment variable {SETTINGS_VARIABLE}: invalid JSON: {error}") from None
    if not isinstance(given, dict):
        raise InputError(f"environment variable {SETTINGS_VARIABLE}: not a JSON object")
    return given


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
