"""The `toilfn` command: each command is a module with ``configure(parser)`` and ``command(options)``.

Exit status: 0 success, 1 the workflow failed or the store cannot be used, 2 wrong usage, 3 a dry run found something
to run, 130 interrupted, 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from toilfn import stdio
from toilfn.cli.parser import Parser
from toilfn.errors import InputError, StoreNotFoundError, ToilfnError
from toilfn.text import VisibleStream

__all__ = ["COMMANDS", "main", "overview", "parser_of"]

COMMANDS = {
    "run": ("toilfn.cli.run", "run a workflow script"),
    "resume": ("toilfn.cli.resume", "resume an interrupted run and print its result"),
    "submit": ("toilfn.cli.submit", "submit a run, with its leader as a job of the cluster, too"),
    "rerun": ("toilfn.cli.rerun", "run finished tasks of a run again"),
    "status": ("toilfn.cli.status", "show the progress of a workflow, its running and its failed tasks"),
    "logs": ("toilfn.cli.logs", "print the output and the log of a task"),
    "debug": ("toilfn.cli.debug", "run one task again in this process, without committing anything"),
    "events": ("toilfn.cli.events", "print the events of a workflow as JSON lines, for programs"),
    "trace": ("toilfn.cli.trace", "export runs as OpenTelemetry traces or OpenLineage events"),
    "explain": ("toilfn.cli.explain", "explain why a task runs again, or why not"),
    "graph": ("toilfn.cli.graph", "draw the tasks and their dependencies"),
    "stats": ("toilfn.cli.stats", "summarise time and memory for each kind of task"),
    "report": ("toilfn.pages.report", "write an HTML page with graph, timeline, resource use and failures"),
    "dashboard": ("toilfn.pages.dashboard", "open a live page of a run in the browser"),
    "files": ("toilfn.cli.files", "list and fetch the files of a workflow"),
    "cache": ("toilfn.cli.cache", "show this machine's cache of files, or remove files from it"),
    "pull": ("toilfn.cli.pull", "download container images to where tasks look for them"),
    "config": ("toilfn.cli.config", "print a settings file to edit, or show the settings and their origins"),
    "init": ("toilfn.cli.init", "write a small project: a script, its settings, and a test"),
    "completion": ("toilfn.cli.completion", "print the completion script for bash, zsh or fish"),
    "ls": ("toilfn.cli.ls", "list the stores in directories, with their state, size and age"),
    "kill": ("toilfn.cli.kill", "stop a running workflow; it can be resumed"),
    "clean": ("toilfn.cli.clean", "remove a store, or the parts of it that are no longer needed"),
    "cluster": ("toilfn.cloud.command", "launch, connect to and remove clusters in clouds"),
    "cwl": ("toilfn.cwl.runner", "run a CWL document; accepts the options of cwltool"),
    "wdl": ("toilfn.wdl.runner", "run a WDL document, check it, or list its inputs"),
    "wes": ("toilfn.server.client", "submit runs to a server and manage them"),
    "server": ("toilfn.server.command", "run workflows for others: a GA4GH WES server"),
}
"""The module and the summary of each command."""

_RUN_USERS_CODE = {"run", "resume", "rerun", "debug", "wdl"}
"""Commands that print the output of the user's code, or a progress bar, unchanged.

All other commands escape control characters in their output.
"""

_EXAMPLES = """\
examples:
  toilfn run script.py --store run1 -- --sample NA12878
  toilfn status run1
  toilfn logs run1 sort_chunk
  toilfn resume s3://bucket/run1
  toilfn COMMAND --help

STORE is the path or URL of a job store, as in `compute(..., store=...)`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``toilfn`` on the command line; by default those of this process.

    Returns
    -------
    int
        The exit status.
    """
    try:
        status = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        if sys.stdout is not None:  # it is None if the process was started with a closed standard output
            sys.stdout.flush()  # here, so that a full disk is reported as an error of the command
        return status
    except ToilfnError as error:
        stdio.report_error("toilfn", error)
        return 2 if isinstance(error, (InputError, StoreNotFoundError)) else 1
    except KeyboardInterrupt as error:
        stdio.report(f"toilfn: {str(error) or 'interrupted'}")
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe. Redirect the descriptor, so that Python's own flush at exit
        # does not fail, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: list[str]) -> int:
    if "_ARGCOMPLETE" in os.environ:
        from toilfn.cli.completion import complete

        complete({name: summary for name, (_, summary) in COMMANDS.items()}, parser_of)
    parser = overview()
    if not arguments:
        stdio.report(parser.format_help().rstrip())
        return 2
    name = arguments[0]
    if name.startswith("-"):
        parser.parse_args(arguments)
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}{_meant(name)}", hint="toilfn --help lists the commands")
    module_name, summary = COMMANDS[name]
    return _run(import_module(module_name), name, summary, arguments[1:])


def _run(module: Any, name: str, summary: str, arguments: list[str]) -> int:
    if not hasattr(module, "configure"):  # such a module parses its own command line
        return int(module.main(arguments, prog=f"toilfn {name}"))
    parser = _parser(module, name, summary)
    if hasattr(module, "help_for") and not parser.epilog:
        parser.epilog = module.help_for(arguments)
    rest: list[str] = []
    if parser.get_default("rest") is not None and "--" in arguments:
        cut = arguments.index("--")
        arguments, rest = arguments[:cut], arguments[cut + 1 :]
    options = parser.parse_args(arguments)
    if rest:
        options.rest = rest
    with contextlib.ExitStack() as streams:
        if name not in ("run", "debug"):  # in these two, the streams belong to the user's code
            streams.enter_context(stdio.unfailing_standard_error())
            if sys.stdout is None:  # the process was started with a closed standard output
                nowhere = streams.enter_context(open(os.devnull, "w"))
                streams.enter_context(contextlib.redirect_stdout(nowhere))
        if name not in _RUN_USERS_CODE and not getattr(options, "raw", False):
            if sys.stdout is not None:
                streams.enter_context(contextlib.redirect_stdout(VisibleStream.over(sys.stdout)))
            if sys.stderr is not None:
                streams.enter_context(contextlib.redirect_stderr(VisibleStream.over(sys.stderr)))
        status: int = module.command(options)
    return status


def parser_of(name: str) -> argparse.ArgumentParser:
    """Build the parser of a command."""
    module_name, summary = COMMANDS[name]
    module = import_module(module_name)
    if not hasattr(module, "configure"):
        made: argparse.ArgumentParser = module.make_parser(f"toilfn {name}")
        return made
    return _parser(module, name, summary)


def _parser(module: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"toilfn {name}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    return parser


def overview() -> argparse.ArgumentParser:
    """Build the parser of `toilfn` itself, which lists the commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    parser = Parser(
        prog="toilfn",
        usage="toilfn COMMAND ...",
        description="\n".join(["Turn functions into durable workflows.", "", "commands:", *lines]),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from toilfn import __version__

        print(f"toilfn {__version__}")
        parser.exit()


def _meant(name: str) -> str:
    near = get_close_matches(name, COMMANDS, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
