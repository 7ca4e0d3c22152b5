"""What clusters that are driven by commands can be told, and where it is read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, get_type_hints

import dask.config

__all__ = ["JobSettings", "resolved"]


class JobSettings(TypedDict, total=False):
    """What every command-line system can be told, by keyword or in ``dask.config`` under ``toilfn.<system>``.

    Parameters
    ----------
    queue : str
        Where jobs wait; for Slurm a partition.
    account : str
        Who pays.
    walltime : str or float
        The longest time of a job whose tasks name none, such as ``"2h"``.
    submit_args : sequence of str
        Further words for the submitting command. By default those of the environment variable
        ``TOILFN_<SYSTEM>_ARGS``, split as a shell would.
    job_extra_directives : sequence of str
        Further directives, without the system's prefix (``"--reservation=mine"`` for Slurm).
    job_directives_skip : sequence of str
        Directives that contain one of these words are left out.
    job_script_prologue, job_script_epilogue : sequence of str
        Lines before and after the worker's command.
    log_directory : str
        A folder that leader and nodes share, for scripts and output. By default that of the run's setting
        ``batch_logs``, else ``jobs`` in a store on a file system, else one in the home directory.
    keep_output : bool
        Whether what jobs print outside their tasks is kept until they end well. By default as the run's setting
        ``keep_batch_logs`` says.
    python : str
        The interpreter on the nodes; by default this one.
    shell : str
        What runs the script; ``/bin/sh`` by default.
    job_name : str
        What jobs' names begin with, before the workflow's.
    max_jobs : int
        The most jobs to have in the system at one time.
    max_array_size : int
        The most jobs in one submission; by default the site's limit.
    poll_interval : str or float
        Time between two queries for all jobs; 2 seconds by default.
    patience : str or float
        How long the system may be out of reach before the run ends; 10 minutes by default.
    worker_command : sequence of str
        What runs a batch: the store's URL and the batch's name come after it.
    """

    queue: str
    account: str
    walltime: str | float
    submit_args: Sequence[str]
    job_extra_directives: Sequence[str]
    job_directives_skip: Sequence[str]
    job_script_prologue: Sequence[str]
    job_script_epilogue: Sequence[str]
    log_directory: str
    keep_output: bool
    python: str
    shell: str
    job_name: str
    max_jobs: int
    max_array_size: int
    poll_interval: str | float
    patience: str | float
    worker_command: Sequence[str]


def resolved(owner: str, section: str, kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Join keywords with the configuration: what is given wins, None counts as not given.

    Parameters
    ----------
    owner : str
        The class, for the error.
    section : str
        The part of the configuration under ``toilfn``.
    kind : type
        The TypedDict that lists what there is.
    given : mapping

    Raises
    ------
    TypeError
        If there is no such setting; lists all.
    """
    known = get_type_hints(kind)
    configured = dask.config.get(f"toilfn.{section}", None) or {}
    settings = {key.replace("-", "_"): value for key, value in configured.items()} | dict(given)
    for key in settings:
        if key not in known:
            raise TypeError(f"{owner} has no setting {key!r}; it has: {', '.join(sorted(known))}")
    return {key: value for key, value in settings.items() if value is not None}
