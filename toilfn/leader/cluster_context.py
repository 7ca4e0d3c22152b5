"""The facts that a cluster gets about the workflow whose jobs it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toilfn.clusters.base import ClusterNotes, RunContext
from toilfn.stores import Store

__all__ = ["StoredNotes", "jobs_name", "run_context"]


class StoredNotes(ClusterNotes):
    """A cluster's notes in a store.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def read(self, name: str) -> bytes:
        """Return a note, or an empty value if it does not exist."""
        return self._store.get_note(name)

    def write(self, name: str, data: bytes) -> None:
        """Keep a note instead of an earlier one of the name."""
        self._store.put_note(name, data)


def jobs_name(store: Store) -> str:
    """Return the name under which clusters have the jobs of a store's workflow."""
    return f"toilfn-{store.id[:12]}"


def run_context(
    store: Store,
    settings: Mapping[str, Any],
    environment: dict[str, str] | None = None,
    outage: Callable[[str], None] = lambda _: None,
) -> RunContext:
    """Make what a cluster is opened with.

    Parameters
    ----------
    store : Store
    settings : mapping
        Of the run, as its record has them.
    environment : dict, optional
        Variables for workers.
    outage : callable, optional
        Called with the description of an outage.
    """
    return RunContext(
        store.url,
        jobs_name(store),
        environment or {},
        StoredNotes(store),
        settings.get("batch_logs") or "",
        settings.get("keep_batch_logs", True),
        outage,
    )
