"""``toilfn explain STORE TASK``."""

from __future__ import annotations

import argparse

from toilfn.cli.common import add_json, add_store, add_store_options, add_task, open_named, print_json
from toilfn.inspect.explain import History, explain
from toilfn.inspect.view import View
from toilfn.model.replay import read, replay

__all__ = ["command", "configure"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_store(parser)
    add_store_options(parser)
    add_task(parser)
    add_json(parser)


def command(options: argparse.Namespace) -> int:
    """Print whether a task was reused, and if not, how it differs from the most similar earlier task.

    Raises
    ------
    InputError
        If the task does not exist.
    """
    store = open_named(options)
    task = View(store).find(options.task)
    found = explain(History(replay(read(store.log)), store.get_blob), task.id)
    if options.json:
        print_json({"task": task.id.hex(), "name": task.name, "summary": found.summary, "reasons": found.reasons})
    else:
        print(found)
    return 0
