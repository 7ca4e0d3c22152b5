"""The blobs that a store's records refer to: all others are garbage."""

from __future__ import annotations

from collections.abc import Iterator

from toilfn.leader.rollback import gone
from toilfn.model.index import Index
from toilfn.model.records import BlobRef, Outcome, decode
from toilfn.stores import Store, is_local

__all__ = ["live_blobs", "remove_garbage"]


def remove_garbage(store: Store) -> None:
    """Remove the blobs that nothing refers to and those that were only partly written; no task may be running."""
    live, _ = live_blobs(store)
    garbage = [name for name in store.objects.list("blobs/") if name not in live]
    store.objects.delete(garbage)
    if is_local(store.url):  # elsewhere, parts of uploads are not told from those of others
        store.objects.below("blobs").sweep(0)


def live_blobs(store: Store) -> tuple[set[str], set[str]]:
    """List the blobs that records refer to, except those that were deleted or rolled back.

    Returns
    -------
    set of str
        Their names.
    set of str
        Names of files that tasks deleted, of which the log does not say yet that they are removed.
    """
    index = Index.load(store.log)
    referred: set[str] = set()
    deleted: set[str] = set()
    for position, data in store.log.read():
        record = decode(data, position)
        if isinstance(record, Outcome):
            if index.outcomes.get(record.id) != position:  # of what it made, later attempts use the functions only
                referred.update(ref.name for ref in _refs(record.functions))
                continue
            deleted.update(gone(index, record))
        referred.update(ref.name for ref in _refs(record))
    return referred - deleted - index.deleted, deleted - index.deleted


def _refs(value: object) -> Iterator[BlobRef]:
    """Find the references in a record, at any depth."""
    if isinstance(value, BlobRef):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _refs(part)
