"""What clusters keep in the store for the next leader."""

from __future__ import annotations

from toilfn.clusters.base import Notes
from toilfn.stores import Store

__all__ = ["StoreNotes"]


class StoreNotes(Notes):
    """A cluster's notes in a store.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def read(self, name: str) -> bytes:
        """Return a note; empty if there is none."""
        return self._store.get_note(name)

    def write(self, name: str, data: bytes) -> None:
        """Keep a note instead of an earlier one of the name."""
        self._store.put_note(name, data)
