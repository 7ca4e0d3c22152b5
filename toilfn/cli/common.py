"""Functions that several commands share: for common arguments, opening stores, and printing tables and JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath
from typing import Any, TextIO

from toilfn.api import SOMETHING_TO_RUN
from toilfn.config.settings import Settings, add_options, from_options
from toilfn.errors import InputError
from toilfn.inspect.fold.columns import Detail
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.plan import Plan
from toilfn.inspect.view import View
from toilfn.stores import Store, open_store
from toilfn.stores.lease import living
from toilfn.text import table

__all__ = [
    "add_dry_run", "add_json", "add_store", "add_store_options", "add_task", "is_dry_run", "named_options",
    "open_fold", "open_named", "open_view", "output_file", "print_json", "print_plan", "print_table",
]  # fmt: skip


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the STORE argument."""
    parser.add_argument("store", metavar="STORE", help="path or URL of the job store")


def add_store_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--store-options``, for commands without all the flags of `toilfn run`; `open_named` reads it."""
    everything = {entry.name for entry in dataclasses.fields(Settings)}
    add_options(parser, leave_out=everything - {"store_options"})


def open_named(options: argparse.Namespace, url: str | None = None) -> Store:
    """Open the store that the user named, or the one at `url`, with the store options from flags and configuration."""
    return open_store(options.store if url is None else url, create=False, **named_options(options))


def named_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the store options from flags and configuration."""
    return Settings.resolve(**from_options(options)).store_options or {}


def add_json(parser: argparse._ActionsContainer) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_dry_run(parser: argparse._ActionsContainer, *, json: bool = True) -> None:
    """Add ``--dry-run`` and, unless there is one already, ``--json``; `print_plan` reads them."""
    parser.add_argument(
        "--dry-run", action="store_true",
        help="print what would run and why, what would be reused, resources and expected time; run and write nothing; "
        f"exit status {SOMETHING_TO_RUN} if anything would run",
    )  # fmt: skip
    if json:
        parser.add_argument("--json", action="store_true", help="with --dry-run, print the plan as JSON")


def is_dry_run(options: argparse.Namespace) -> bool:
    """Return whether ``--dry-run`` was given.

    Raises
    ------
    InputError
        If ``--json`` was given without ``--dry-run``.
    """
    if options.json and not options.dry_run:
        raise InputError("--json needs --dry-run", hint="toilfn status STORE --json describes a run")
    return bool(options.dry_run)


def print_plan(plan: Plan, *, as_json: bool) -> int:
    """Print the result of a dry run; return the exit status."""
    print_json(plan.as_dict()) if as_json else print(plan)
    return SOMETHING_TO_RUN if plan else 0


def add_task(parser: argparse.ArgumentParser) -> None:
    """Add the TASK argument; `View.find` understands it."""
    parser.add_argument("task", metavar="TASK", help="name of a task, if it is unique, or the start of its id")


def output_file(text: str) -> Path:
    """Check the name of a file to write before any work is done: its directory must exist."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"directory not found: {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a directory, not a file")
    return path


def open_view(store: Store) -> View:
    """Read a store's log into a `View`. If the store has no living leader, no task in the view is running."""
    leader = living(store)  # before the log, since the last records of a leader that ends in between say so
    view = View(store)
    if leader is None:
        view.stop_running()
    return view


def open_fold(store: Store, detail: Detail = Detail.STATES) -> Fold:
    """Read a store's log into a `Fold`. If the store has no living leader, no task in the fold is running."""
    leader = living(store)  # before the log, as in `open_view`
    fold = Fold(detail)
    fold.update(store)
    if leader is None:
        fold.stop_running()
    return fold


def print_json(value: Any, stream: TextIO | None = None) -> None:
    """Write a value as indented JSON; a value of another type is converted to the most similar type of JSON."""
    stream = stream or sys.stdout
    json.dump(value, stream, indent=2, default=_plain)
    stream.write("\n")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> None:
    """Print a table; the columns whose indexes are in `right` are aligned to the right."""
    sys.stdout.write(table(headings, rows, right))


def _plain(value: Any) -> Any:
    """Convert a value of a type that JSON does not have."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's arrays and scalars, and pandas' columns
        return value.tolist()
    return repr(value)
