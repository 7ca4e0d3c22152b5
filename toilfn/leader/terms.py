"""What a cluster is told of the workflow whose jobs it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toilfn.clusters.base import Session
from toilfn.leader.notes import StoreNotes
from toilfn.stores import Store

__all__ = ["jobs_name", "terms"]


def jobs_name(store: Store) -> str:
    """Return the name under which clusters have the jobs of a store's workflow."""
    return f"toilfn-{store.id[:12]}"


def terms(
    store: Store,
    settings: Mapping[str, Any],
    environment: dict[str, str] | None = None,
    outage: Callable[[str], None] = lambda _: None,
) -> Session:
    """Make what a cluster is opened with.

    Parameters
    ----------
    store : Store
    settings : mapping
        Of the run, as its record has them.
    environment : dict, optional
        Variables for workers.
    outage : callable, optional
        What is to be told of outages.
    """
    return Session(
        store.url,
        jobs_name(store),
        environment or {},
        StoreNotes(store),
        settings.get("batch_logs") or "",
        settings.get("keep_batch_logs", True),
        outage,
    )
