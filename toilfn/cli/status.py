"""``toilfn status STORE``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from itertools import islice
from typing import Any

from toilfn.cli.common import (
    add_json,
    add_store,
    add_store_options,
    open_fold,
    open_named,
    open_view,
    print_json,
    print_table,
)
from toilfn.inspect.drawing import draw
from toilfn.inspect.fold.columns import Row
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.view import State, TaskInfo
from toilfn.stores.lease import Holder, holder, living
from toilfn.units import format_duration

__all__ = ["command", "configure"]

_LISTED = (State.QUEUED, State.RUNNING, State.FAILED)
"""The states whose tasks are listed; each is an option, too."""

_SHOWN = 10
"""How many tasks each list has when it was not asked for."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = "With --json, the number of attempts counts all runs and includes an attempt that is running now."
    add_store(parser)
    add_store_options(parser)
    parser.add_argument("--failed", action="store_true", help="list only the failed tasks, and all of them")
    parser.add_argument("--running", action="store_true", help="list only the running tasks, and all of them")
    parser.add_argument(
        "--queued", action="store_true", help="list only the tasks in the batch system's queue, and all of them"
    )
    parser.add_argument("--tree", action="store_true", help="show dependencies as a tree, with finished work folded")
    add_json(parser)


def command(options: argparse.Namespace) -> int:
    """Return how the newest run of a store is."""
    store = open_named(options)
    if options.tree:
        sys.stdout.write(_tree(open_view(store).current()))
        return 0
    leader, alive = holder(store), living(store) is not None
    fold = open_fold(store)
    counts = sum(fold.counts(), Counter[State]())
    wanted = [state for state in _LISTED if getattr(options, state.value)]
    shown = None if wanted or options.json else _SHOWN
    lists = {state: fold.rows(list(islice(fold.in_state(state), shown))) for state in _LISTED}
    if options.json:
        print_json(_as_dict(store.url, fold, leader if alive else None, counts, lists))
        return 0
    if not wanted:
        _print_summary(store.url, fold, leader, alive, counts)
    for state in wanted or _LISTED:
        _print_list(state, lists[state], counts[state], with_jobs=fold.has_queue)
    return 0


def _tree(tasks: list[TaskInfo]) -> str:
    """Draw every task that is not done; of those that are, one box for each name."""
    return draw(tasks, every_task=lambda task: task.state is not State.DONE).text()


def run_state(fold: Fold, alive: bool) -> str:
    """Return how a run is in one word."""
    if fold.status == "open":
        return "running" if alive else "stopped"
    return fold.status


def _as_dict(
    url: str, fold: Fold, leader: Holder | None, counts: Counter[State], lists: dict[State, list[Row]]
) -> dict[str, Any]:
    run = fold.run
    return {
        "store": url,
        "workflow": run.workflow if run else None,
        "run": run.number if run else 0,
        "state": run_state(fold, leader is not None),
        "started": run.time if run else None,
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


def _print_summary(url: str, fold: Fold, leader: Holder | None, alive: bool, counts: Counter[State]) -> None:
    if fold.run is None:
        print("nothing was run in this store yet")
        return
    state = run_state(fold, alive)
    print(f"workflow  {fold.run.workflow}")
    print(f"run       {fold.run.number}, started {_when(fold.run.time)}: {state}{_advice(url, fold, state)}")
    if leader is not None:
        beat = f"last heartbeat {_ago(leader.heartbeat)}" if alive else f"gone since {_when(leader.heartbeat)}"
        print(f"leader    process {leader.pid} on {leader.host}, {beat}")
    parts = [f"{counts[state]} {state.value}" for state in State if counts[state]]
    print(f"tasks     {counts.total()}: {', '.join(parts)}")


def _advice(url: str, fold: Fold, state: str) -> str:
    if state in ("done", "running"):
        return ""
    end = fold.ends.get(fold.run.number) if fold.run else None
    when = f" {_when(end.time)}" if end else ""
    return f"{when}; to resume: toilfn resume {url}"


def _print_list(state: State, tasks: list[Row], count: int, *, with_jobs: bool) -> None:
    if not tasks:
        return
    print(f"\n{state.value}:")
    with_jobs = with_jobs and state is not State.FAILED
    rows = [["id", "task", "job", ""]]
    rows += [[task.short_id, task.name, task.job, _news(state, task)] for task in tasks]
    heading, *rest = rows if with_jobs else [[*row[:2], row[3]] for row in rows]
    print_table(heading, rest)
    if count > len(tasks):
        print(f"... and {count - len(tasks)} more: --{state.value} lists all")


def _news(state: State, task: Row) -> str:
    """Return what there is to say of a task that is listed."""
    if state is State.FAILED:
        return task.error
    return f"since {_ago(task.since)}{f': {task.reason}' if task.reason else ''}"


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _ago(moment: float) -> str:
    return f"{format_duration(max(0, round(time.time() - moment)))} ago"
