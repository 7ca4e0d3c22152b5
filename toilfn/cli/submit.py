"""``toilfn submit SCRIPT --store STORE --cluster slurm``: the leader itself is a job."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

from toilfn import stdio
from toilfn.cli.common import print_json
from toilfn.cli.parser import Parser
from toilfn.cli.run import add_parameters
from toilfn.config.settings import Settings, from_options
from toilfn.errors import InputError
from toilfn.leader.asjob import LeaderJob, Shape, describe_leader, leader_job_of, submit_leader
from toilfn.stores import open_store
from toilfn.text import VisibleStream
from toilfn.units import parse_memory, parse_time_limit

__all__ = ["lead", "main", "make_parser"]

_LANGUAGES = {".cwl": "cwl", ".wdl": "wdl"}
_SHAPE = ("cores", "memory", "walltime", "arguments")
_HERE = (None, "local", "inline")
"""Clusters that run tasks on the leader's machine."""


def make_parser(prog: str = "toilfn submit") -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} (SCRIPT | -m MODULE) --store STORE --cluster CLUSTER [flags] [-- the script's own arguments]\n"
        f"       {prog} DOCUMENT.cwl --store STORE --cluster CLUSTER [flags of toilfn cwl; .wdl likewise] [INPUTS]\n"
        f"       {prog} --resume STORE",
        description="Submit a run to a cluster, with its leader as one of the jobs, and return at once.",
    )
    parser.add_argument("script", metavar="SCRIPT", nargs="?", help="a Python file that calls toilfn.compute")
    parser.add_argument("-m", dest="module", metavar="MODULE", help="a module to run instead, as with python -m")
    _add_own(parser)
    add_parameters(parser)
    return parser


def _add_own(parser: argparse.ArgumentParser) -> None:
    """Add the options that are not passed on to the leader."""
    group = parser.add_argument_group("job of the leader")
    group.add_argument(
        "--resume", metavar="STORE", help="submit the last leader of a store again, after its job has ended"
    )
    group.add_argument("--lead-on", metavar="CLUSTER", help="cluster that runs the leader as a job (default: "
                       "--cluster); with --cluster local, all tasks run in that job")  # fmt: skip
    group.add_argument("--leader-cores", dest="cores", type=float, metavar="N", default=argparse.SUPPRESS,
                       help="cores of the leader's job (default: 1)")  # fmt: skip
    group.add_argument("--leader-memory", dest="memory", type=parse_memory, metavar="SIZE", default=argparse.SUPPRESS,
                       help="memory of the leader's job (default: 2Gi)")  # fmt: skip
    group.add_argument("--leader-walltime", dest="walltime", type=parse_time_limit, metavar="TIME",
                       default=argparse.SUPPRESS,
                       help="time limit of the leader's job (default: the cluster's)")  # fmt: skip
    group.add_argument("--leader-args", dest="arguments", metavar="ARGS", default=argparse.SUPPRESS,
                       help="additional arguments of the submit command, for the leader's job only, such as "
                       "'--partition=long'")  # fmt: skip
    group.add_argument("--json", action="store_true", help="print the job, the store and the log as JSON")


