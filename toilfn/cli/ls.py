"""``toilfn ls [DIRECTORY | URL]...``."""

from __future__ import annotations

import argparse
from typing import Any

from toilfn.cli.common import add_json, add_store_options, named_options, print_json, print_table
from toilfn.inspect.stores import FoundStore, stores_at
from toilfn.inspect.view import State
from toilfn.units import format_duration, format_size

__all__ = ["add_depth", "command", "configure"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = "The age is the time since a leader last used the store. States are those of `toilfn status`."
    parser.add_argument(
        "places", metavar="DIRECTORY", nargs="*", default=["."],
        help="directories or URLs with stores in them (default: the current directory)",
    )  # fmt: skip
    add_depth(parser)
    parser.add_argument(
        "--no-size", action="store_true", help="do not add up the sizes, which takes long in stores with many objects"
    )
    add_store_options(parser)
    add_json(parser)


def add_depth(parser: argparse.ArgumentParser) -> None:
    """Add ``--depth``."""
    parser.add_argument(
        "--depth", metavar="N", type=int, default=2, help="how many levels of folders to look into (default: 2)"
    )


def command(options: argparse.Namespace) -> int:
    """List the stores at some places with state, size and age."""
    given = named_options(options)
    found = [each for place in options.places for each in stores_at(place, options.depth, given)]
    sizes = [_size(each, is_wanted=not options.no_size) for each in found]
    if options.json:
        print_json([_as_dict(each, size) for each, size in zip(found, sizes, strict=True)])
        return 0
    rows = [_row(each, size) for each, size in zip(found, sizes, strict=True)]
    if rows:
        print_table(["state", "tasks", "size", "age", "store"], rows, right={2, 3})
    else:
        print("no store was found")
    return 0


def _size(found: FoundStore, *, is_wanted: bool) -> int | None:
    return found.store.objects.total_size() if is_wanted and found.store else None


def _row(found: FoundStore, size: int | None) -> list[str]:
    tasks = f"{found.tasks[State.DONE]}/{found.tasks.total()}" if found.tasks else ""
    age = "" if found.age is None else format_duration(round(found.age))
    name = f"{found.url}{f' ({found.error})' * bool(found.error)}"
    return [found.state, tasks, "" if size is None else format_size(size), age, name]


def _as_dict(found: FoundStore, size: int | None) -> dict[str, Any]:
    return {
        "store": found.url,
        "state": found.state,
        "workflow": found.workflow or None,
        "tasks": None if found.tasks is None else {state.value: found.tasks[state] for state in State},
        "size": size,
        "used": found.used or None,
        "age": found.age,
        "error": found.error or None,
    }
