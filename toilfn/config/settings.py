"""The settings of a run: one table for keywords of `compute`, configuration files and command-line flags.

`Settings` is that table. Each field has a default, a parser for what people write, a group and a
help text. A value comes from the first of these that has one:

1. a keyword of `compute`;
2. a flag of `toilfn run`, handed to the script in the environment variable ``TOILFN_SETTINGS``;
3. the file that the setting ``config`` names, which `toilfn config` makes;
4. ``dask.config``, under ``toilfn`` and in kebab-case: ``~/.config/dask/toilfn.yaml``, ``DASK_TOILFN__MAX_JOBS=10``;
5. the default.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from toilfn.config.parsers import (
    boolean,
    cores,
    count,
    environment,
    named_values,
    names,
    one_of,
    place,
    positive_count,
    probability,
)
from toilfn.config.sources import configured, in_file
from toilfn.errors import InputError
from toilfn.units import parse_disk, parse_duration, parse_memory, parse_size

if TYPE_CHECKING:
    from toilfn.clusters.base import Cluster

__all__ = ["SETTINGS_VARIABLE", "Settings", "add_options", "from_options"]

SETTINGS_VARIABLE = "TOILFN_SETTINGS"
"""The environment variable in which `toilfn run` hands its flags to the script, as a JSON object."""

_DEST = "toilfn_"
"""What the names of our flags start with in an argparse namespace, so that a script's own never clash."""


def _cluster(value: Any) -> Any:
    if isinstance(value, str) or hasattr(value, "submit"):
        return value
    raise ValueError("give a Cluster object or the name of one, such as 'local'")


def _accelerators(value: Any) -> str:
    from toilfn.graph.options import parse_accelerators

    parse_accelerators(value)
    return str(value)


def _setting(default: Any, parse: Callable[[Any], Any], group: str, help: str) -> Any:
    """Build a field of the table; `default` is as people write it."""
    value = None if default is None else parse(default)
    return field(default=value, metadata={"parse": parse, "group": group, "help": help, "default": default})


_STORE, _CLUSTER, _RESOURCES = "where", "cluster", "resources"
_FAILURE, _OUTPUT, _EXPERT = "failures", "output", "expert"
_PLACES = "workers' surroundings"

TITLES = (_STORE, _CLUSTER, _RESOURCES, _PLACES, _FAILURE, _OUTPUT, _EXPERT)
"""The groups of settings, in the order in which people read them."""