def main(arguments: Sequence[str] | None = None, *, prog: str = "toilfn submit") -> int:
    """Submit a leader as a job, and print the job's id and its log.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words of the command line. Default: those of this process.
    prog : str
        The name of the command in its help.

    Raises
    ------
    InputError
        If no store is given, or no cluster that could run the leader.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with stdio.unfailing_standard_error(), redirect_stdout(VisibleStream.over(sys.stdout)):
        cut = words.index("--") if "--" in words else len(words)
        own = Parser(prog=prog, add_help=False)
        _add_own(own)
        options, rest = own.parse_known_args(words[:cut])
        settings, leader_job = (_resumed_job if options.resume else _new_job)(prog, options, rest, words[cut:])
        return _submit(settings, leader_job, as_json=options.json)


def lead() -> int:
    """Run the command line that the newest `LeaderJob` of a store contains, and return the exit status.

    This function runs in the leader's job.
    """
    from toilfn.cli import main as toilfn
    from toilfn.worker.passed import adopt_environment, check_versions

    check_versions()
    store = open_store(sys.argv[-2], create=False)
    adopt_environment(store.get_blob)
    leader_job = leader_job_of(store)
    assert leader_job is not None
    os.chdir(leader_job.directory)
    return toilfn(leader_job.words)


def _new_job(prog: str, options: argparse.Namespace, rest: list[str], more: list[str]) -> tuple[Settings, LeaderJob]:
    """Return the settings of a new run, and the job for its leader."""
    command = _command(rest)
    settings = Settings.resolve(**from_options(_parsed(prog, command, rest)))
    if settings.store is None:
        raise InputError(
            "the leader's job needs a store that this machine and the cluster share",
            hint="name one: --store DIR, or --store s3://BUCKET/NAME",
        )
    name = options.lead_on or settings.cluster
    if name in _HERE:
        raise InputError(
            "no cluster was given that could run the leader as a job", hint="name one, as in: --cluster slurm"
        )
    from toilfn.clusters import make_cluster

    cluster = make_cluster(replace(settings, cluster=name))
    words = [command, *rest, *more]
    return settings, describe_leader(words, os.getcwd(), cluster, _shape(Shape(), options), settings.batch_logs or "")


def _resumed_job(
    prog: str, options: argparse.Namespace, rest: list[str], more: list[str]
) -> tuple[Settings, LeaderJob]:
    """Return the settings for the store that ``--resume`` names, and the job of its last leader, to submit it again."""
    parsed = make_parser(prog).parse_args(rest)
    if parsed.script or parsed.module or more:
        raise InputError("--resume submits the store's last leader again and takes no script")
    settings = Settings.resolve(**{**from_options(parsed), "store": options.resume})
    leader_job = leader_job_of(open_store(options.resume, create=False, **(settings.store_options or {})))
    if leader_job is None:
        raise InputError(
            f"no leader of {options.resume} was submitted as a job",
            hint=f"submit its script with this store, or resume it here: toilfn resume {options.resume}",
        )
    return settings, replace(leader_job, shape=_shape(leader_job.shape, options))


def _command(words: Sequence[str]) -> str:
    """Return the command of toilfn that runs a script or document, by the extension of its name."""
    endings = (os.path.splitext(word.partition("#")[0])[1] for word in words)
    return next((_LANGUAGES[ending] for ending in endings if ending in _LANGUAGES), "run")


def _parsed(prog: str, command: str, words: Sequence[str]) -> argparse.Namespace:
    if command != "run":
        from toilfn.cli import parser_of

        return parser_of(command).parse_args(words)
    parser = make_parser(prog)
    options = parser.parse_args(words)
    if (options.script is None) == (options.module is None):
        parser.error("name a SCRIPT, or a module with -m")
    if options.script is not None and not os.path.isfile(options.script):
        raise InputError(f"script not found: {options.script}")
    return options


def _shape(before: Shape, options: argparse.Namespace) -> Shape:
    return replace(before, **{name: value for name, value in vars(options).items() if name in _SHAPE})


def _submit(settings: Settings, leader_job: LeaderJob, *, as_json: bool) -> int:
    assert settings.store is not None
    store = open_store(settings.store, workflow=" ".join(leader_job.words[:2]), **(settings.store_options or {}))
    done = submit_leader(store, settings.store, leader_job, dict(os.environ))
    if as_json:
        print_json(_described(done, store.url))
        return 0
    place = settings.store
    print(f"submitted the leader as job {done.job} of {done.cluster}; it prints to {done.log}")
    print(f"to watch the run: toilfn status {place}; to stop it: toilfn kill {place}")
    print(f"if the job ends before the run is finished: toilfn submit --resume {place}")
    return 0


def _described(leader_job: LeaderJob, url: str) -> dict[str, Any]:
    return {"job": leader_job.job, "cluster": leader_job.cluster, "store": url, "log": leader_job.log}
