"""``toilfn logs STORE TASK``."""

from __future__ import annotations

import argparse
import sys

from toilfn.cli.common import add_store, add_store_options, add_task, open_named, open_view
from toilfn.cli.events import follow
from toilfn.cli.following import Following
from toilfn.errors import InputError
from toilfn.inspect.view import State, TaskInfo
from toilfn.model.records import Failure, Outcome
from toilfn.model.replay import AttemptEnded, replay
from toilfn.stdio import report
from toilfn.stores import Store
from toilfn.units import format_duration

__all__ = ["command", "configure"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_store(parser)
    add_store_options(parser)
    add_task(parser)
    parser.add_argument(
        "--raw", action="store_true", help="do not escape control characters, such as those for colours"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--attempt", type=int, metavar="N", help="show only this attempt, counted across all runs (default: all)"
    )
    which.add_argument(
        "--follow", action="store_true",
        help="show new output as the task prints it, until the task is done or no leader runs it",
    )  # fmt: skip


def command(options: argparse.Namespace) -> int:
    """Print the output and the logs of a task's attempts, and the tracebacks of failed ones.

    Raises
    ------
    InputError
        If the task or attempt does not exist.
    """
    store = open_named(options)
    view = open_view(store)
    task = view.find(options.task)
    if options.follow:
        _follow(store, task)
        return 0
    attempts = list(view.attempts(task.id))
    wanted = [attempt for attempt in attempts if options.attempt in (None, attempt.attempt)]
    if not wanted:
        raise InputError(_nothing(task, len(attempts), options.attempt))
    for attempt in wanted:
        _print(store, task, attempt)
    return 0


def _follow(store: Store, task: TaskInfo) -> None:
    with Following(store, task.id, _say) as running:
        for fact in replay(follow(store, running.look)):
            if isinstance(fact, AttemptEnded) and fact.record.id == task.id:
                _print(store, task, fact.record, running.take_shown())
                if isinstance(fact.record, Outcome):
                    return


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _print(store: Store, task: TaskInfo, attempt: Outcome | Failure, shown: str = "") -> None:
    """Print the log of an attempt after a heading, without the beginning that was shown while the attempt ran."""
    report(_heading(task, attempt))
    _say(_text(store, attempt).removeprefix(shown))


def _nothing(task: TaskInfo, count: int, attempt: int | None) -> str:
    if attempt is None or not count:
        hint = ": --follow shows what it prints" if task.state is State.RUNNING else ""
        return f"{task.label} has no log yet: it is {task.state.value}, and no attempt has finished{hint}"
    return f"{task.label} has no attempt {attempt}: there {'are' if count > 1 else 'is'} {count}"


def _heading(task: TaskInfo, attempt: Outcome | Failure) -> str:
    stats = attempt.stats
    end = "done" if isinstance(attempt, Outcome) else f"failed ({attempt.cause}): {attempt.message}"
    where = f" on {stats.host}" if stats.host else ""
    return f"--- {task.label}, attempt {attempt.attempt}{where}, {format_duration(stats.wall)}, {end}"


def _text(store: Store, attempt: Outcome | Failure) -> str:
    parts = [store.payload(attempt.log).decode(errors="replace")]
    if isinstance(attempt, Failure):
        parts.append(attempt.traceback)
    return "".join(part if part.endswith("\n") else f"{part}\n" for part in parts if part)