@dataclass(frozen=True)
class Settings:
    """Everything that can be set for a run. Sizes are in bytes and times in seconds, once resolved."""

    store: str | None = _setting(
        None, place, _STORE, "path or URL of the job store; without one, a temporary store is used"
    )
    store_options: dict[str, Any] | None = _setting(
        None, named_values, _STORE,
        "NAME=VALUE: how to reach the store, such as endpoint_url, region, sse, encryption_key; "
        "env:NAME and file:PATH stand for secrets; may be given several times",
    )  # fmt: skip
    clean: str | None = _setting(
        None, one_of("always", "onError", "never", "onSuccess"), _STORE,
        "when to remove the store at the end: always, onError, never or onSuccess; "
        "without this, a temporary store goes on success and a named one stays",
    )  # fmt: skip
    durability: str = _setting(
        "full", one_of("full", "none"), _STORE,
        "full: finished work outlives a loss of power; none: only deaths of processes, for stores on this machine",
    )  # fmt: skip
    workflow: str | None = _setting(
        None, str, _STORE, "a name that tells this workflow from others; by default the script's path"
    )

    cluster: Cluster | str | None = _setting(
        None, _cluster, _CLUSTER, "where tasks run: local, inline, or the name of a batch system; by default local"
    )
    workers: int | None = _setting(
        None, positive_count, _CLUSTER, "worker processes of the local cluster; by default one for each core"
    )
    max_jobs: int | None = _setting(
        None,
        positive_count,
        _CLUSTER,
        "the most jobs to have on the cluster at one time, services aside; by default no limit",
    )
    max_local_jobs: int | None = _setting(
        None, positive_count, _CLUSTER,
        "the most processes beside the leader at one time, for tasks with local=True where others run elsewhere; "
        "by default one for each core",
    )  # fmt: skip
    max_service_tasks: int | None = _setting(
        None, count, _CLUSTER, "the most services to run at one time; by default no limit"
    )
    max_preemptible_service_tasks: int | None = _setting(
        None, count, _CLUSTER, "and the most on nodes that can be taken away, which the other limit does not count"
    )
    service_patience: float = _setting(
        "10m", parse_duration, _CLUSTER,
        "how long tasks may wait in a batch system's queue because of a limit on the user's jobs, while only services "
        "run, before they fail; 24 times as long where the system gives another reason",
    )  # fmt: skip
    bundle: float | None = _setting(
        None, parse_duration, _CLUSTER,
        "short tasks go to workers together, for about this long at a time: 30s makes few jobs of many tiny tasks "
        "on a batch system, once a few have shown how long they take; 0 for none; by default 50ms, on batch systems "
        "2m, and only as far as more than 32 jobs are left",
    )  # fmt: skip
    gather: float | None = _setting(
        None, parse_duration, _CLUSTER,
        "how long tasks that could start wait for others, to be submitted together; by default 0.5s on batch systems",
    )  # fmt: skip
    batch_logs: str | None = _setting(
        None, place, _CLUSTER,
        "a directory that leader and nodes share, for the scripts of a batch system's jobs and what they print; "
        "by default one in the store, or in the home directory",
    )  # fmt: skip
    keep_batch_logs: bool = _setting(
        True, boolean, _CLUSTER, "keep what a batch system's jobs print outside their tasks, until they end well"
    )
    poll_interval: float | None = _setting(
        None,
        parse_duration,
        _CLUSTER,
        "time between two queries of a batch system; by default the cluster's own choice",
    )

    default_cores: float = _setting(1, cores, _RESOURCES, "cores of a task that names none")
    default_memory: int = _setting("2Gi", parse_memory, _RESOURCES, "memory of a task that names none")
    default_disk: int = _setting("2Gi", parse_disk, _RESOURCES, "disk of a task that names none")
    default_walltime: float | None = _setting(
        None,
        parse_duration,
        _RESOURCES,
        "the longest time for an attempt of a task that names none; by default no limit",
    )
    default_preemptible: bool = _setting(
        False, boolean, _RESOURCES, "whether a task that does not say may run on a node that can be taken away"
    )
    default_accelerators: str | None = _setting(
        None, _accelerators, _RESOURCES, "accelerators of a task that names none, such as 1, cuda:2 or nvidia-tesla-k80"
    )
    max_cores: float | None = _setting(
        None,
        cores,
        _RESOURCES,
        "the most cores to use at one time, on any cluster; a task that asks for more fails; by default no limit",
    )
    max_memory: int | None = _setting(
        None,
        parse_memory,
        _RESOURCES,
        "the most memory to use at one time, on any cluster; a task that asks for more fails; by default no limit",
    )
    max_disk: int | None = _setting(
        None,
        parse_disk,
        _RESOURCES,
        "the most disk to use at one time, on any cluster; a task that asks for more fails; by default no limit",
    )

    set_env: dict[str, str] | None = _setting(
        None, environment, _PLACES,
        "NAME=VALUE for the tasks' environment, or NAME for the value it has here; may be given several times",
    )  # fmt: skip
    deploy: list[str] | None = _setting(
        None, names, _PLACES,
        "a module or package that only the leader's environment has, or a file or folder, to send to workers elsewhere "
        "together with the user's own modules; may be given several times",
    )  # fmt: skip
    own_directory: bool = _setting(
        True, boolean, _PLACES,
        "start each attempt in an empty directory of its own, its temp_dir; without this, tasks share the directory in "
        "which the cluster starts workers, and those that write files of one name overwrite each other's",
    )  # fmt: skip
    fresh_process: bool = _setting(
        False, boolean, _PLACES,
        "run each attempt in a new process, so that nothing at all of one task reaches another; slower for short tasks",
    )  # fmt: skip
    work_dir: str | None = _setting(
        None, place, _PLACES,
        "where each machine keeps temporary directories, copies of files and the locks on them: a local disk; "
        "by default the system's place",
    )  # fmt: skip
    clean_work_dir: str = _setting(
        "always", one_of("always", "onError", "never", "onSuccess"), _PLACES,
        "when to remove the temporary directory of an attempt that has ended; one that stays is named in the log",
    )  # fmt: skip
    coordination_dir: str | None = _setting(
        None, place, _PLACES,
        "where each machine keeps its locks, if the work directory is shared with other machines: a local disk; "
        "containers on one machine that share this share the cache of files",
    )  # fmt: skip
    cache_size: int | None = _setting(
        None, parse_size, _PLACES,
        "the most disk that each machine's cache of files may take, 0 for no cache; by default a fifth of the disk",
    )  # fmt: skip

    retries: int = _setting(1, count, _FAILURE, "how many more times to try a task that fails")
    retry_backoff: float = _setting(
        "0.5s", parse_duration, _FAILURE, "time before the first retry; doubled for each further one, at most 60s"
    )
    memory_retries: int | None = _setting(
        None, count, _FAILURE, "the same for a task that was killed for its use of memory; by default as for errors"
    )
    walltime_retries: int | None = _setting(
        None, count, _FAILURE, "the same for a task that took too long; by default as for errors"
    )
    preempted_retries: int | None = _setting(
        None, count, _FAILURE, "the same for a task whose node was taken away as agreed; by default without limit"
    )
    lost_retries: int = _setting(3, count, _FAILURE, "how many more times to try a task whose worker or node died")
    double_memory: bool = _setting(
        False, boolean, _FAILURE, "give a task that was killed for its use of memory twice as much in the retry"
    )
    double_walltime: bool = _setting(
        False, boolean, _FAILURE, "give a task that took too long twice as much time in the retry"
    )

    progress: bool | None = _setting(
        None, boolean, _OUTPUT, "show progress on standard error: a bar on a terminal, a line now and then elsewhere"
    )
    log_level: str = _setting(
        "info", one_of("debug", "info", "warning", "error", "critical"), _OUTPUT,
        "least level of messages: debug, info, warning, error or critical",
    )  # fmt: skip
    log_limit: int = _setting(
        "64Ki", parse_size, _OUTPUT, "how much of an attempt's log to keep; of a longer one the middle is left out"
    )
    stream_logs: bool = _setting(
        False, boolean, _OUTPUT, "show on standard error what tasks print, while they run where the cluster can"
    )
    write_logs: str | None = _setting(
        None, place, _OUTPUT, "a directory for the logs of attempts that failed, a file for each"
    )
    write_logs_success: bool = _setting(
        False, boolean, _OUTPUT, "write the logs of attempts that succeeded to that directory, too"
    )
    write_logs_gzip: bool = _setting(False, boolean, _OUTPUT, "compress the files in that directory")
    log_file: str | None = _setting(None, place, _OUTPUT, "a file for what the leader has to tell")
    log_file_size: int = _setting(
        "10M", parse_size, _OUTPUT, "how large that file grows before a new one is begun; five old ones stay"
    )

    lease_timeout: float = _setting(
        "30s", parse_duration, _EXPERT, "a leader that has not been heard of for this long may be replaced"
    )
    config: str | None = _setting(None, place, _EXPERT, "a file with settings, such as toilfn config prints")
    bad_worker: float = _setting(
        0, probability, _EXPERT, "to try a workflow out: the probability with which a running job is killed"
    )
    bad_worker_interval: float = _setting(
        "1s", parse_duration, _EXPERT, "the time after which that probability counts anew"
    )

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
        config = keywords.get("config") or _flags().get("config")
        values = {
            **_read("the configuration 'toilfn.{}'", configured()),
            **_read(f"the setting '{{}}' in {config}", in_file(config) if config else {}),
            **_read("the flag '{}'", _flags()),
            **_read("the setting '{}'", keywords),
        }
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, without passwords in URLs, for the store's `Run` record."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        if self.cluster is not None and not isinstance(self.cluster, str):
            from toilfn.clusters.common.resume import name_of, recipe_of

            values["cluster"], values["cluster_address"] = name_of(self.cluster), self.cluster.address()
            values["cluster_recipe"] = recipe_of(self.cluster)
        if self.set_env is not None:
            values["set_env"] = sorted(self.set_env)  # values may be secrets
        if self.store_options is not None:
            values["store_options"] = sorted(self.store_options)
        if self.store is not None:
            values["store"] = _without_password(self.store)
        return values


