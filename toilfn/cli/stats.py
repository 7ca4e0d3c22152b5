"""``toilfn stats STORE``."""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean, median

from toilfn.cli.common import add_json, add_store, add_store_options, open_named, print_json, print_table
from toilfn.inspect.report.attempts import Attempt, attempts_of
from toilfn.inspect.view import View
from toilfn.units import format_duration, format_size

__all__ = ["command", "configure"]

_MEASURES: dict[str, Callable[[Attempt], float]] = {
    "wall": lambda attempt: attempt.wall,
    "cpu": lambda attempt: attempt.cpu,
    "idle": lambda attempt: max(0.0, attempt.wall * attempt.cores_asked - attempt.cpu),
    "wait": lambda attempt: attempt.wait,
    "memory": lambda attempt: attempt.memory,
    "memory asked": lambda attempt: attempt.memory_asked,
    "worker": lambda attempt: attempt.own,
    "disk": lambda attempt: attempt.disk,
    "disk asked": lambda attempt: attempt.disk_asked,
    "read": lambda attempt: attempt.read,
    "written": lambda attempt: attempt.written,
}
_TIMES = ("wall", "cpu", "idle", "wait")
_FIGURES = ("min", "median", "mean", "max", "total")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = """\
wall          seconds from start to end of the attempts that succeeded
cpu           seconds of processor time, subprocesses included
idle          seconds that the cores asked for were not used
wait          seconds from when a task could have started to its start
memory        bytes at the peak, without the worker's own; 0 for tasks that are over in 20 ms
memory asked  bytes, as disk asked
worker        bytes that the worker itself had when the task began: they do not count as the task's
disk          the most bytes in the temporary directory, looked at every second and at the end
read          bytes read, from disk or cache, by tasks that take longer than 20 ms; written likewise"""
    add_store(parser)
    add_store_options(parser)
    parser.add_argument("--attempts", action="store_true", help="print one row for each attempt, including failed ones")
    form = parser.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--human", action="store_true", help="print sizes and times with units (default)")
    form.add_argument("--csv", action="store_true", help="print plain numbers, separated by commas")


def command(options: argparse.Namespace) -> int:
    """Print what tasks took, and what they asked for: for each name, and for the whole run."""
    store = open_named(options)
    view = View(store)
    attempts = list(attempts_of(store, view))
    if options.attempts:
        _print_attempts(attempts, as_json=options.json, as_csv=options.csv)
        return 0
    groups = _gather(attempts)
    if options.json:
        tasks = {name: _as_dict(group) for name, group in groups.items()}
        print_json({"tasks": tasks, "run": _sums(attempts, view.requests)})
    elif options.csv:
        _print_csv(groups)
    else:
        _print_table(groups)
        _print_sums(_sums(attempts, view.requests))
    return 0


def _gather(attempts: Iterable[Attempt]) -> dict[str, list[Attempt]]:
    """Sort attempts by their tasks' names; those that took longest together come first."""
    groups: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        groups[attempt.name].append(attempt)
    return dict(sorted(groups.items(), key=lambda item: -sum(attempt.wall for attempt in item[1])))


def _figures(group: Iterable[Attempt], measure: str) -> dict[str, float]:
    values = [_MEASURES[measure](attempt) for attempt in group if attempt.result == "done"] or [0.0]
    found = (min(values), median(values), fmean(values), max(values), sum(values))
    return dict(zip(_FIGURES, found, strict=True))


def _counts(group: list[Attempt]) -> tuple[int, int]:
    done = sum(attempt.result == "done" for attempt in group)
    return done, len(group) - done


def _as_dict(group: list[Attempt]) -> dict[str, object]:
    done, failed = _counts(group)
    figures = {measure.replace(" ", "_"): _figures(group, measure) for measure in _MEASURES}
    return {"done": done, "failed_attempts": failed, **figures}


