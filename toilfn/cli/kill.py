"""``toilfn kill STORE``."""

from __future__ import annotations

import argparse
import time

from toilfn.cli.common import add_store
from toilfn.errors import StoreLockedError
from toilfn.stores import Store, open_store
from toilfn.stores.lease import Holder, holder
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
    leader = _alive(store)
    if leader is None:
        print(f"nothing runs in {store.url}")
        return 0
    store.set_flag("kill")
    deadline = time.monotonic() + options.timeout
    while time.monotonic() < deadline:
        if _alive(store, leader.epoch) is None:
            print(f"stopped; to go on: toilfn resume {store.url}")
            return 0
        time.sleep(_LOOK)
    raise StoreLockedError(
        f"process {leader.pid} on {leader.host} was asked to stop {format_duration(options.timeout)} ago and still runs."
        " It will stop when it sees the request; if it hangs, end the process."
    )


def _alive(store: Store, epoch: int | None = None) -> Holder | None:
    """Give the leader of a store, or the one of an epoch, if it lives."""
    leader = holder(store)
    if leader is None or not leader.holds(time.time()) or epoch not in (None, leader.epoch):
        return None
    return leader
