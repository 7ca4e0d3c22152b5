"""A run in few words, for programs: what `toilfn status --json` prints and what hooks get."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from itertools import islice
from typing import Any

from toilfn.inspect.fold.columns import Row
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.view import State
from toilfn.stores.lease import Holder

__all__ = ["LISTED", "rows", "run_state", "schema", "summary"]

LISTED = (State.QUEUED, State.RUNNING, State.FAILED)
"""The states whose tasks are listed."""


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
    """Return what is known of the tasks in each of the listed states, of at most so many in each."""
    return {state: fold.rows(list(islice(fold.in_state(state), most))) for state in LISTED}


def summary(url: str, fold: Fold, leader: Holder | None) -> dict[str, Any]:
    """Return how the newest run of a store is, as values for JSON that `schema` describes.

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
