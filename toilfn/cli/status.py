"""``toilfn status STORE``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

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
from toilfn.inspect.fold.columns import Row
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.stores import LISTED, rows, run_state, schema, summary
from toilfn.inspect.view import State, TaskInfo
from toilfn.leader.asjob import has_leader_job, leader_job_of
from toilfn.stores import Store
from toilfn.stores.lease import Holder, holder, living
from toilfn.units import format_duration

__all__ = ["EXIT_STATUSES", "command", "configure"]

EXIT_STATUSES = {
    "done": 0, "failed": 1, "running": 10, "stopped": 11, "interrupted": 12, "killed": 13, "empty": 14,
}  # fmt: skip
"""Exit status of ``--exit-code`` for each state of a run. Status 2 means wrong usage, or that there is no store."""

_LOOK = 0.5
"""The minimum pause in seconds between two reads of a store with ``--wait``."""
_SHARE = 10
"""The pause is at least this many times as long as the read before it, since reading costs requests and time."""

_SHOWN = 10
"""Maximum length of a list that no option has requested."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    states = ", ".join(f"{status} {state}" for state, status in EXIT_STATUSES.items())
    parser.epilog = (
        "With --json, the number of attempts counts all runs and includes an attempt that is running now; --schema "
        f"describes the rest. Exit statuses of --exit-code: {states} (nothing was run); 2 for wrong usage or no store."
    )
    add_store(parser)
    add_store_options(parser)
    parser.add_argument(
        "--wait", action="store_true", help="wait until no leader of the store is running or waiting in a queue"
    )
    parser.add_argument(
        "--exit-code", action="store_true", help="report the state of the run in the exit status (see below)"
    )
    parser.add_argument(
        "--schema", action=_Schema, nargs=0, help="print the JSON schema of what --json prints, and exit"
    )
    parser.add_argument("--failed", action="store_true", help="list only the failed tasks, and all of them")
    parser.add_argument("--running", action="store_true", help="list only the running tasks, and all of them")
    parser.add_argument(
        "--queued", action="store_true", help="list only the tasks in the batch system's queue, and all of them"
    )
    parser.add_argument(
        "--tree", action="store_true", help="show dependencies as a tree, with one box for all finished tasks of a name"
    )
    add_json(parser)


class _Schema(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print_json(schema())
        parser.exit()


def command(options: argparse.Namespace) -> int:
    """Print the state of a store's newest run, and return the exit status."""
    store = open_named(options)
    leader, is_alive, fold = _read(store, wait=options.wait)
    if options.tree:
        sys.stdout.write(_tree(open_view(store).current()))
    elif options.json:
        print_json(summary(store.url, fold, leader if is_alive else None))
    else:
        if (job := _leader_job(store, leader)) and not (options.failed or options.running or options.queued):
            print(job)
        _print(store.url, fold, leader, is_alive, [state for state in LISTED if getattr(options, state.value)])
    return EXIT_STATUSES[run_state(fold, alive=is_alive)] if options.exit_code else 0


def _read(store: Store, *, wait: bool) -> tuple[Holder | None, bool, Fold]:
    """Return the newest leader, whether it is alive, and the state according to the log."""
    began = time.monotonic()
    while wait and (living(store) is not None or has_leader_job(store)):
        time.sleep(max(_LOOK, _SHARE * (time.monotonic() - began)))
        began = time.monotonic()
    # Read the lease after the wait: the leader's job may have started and ended while its cluster was being queried.
    leader, is_alive, fold = holder(store), living(store) is not None, Fold()
    fold.update(store)  # after the lease, since the last records of a leader that ends in between say so
    if not is_alive:
        fold.stop_running()
    return leader, is_alive, fold


def _leader_job(store: Store, leader: Holder | None) -> str:
    """Return a line about a leader's job that has not started; empty if no such job exists."""
    queued = leader_job_of(store)
    if queued is None or (leader is not None and leader.acquired > queued.submitted):
        return ""
    return f"leader    job {queued.job} of {queued.cluster}, submitted {_when(queued.submitted)}, has not started"


def _print(url: str, fold: Fold, leader: Holder | None, is_alive: bool, wanted: list[State]) -> None:
    counts = sum(fold.counts(), Counter[State]())
    lists = rows(fold, None if wanted else _SHOWN)
    if not wanted:
        _print_summary(url, fold, leader, is_alive, counts)
    for state in wanted or LISTED:
        _print_list(state, lists[state], counts[state], with_jobs=fold.has_queue)


def _tree(tasks: list[TaskInfo]) -> str:
    """Draw a box for every task that is not done, and one box for each name of finished tasks."""
    return draw(tasks, every_task=lambda task: task.state is not State.DONE).text()


def _print_summary(url: str, fold: Fold, leader: Holder | None, alive: bool, counts: Counter[State]) -> None:
    if fold.run is None:
        print("nothing has run in this store yet")
        return
    state = run_state(fold, alive=alive)
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
    listed = [["id", "task", "job", ""]]
    listed += [[task.short_id, task.name, task.job, _detail(state, task)] for task in tasks]
    heading, *rest = listed if with_jobs else [[*row[:2], row[3]] for row in listed]
    print_table(heading, rest)
    if count > len(tasks):
        print(f"... and {count - len(tasks)} more: --{state.value} lists all")


def _detail(state: State, task: Row) -> str:
    """Return a failed task's error, or how long another task has been in its state, and why."""
    if state is State.FAILED:
        return task.error
    return f"since {_ago(task.since)}{f': {task.reason}' if task.reason else ''}"


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _ago(moment: float) -> str:
    return f"{format_duration(max(0, round(time.time() - moment)))} ago"