_METAVARS = {
    parse_size: "SIZE",
    parse_memory: "SIZE",
    parse_disk: "SIZE",
    parse_duration: "TIME",
    cores: "N",
    count: "N",
    positive_count: "N",
    environment: "NAME[=VALUE]",
    named_values: "NAME=VALUE",
    names: "NAME",
}
_TABLE: dict[str, Field[Any]] = {entry.name: entry for entry in fields(Settings)}


def add_options(parser: argparse.ArgumentParser, *, leave_out: Collection[str] = ()) -> None:
    """Return a script's own parser the flags of `toilfn run`.

    The parser then accepts options by their full names only: an abbreviation such as ``--retry`` could mean
    another option than its user has in mind.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        What it parses is read by `from_options`.
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
        _add_flag(groups[title], name, entry)


def from_options(namespace: argparse.Namespace) -> dict[str, Any]:
    """Take from parsed arguments the settings that were given, as keywords for `compute`."""
    given = vars(namespace)
    return {name: given[_DEST + name] for name in _TABLE if _DEST + name in given}


def _add_flag(group: argparse._ArgumentGroup, name: str, entry: Field[Any]) -> None:
    flag = f"--{name.replace('_', '-')}"
    parse, default = entry.metadata["parse"], entry.metadata["default"]
    help = entry.metadata["help"] + (f" (default: {default})" if default not in (None, False) else "")
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
            raise InputError(f"{origin.format(name)} cannot be used: {_reason(value, error)}") from error
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
        raise InputError(f"the environment variable {SETTINGS_VARIABLE} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise InputError(f"the environment variable {SETTINGS_VARIABLE} is not a JSON object")
    return given


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
