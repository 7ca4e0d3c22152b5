"""``toilfn kill STORE``."""

from __future__ import annotations

import argparse
import time

from toilfn.cli.common import add_store, living_leader
from toilfn.errors import StoreLockedError
from toilfn.stores import open_store
from toilfn.units import format_duration, parse_duration

__all__ = ["command", "configure"]

_LOOK = 0.2
"""Seconds between two looks at the lease."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_store(parser)
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=parse_duration,
        default=60.0,
        help="how long to wait for the end (default: 60s)",
    )


def command(options: argparse.Namespace) -> int:
    """Ask the leader of a store to end its jobs and itself, and wait until it did.

    Raises
    ------
    StoreLockedError
        If it goes on for longer than the timeout.
    """
    store = open_store(options.store, create=False)
    leader = living_leader(store)
    if leader is None:
        print(f"nothing runs in {store.url}")
        return 0
    store.set_flag("kill")
    deadline = time.monotonic() + options.timeout
    while time.monotonic() < deadline:
        now = living_leader(store)
        if now is None or now.epoch != leader.epoch:
            print(f"stopped; to go on: toilfn resume {store.url}")
            return 0
        time.sleep(_LOOK)
    raise StoreLockedError(
        f"process {leader.pid} on {leader.host} was asked to stop and still runs after"
        f" {format_duration(options.timeout)}. It stops when it sees the request; if it hangs, end the process."
    )
