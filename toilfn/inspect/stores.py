"""Find the stores at a place, for `toilfn ls` and `toilfn clean --older-than`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from typing import Any

from toilfn.errors import StoreError
from toilfn.inspect.fold.columns import Row
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.view import State
from toilfn.stores import Store, open_store, stores_below
from toilfn.stores.lease import Holder, holder

__all__ = ["LISTED", "UNREADABLE", "FoundStore", "rows", "run_state", "schema", "stores_at", "summary"]

LISTED = (State.QUEUED, State.RUNNING, State.FAILED)
"""The states of which tasks are listed."""


def schema() -> Any:
    """Return the JSON schema of `summary`."""
    return json.loads(resources.files("toilfn.inspect").joinpath("status.schema.json").read_text())


def run_state(fold: Fold, *, alive: bool) -> str:
    """Return the state of the newest run in one word.

    It is ``"empty"``, ``"running"``, ``"stopped"`` (its leader is gone), or a status of `records.End`.
    """
    if fold.status == "open":
        return "running" if alive else "stopped"
    return fold.status


def rows(fold: Fold, most: int | None = None) -> dict[State, list[Row]]:
    """Return the tasks in each of the listed states, at most so many in each."""
    return {state: fold.rows(list(islice(fold.in_state(state), most))) for state in LISTED}


def summary(url: str, fold: Fold, leader: Holder | None) -> dict[str, Any]:
    """Return the state of a store's newest run as values for JSON, which `schema` describes.

    Parameters
    ----------
    url : str
        The store's.
    fold : Fold
    leader : Holder or None
        The living leader.
    """
    run, lists = fold.run, rows(fold)
    counts = sum(fold.counts(), Counter[State]())
    end = fold.ends.get(run.number) if run else None
    return {
        "store": url,
        "workflow": run.workflow if run else None,
        "run": run.number if run else 0,
        "state": run_state(fold, alive=leader is not None),
        "started": run.time if run else None,
        "ended": end.time if end else None,
        "leader": leader and {"host": leader.host, "pid": leader.pid, "heartbeat": leader.heartbeat},
        "tasks": {state.value: counts[state] for state in State},
        "queued": [{**_submitted(task), "reason": task.reason} for task in lists[State.QUEUED]],
        "running": [_submitted(task) for task in lists[State.RUNNING]],
        "failed": [{**_identify(task), "cause": task.cause, "error": task.error} for task in lists[State.FAILED]],
    }


def _identify(task: Row) -> dict[str, Any]:
    begun = task.attempts + (task.state is State.RUNNING)
    return {"id": task.id.hex(), "name": task.name, "attempts": begun}


def _submitted(task: Row) -> dict[str, Any]:
    return {**_identify(task), "since": task.since, "job": task.job}


UNREADABLE = "unreadable"
"""The state of a store that cannot be read."""


@dataclass
class FoundStore:
    """A store that was found.

    Attributes
    ----------
    url : str
    state : str
        The result of `toilfn.inspect.stores.run_state`; `UNREADABLE` if the store cannot be read.
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


def stores_at(url: str, depth: int, options: dict[str, Any]) -> Iterator[FoundStore]:
    """Find the stores at a place and below it, and read the state of their newest runs.

    Parameters
    ----------
    url : str
        A directory, or a URL.
    depth : int
        The number of levels of folders below the place that are searched.
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
            yield FoundStore(place, error=error.message)


def _read(store: Store) -> FoundStore:
    held = holder(store)
    is_led = held is not None and not held.is_gone and held.seems_fresh(time.time())
    fold = Fold()
    fold.update(store)
    if not is_led:
        fold.stop_running()
    moments = [store.created, *(epoch.time for epoch in fold.epochs), *(end.time for end in fold.ends.values())]
    moments += [held.heartbeat] if held else []
    return FoundStore(
        url=store.url,
        state=run_state(fold, alive=is_led),
        tasks=sum(fold.counts(), Counter[State]()),
        used=max(moments),
        workflow=fold.run.workflow if fold.run else "",
        store=store,
        fold=fold,
    )
