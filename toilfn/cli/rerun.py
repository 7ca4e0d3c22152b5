"""``toilfn rerun STORE TASK``."""

from __future__ import annotations

import argparse
from functools import partial

from toilfn.cli.common import add_store
from toilfn.cli.resume import add_arguments, finish

__all__ = ["command", "configure"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.usage = "toilfn rerun STORE TASK [TASK ...] [--downstream] [flags]"
    parser.epilog = (
        "The command also runs the unfinished tasks of the run. The functions are those in the store: to run edited "
        "functions, run the script."
    )
    add_store(parser)
    parser.add_argument(
        "tasks", metavar="TASK", nargs="+", help="name of a task, for all tasks of that name, or the start of an id"
    )
    parser.add_argument(
        "--downstream", action="store_true",
        help="also run again every task that depends on these tasks (default: only these tasks, and those that "
        "returned their files)",
    )  # fmt: skip
    add_arguments(parser)


def command(options: argparse.Namespace) -> int:
    """Run finished tasks again, and print the result of the run.

    Raises
    ------
    InputError
        If the run has no task with one of the names or ids.
    """
    from toilfn.api import rerun

    return finish(partial(rerun, tasks=options.tasks, downstream=options.downstream), options)
