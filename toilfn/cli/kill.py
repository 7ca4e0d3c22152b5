"""``toilfn kill STORE``."""

from __future__ import annotations

import argparse
import time

from toilfn.cli.common import add_store, add_store_options, open_named
from toilfn.errors import StoreLockedError
from toilfn.leader.abandoned import end_jobs, forget_jobs
from toilfn.leader.asjob import end_leader_job
from toilfn.stores import Store
from toilfn.stores.lease import Lease, Watch
from toilfn.units import format_duration, parse_duration

__all__ = ["command", "configure"]

_LOOK = 0.2
"""Seconds between two reads of the lease."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_store(parser)
    add_store_options(parser)
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=parse_duration,
        default=60.0,
        help="how long to wait until the run has stopped (default: 60s)",
    )
    parser.add_argument(
        "--leave-jobs",
        action="store_true",
        help="if no leader is alive: do not look for jobs in batch systems, and record that there are none",
    )


def command(options: argparse.Namespace) -> int:
    """Ask the leader of a store to stop, and wait until it has stopped; cancel the jobs of a leader that died.

    Raises
    ------
    StoreLockedError
        If the leader still runs after the timeout.
    ClusterError
        If the jobs of a leader that died cannot be cancelled, because the batch system does not respond.
    """
    store = open_named(options)
    try:
        lease = Lease.acquire(store)
    except StoreLockedError:
        return _stop_leader(store, options.timeout)
    with lease:
        count = 0
        if not options.leave_jobs:  # cancel a queued leader before other jobs, since it would submit new ones
            count = end_leader_job(store, options.timeout) + end_jobs(store, options.timeout)
        forget_jobs(store)
    print(
        f"cancelled {count} job{'s' * (count != 1)} of {store.url}" if count else f"nothing is running in {store.url}"
    )
    return 0


def _stop_leader(store: Store, timeout: float) -> int:
    watch = Watch(store)
    leader = watch.look()
    store.set_flag("kill")
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        now = watch.look()
        if leader is None or now is None or now.epoch != leader.epoch:
            print(f"stopped; to resume: toilfn resume {store.url}")
            return 0
        time.sleep(_LOOK)
    assert leader is not None
    raise StoreLockedError(
        f"process {leader.pid} on {leader.host} was asked to stop but is still running after"
        f" {format_duration(timeout)}",
        hint="the leader stops once it sees the request; if it hangs, kill its process",
    )
