"""The stores at a place, each in one line: what `toilfn ls` shows and `toilfn clean --older-than` goes by."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toilfn.errors import StoreError
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.summary import run_state
from toilfn.inspect.view import State
from toilfn.stores import Store, open_store, stores_below
from toilfn.stores.lease import holder

__all__ = ["UNREADABLE", "Found", "stores_at"]

UNREADABLE = "unreadable"
"""The state of a store that cannot be read."""


@dataclass
class Found:
    """A store that was found.

    Attributes
    ----------
    url : str
    state : str
        As `toilfn.inspect.summary.run_state` gives it; `UNREADABLE` if the store cannot be read.
    tasks : Counter of State
        How many tasks of the newest run are in each state.
    used : float
        When the store was last used by a leader, in seconds since the epoch; 0 where that is not known.
    workflow, error : str
        Empty where there is none.
    store : Store or None
    fold : Fold or None
        The content of its log.
    """

    url: str
    state: str = UNREADABLE
    tasks: Counter[State] | None = None
    used: float = 0.0
    workflow: str = ""
    error: str = ""
    store: Store | None = None
    fold: Fold | None = None

    @property
    def age(self) -> float | None:
        """Seconds since the store was last used."""
        return max(0.0, time.time() - self.used) if self.used else None


def stores_at(url: str, depth: int, options: dict[str, Any]) -> Iterator[Found]:
    """Find the stores at a place and below it, and read how their newest runs are.

    Parameters
    ----------
    url : str
        A directory, or a URL.
    depth : int
        The number of levels of folders below the place that are looked at.
    options : dict
        The options of the stores.

    Raises
    ------
    StoreError
        If the place cannot be read.
    """
    for place in stores_below(url, depth, **options):
        try:
            yield _read(open_store(place, create=False, **options))
        except StoreError as error:
            yield Found(place, error=error.message)


def _read(store: Store) -> Found:
    held = holder(store)
    is_led = held is not None and not held.is_gone and held.seems_fresh(time.time())
    fold = Fold()
    fold.update(store)
    if not is_led:
        fold.stop_running()
    moments = [store.created, *(epoch.time for epoch in fold.epochs), *(end.time for end in fold.ends.values())]
    moments += [held.heartbeat] if held else []
    return Found(
        url=store.url,
        state=run_state(fold, alive=is_led),
        tasks=sum(fold.counts(), Counter[State]()),
        used=max(moments),
        workflow=fold.run.workflow if fold.run else "",
        store=store,
        fold=fold,
    )
