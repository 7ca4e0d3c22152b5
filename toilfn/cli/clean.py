"""``toilfn clean STORE...`` and ``toilfn clean --older-than TIME DIRECTORY...``."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from contextlib import suppress

from toilfn.cli.common import add_store_options, named_options, open_named
from toilfn.cli.ls import add_depth
from toilfn.errors import InputError, StoreError, StoreLockedError, StoreNotFoundError
from toilfn.files import node
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.stores import UNREADABLE, FoundStore, stores_at
from toilfn.leader.abandoned import end_jobs
from toilfn.leader.intermediates import live_blobs
from toilfn.model.records import Deleted, Epoch, encode
from toilfn.model.replay import AttemptEnded, RunBegan, read, replay
from toilfn.stores import Store, open_remains
from toilfn.stores.lease import Lease
from toilfn.units import format_duration, parse_duration

__all__ = ["command", "configure", "destroy_store"]

_LEAVE_NONE = (None, "local", "inline", "kubernetes", "awsbatch", "tes", "mesos")
"""Clusters that leave no files on other machines: workers run on this machine, or their disks are deleted with them."""
_NAMED = 20
"""Maximum number of nodes to name in a message."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "stores", metavar="STORE", nargs="+",
        help="paths or URLs of job stores; with --older-than, of directories with stores in them",
    )  # fmt: skip
    parser.add_argument(
        "--older-than", metavar="TIME", type=parse_duration,
        help="in these directories, remove only the stores that no leader has used for this long, such as 30d",
    )  # fmt: skip
    add_depth(parser)
    parser.add_argument("--dry-run", action="store_true", help="print which stores would be removed; remove nothing")
    parser.add_argument(
        "--garbage", action="store_true", help="keep the store; remove only the objects that nothing in it refers to"
    )
    parser.add_argument(
        "--leave-jobs",
        action="store_true",
        help="do not look for jobs that a dead leader left in batch systems",
    )
    add_store_options(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation")


def command(options: argparse.Namespace) -> int:
    """Remove stores, or the garbage in them.

    Raises
    ------
    StoreLockedError
        If a leader of a store is alive. The stores before it on the command line have been removed.
    InputError
        If standard input is not a terminal, and ``--yes`` was not given.
    ClusterError
        If the jobs of a leader that died cannot be cancelled, because the batch system does not respond.
    """
    if options.older_than is not None:
        return _clean_old(options)
    stores = [_opened(options, url) for url in options.stores]
    if options.dry_run:
        print(*(f"would remove {'garbage of ' * options.garbage}{store.url}" for store in stores), sep="\n")
        return 0
    if not options.garbage and not options.yes and not _confirmed(stores):
        print("nothing was removed")
        return 1
    for store in stores:
        _collect(store) if options.garbage else destroy_store(store, leave_jobs=options.leave_jobs)
    return 0


def _clean_old(options: argparse.Namespace) -> int:
    """Remove the stores that no leader has used for some time, except those that a leader begins to use meanwhile."""
    if options.garbage:
        raise InputError("--older-than removes stores and cannot be combined with --garbage")
    given = named_options(options)
    found = [each for place in options.stores for each in stores_at(place, options.depth, given)]
    for each in found:
        if each.state == UNREADABLE:
            print(f"{each.url} is left alone: {each.error}", file=sys.stderr)
    old = [each for each in found if each.age is not None and each.age > options.older_than]
    for each in old:
        print(f"{each.url}: {each.state}, last used {format_duration(round(each.age or 0.0))} ago")
    if not old or options.dry_run:
        print(f"would remove {len(old)} store{'s' * (len(old) != 1)}" if old else "no store is that old")
        return 0
    if not options.yes and not _confirmed([each.store for each in old if each.store]):
        print("nothing was removed")
        return 1
    for each in old:
        _destroy_unused(each, leave_jobs=options.leave_jobs)
    return 0


def _destroy_unused(found: FoundStore, *, leave_jobs: bool) -> None:
    assert found.store is not None
    try:
        destroy_store(found.store, leave_jobs=leave_jobs, fold=found.fold)
    except (StoreLockedError, StoreNotFoundError) as error:
        print(f"{found.url} is left alone: {error.message}", file=sys.stderr)


def _opened(options: argparse.Namespace, url: str) -> Store:
    """Open a store; one that has lost its ``store.json`` can still be removed."""
    try:
        return open_named(options, url)
    except StoreNotFoundError:
        left = None if options.garbage else open_remains(url, **named_options(options))
        if left is None:
            raise
        print(f"{left.url} no longer has a store.json; the rest of the store can be removed", file=sys.stderr)
        return left


def _confirmed(stores: list[Store]) -> bool:
    if not sys.stdin.isatty():
        raise InputError(
            "standard input is not a terminal, so the removal cannot be confirmed",
            hint="pass --yes to remove the stores",
        )
    print("Remove with all results and files:", *(f"  {store.url}" for store in stores), sep="\n")
    return input("[y/N] ").strip().lower() in ("y", "yes")


def destroy_store(store: Store, *, leave_jobs: bool, fold: Fold | None = None) -> None:
    """Remove a store, unless its log has grown since it was read."""
    lease = Lease.acquire(store)
    try:
        if fold is not None and fold.update(store):
            raise StoreLockedError("a leader has used it in the meantime")
        if not leave_jobs:
            end_jobs(store)
        others = _other_nodes(store)
        store.destroy()
    finally:
        lease.release()
    print(_removal_message(store))
    if not node.remove(store.url):
        print(f"processes on this machine still use {store.url}; the last of them removes its copies of files")
    if others:
        print(
            f"could not reach {_named(others)}: the next worker there removes copied files, code and images of the run"
        )


def _other_nodes(store: Store) -> list[str]:
    """Return the other machines on which a store's runs may have left copied files, code or images."""
    leaves_files, hosts = False, set()
    with suppress(StoreError):  # the rest of a damaged store is removed as well
        for fact in replay(read(store.log)):
            if isinstance(fact, RunBegan):
                leaves_files = fact.run.settings.get("cluster") not in _LEAVE_NONE
            elif isinstance(fact, AttemptEnded) and leaves_files:
                hosts.add(fact.record.stats.host)
    return sorted(hosts - {"", socket.gethostname()})


def _named(nodes: list[str]) -> str:
    return f"{', '.join(nodes[:_NAMED])}{f' and {len(nodes) - _NAMED} more nodes' * (len(nodes) > _NAMED)}"


def _removal_message(store: Store) -> str:
    """Return a message about a removed store, and about the old versions of its objects that the bucket still keeps."""
    kept = store.objects.versions()
    if not kept:
        return f"removed {store.url}"
    return (
        f"removed {store.url}, but its bucket keeps {kept} old versions and delete markers of the objects, which take"
        " up space and can still be read. A lifecycle rule of the bucket can remove them"
        " (NoncurrentVersionExpiration and ExpiredObjectDeleteMarker), except those with an object lock"
    )


def _collect(store: Store) -> None:
    with Lease.acquire(store) as lease:
        live, deleted = live_blobs(store)
        # A leader that was suspended and continues now must not commit records that refer to the removed blobs.
        epoch = Epoch(lease.epoch, socket.gethostname(), os.getpid(), time.time())
        store.log.append([encode(epoch), *([encode(Deleted(tuple(deleted)))] if deleted else [])])
        count = store.collect(live)
    print(f"removed {count} object{'s' * (count != 1)} of {store.url}")
