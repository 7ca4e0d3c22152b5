"""``toilfn status STORE``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import Any

from toilfn.cli.common import (
    add_json,
    add_store,
    add_store_options,
    open_named,
    open_view,
    print_json,
    print_table,
)
from toilfn.inspect.drawing import draw
from toilfn.inspect.view import State, TaskInfo, View
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
    leader, alive = holder(store), living(store) is not None
    view = open_view(store)
    tasks = view.current()
    lists = {state: [task for task in tasks if task.state is state] for state in _LISTED}
    if options.json:
        counts = Counter(task.state for task in tasks)
        print_json(_as_dict(store.url, view, leader if alive else None, counts, lists))
        return 0
    if options.tree:
        sys.stdout.write(_tree(tasks))
        return 0
    wanted = [state for state in _LISTED if getattr(options, state.value)]
    if not wanted:
        _print_summary(store.url, view, leader, alive, tasks)
    for state in wanted or _LISTED:
        _print_list(state, lists[state], None if wanted else _SHOWN, with_jobs=view.has_queue)
    return 0


def _tree(tasks: list[TaskInfo]) -> str:
    """Draw every task that is not done; of those that are, one box for each name."""
    return draw(tasks, every_task=lambda task: task.state is not State.DONE).text()


def _run_state(view: View, alive: bool) -> str:
    """Return how a run is in one word."""
    if view.status == "open":
        return "running" if alive else "stopped"
    return view.status


def _as_dict(
    url: str, view: View, leader: Holder | None, counts: Counter[State], lists: dict[State, list[TaskInfo]]
) -> dict[str, Any]:
    run = view.run
    return {
        "store": url,
        "workflow": run.workflow if run else None,
        "run": run.number if run else 0,
        "state": _run_state(view, leader is not None),
        "started": run.time if run else None,
        "leader": leader and {"host": leader.host, "pid": leader.pid, "heartbeat": leader.heartbeat},
        "tasks": {state.value: counts[state] for state in State},
        "queued": [{**_submitted(task), "reason": task.reason} for task in lists[State.QUEUED]],
        "running": [_submitted(task) for task in lists[State.RUNNING]],
        "failed": [{**_identify(task), "cause": task.cause, "error": task.error} for task in lists[State.FAILED]],
    }


def _identify(task: TaskInfo) -> dict[str, Any]:
    begun = task.attempts + (task.state is State.RUNNING)
    return {"id": task.id.hex(), "name": task.name, "attempts": begun}


def _submitted(task: TaskInfo) -> dict[str, Any]:
    return {**_identify(task), "since": task.since, "job": task.job}


def _print_summary(url: str, view: View, leader: Holder | None, alive: bool, tasks: list[TaskInfo]) -> None:
    if view.run is None:
        print("nothing was run in this store yet")
        return
    state = _run_state(view, alive)
    print(f"workflow  {view.run.workflow}")
    print(f"run       {view.run.number}, started {_when(view.run.time)}: {state}{_advice(url, view, state)}")
    if leader is not None:
        beat = f"last sign of life {_ago(leader.heartbeat)}" if alive else f"gone since {_when(leader.heartbeat)}"
        print(f"leader    process {leader.pid} on {leader.host}, {beat}")
    counts = Counter(task.state for task in tasks)
    parts = [f"{counts[state]} {state.value}" for state in State if counts[state]]
    print(f"tasks     {len(tasks)}: {', '.join(parts)}")


def _advice(url: str, view: View, state: str) -> str:
    if state in ("done", "running"):
        return ""
    end = view.ends.get(view.run.number) if view.run else None
    when = f" {_when(end.time)}" if end else ""
    return f"{when}; to resume: toilfn resume {url}"


def _print_list(state: State, tasks: list[TaskInfo], limit: int | None, *, with_jobs: bool) -> None:
    if not tasks:
        return
    print(f"\n{state.value}:")
    with_jobs = with_jobs and state is not State.FAILED
    rows = [["id", "task", "job", ""]]
    rows += [[task.short_id, task.name, task.job, _news(state, task)] for task in tasks[:limit]]
    heading, *rest = rows if with_jobs else [[*row[:2], row[3]] for row in rows]
    print_table(heading, rest)
    if limit is not None and len(tasks) > limit:
        print(f"... and {len(tasks) - limit} more: --{state.value} lists all")


def _news(state: State, task: TaskInfo) -> str:
    """Return what there is to say of a task that is listed."""
    if state is State.FAILED:
        return task.error
    return f"since {_ago(task.since)}{f': {task.reason}' if task.reason else ''}"


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _ago(moment: float) -> str:
    return f"{format_duration(max(0, round(time.time() - moment)))} ago"
