"""``toilfn kill STORE``."""

from __future__ import annotations

import argparse
import time

from toilfn.cli.common import add_store, add_store_options, living_leader, open_named
from toilfn.errors import StoreLockedError
from toilfn.lead.ghosts import end_jobs
from toilfn.stores.lease import Lease
from toilfn.units import format_duration, parse_duration

__all__ = ["command", "configure"]

_LOOK = 0.2
"""Seconds between two looks at the lease."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_store(parser)
    add_store_options(parser)
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=parse_duration,
        default=60.0,
        help="how long to wait for the end (default: 60s)",
    )


def command(options: argparse.Namespace) -> int:
    """Ask the leader of a store to end its jobs and itself, and wait until it did; end the jobs of one that died.

    Raises
    ------
    StoreLockedError
        If it goes on for longer than the timeout.
    ClusterError
        If the batch system of a leader that died cannot be asked to end its jobs.
    """
    store = open_named(options)
    leader = living_leader(store)
    if leader is None:
        with Lease.acquire(store):
            count = end_jobs(store, options.timeout)
        print(f"ended {count} job{'s' * (count != 1)} of {store.url}" if count else f"nothing runs in {store.url}")
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
