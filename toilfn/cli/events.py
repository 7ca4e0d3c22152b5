"""``toilfn events STORE``."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator

from toilfn.cli.common import add_store, add_store_options, open_named
from toilfn.model.records import Record
from toilfn.model.replay import Journal, read, replay
from toilfn.stores import Store
from toilfn.stores.lease import living

__all__ = ["command", "configure", "follow"]

_LOOK = 0.5
"""The minimum pause in seconds between two reads of a log that may grow."""
_SHARE = 10
"""The pause is at least this many times as long as the read before it, since reading costs requests and time."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = (
        "Each line is an object: `event` is the kind of the event (such as `started`), `time` is its time in seconds "
        "since the epoch, and the other keys describe the task, the job or the run."
    )
    add_store(parser)
    add_store_options(parser)
    parser.add_argument("--follow", action="store_true", help="wait for new events until the store has no live leader")


def command(options: argparse.Namespace) -> int:
    """Print the events of a store, one JSON object on each line."""
    store = open_named(options)
    journal = Journal()
    for fact in replay(follow(store) if options.follow else read(store.log)):
        for event in journal.events(fact):
            print(json.dumps(event), flush=options.follow)
    return 0


def follow(store: Store, before_read: Callable[[], None] = lambda: None) -> Iterator[Record]:
    """Yield the records of a store, and then new ones until it has no live leader.

    `before_read` is called before each read of the log.
    """
    seen = 0
    is_led = True
    while is_led:
        began = time.monotonic()
        before_read()
        is_led = living(store) is not None  # before the log, so that the leader's last records are read
        for record in read(store.log, seen):
            seen += 1
            yield record
        if is_led:
            time.sleep(max(_LOOK, _SHARE * (time.monotonic() - began)))