def _sums(attempts: list[Attempt], leaders: int) -> dict[str, float]:
    """Add up the whole store, failed attempts too: what was asked for, used, and asked for in vain.

    Memory counts by the time for which it was held, in bytes times seconds, where its use is known.
    `leaders` is how many requests these have sent to the store's server.
    """
    known = [attempt for attempt in attempts if attempt.memory]
    cores = sum(attempt.cores_asked * attempt.wall for attempt in attempts)
    cpu = sum(attempt.cpu for attempt in attempts)
    memory_asked = sum(attempt.memory_asked * attempt.wall for attempt in known)
    memory = sum(attempt.memory * attempt.wall for attempt in known)
    return {
        "attempts": len(attempts),
        "failed_attempts": sum(attempt.result != "done" for attempt in attempts),
        "wall": sum(attempt.wall for attempt in attempts),
        "wait": sum(attempt.wait for attempt in attempts),
        "core_seconds_asked": cores,
        "core_seconds_used": cpu,
        "core_seconds_unused": max(0.0, cores - cpu),
        "memory_seconds_asked": memory_asked,
        "memory_seconds_used": memory,
        "memory_seconds_unused": max(0.0, memory_asked - memory),
        "read": sum(attempt.read for attempt in attempts),
        "written": sum(attempt.written for attempt in attempts),
        "requests": leaders + sum(attempt.requests for attempt in attempts),
        "requests_of_leaders": leaders,
    }


def _print_table(groups: Mapping[str, list[Attempt]]) -> None:
    rows = []
    for name, group in groups.items():
        own = [name, *map(str, _counts(group))]
        for measure in _MEASURES:
            write = format_duration if measure in _TIMES else _size
            rows.append([*own, measure, *map(write, _figures(group, measure).values())])
            own = ["", "", ""]
    print_table(["task", "done", "failed", "", *_FIGURES], rows, right={1, 2, *range(4, 9)})


def _size(value: float) -> str:
    return format_size(round(value))


def _print_sums(sums: Mapping[str, float]) -> None:
    print(f"\nall {sums['attempts']:.0f} attempts, of which {sums['failed_attempts']:.0f} failed")
    print(f"cores     {_cores(sums)}")
    print(f"memory    {_memory(sums)}")
    print(f"data      {_size(sums['read'])} read, {_size(sums['written'])} written")
    if sums["requests"]:
        print(f"requests  {_requests(sums)}")


def _requests(sums: Mapping[str, float]) -> str:
    attempts = sums["attempts"] or 1
    return f"{sums['requests']:.0f} to the store's server, {sums['requests'] / attempts:.2f} an attempt"


def _cores(sums: Mapping[str, float]) -> str:
    asked, used, unused = (sums[f"core_seconds_{what}"] for what in ("asked", "used", "unused"))
    if not asked:
        return "no task ran"
    return f"{format_duration(asked)} asked for, {100 * used / asked:.0f} % used; {format_duration(unused)} unused"


def _memory(sums: Mapping[str, float]) -> str:
    asked, used = (sums[f"memory_seconds_{what}"] for what in ("asked", "used"))
    if not asked:
        return "not known: no task took long enough to be measured"
    return f"{100 * used / asked:.0f} % used of what was asked for while tasks ran"


def _print_csv(groups: Mapping[str, list[Attempt]]) -> None:
    rows = csv.writer(sys.stdout)
    rows.writerow(["task", "done", "failed attempts", "measure", *_FIGURES])
    for name, group in groups.items():
        rows.writerows([name, *_counts(group), measure, *_figures(group, measure).values()] for measure in _MEASURES)


def _print_attempts(attempts: list[Attempt], *, as_json: bool, as_csv: bool) -> None:
    if as_json:
        print_json([attempt._asdict() for attempt in attempts])
    elif as_csv:
        rows = csv.writer(sys.stdout)
        rows.writerow(Attempt._fields)
        rows.writerows(attempts)
    else:
        measures = ("wall", "cpu", "wait", "memory", "memory asked", "read", "written")
        print_table(
            ["id", "task", "run", "attempt", "result", *measures],
            [_row(attempt, measures) for attempt in attempts],
            right={2, 3, *range(5, 5 + len(measures))},
        )


def _row(attempt: Attempt, measures: Iterable[str]) -> list[str]:
    values = [(format_duration if m in _TIMES else _size)(_MEASURES[m](attempt)) for m in measures]
    return [attempt.task[:12], attempt.name, str(attempt.run), str(attempt.number), attempt.result, *values]
