"""``toilfn stats STORE``."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Mapping

from toilfn.cli.common import add_json, add_store, add_store_options, open_named, print_json, print_table
from toilfn.inspect.attempts import Attempt, attempts_of
from toilfn.inspect.fold.columns import FIGURES, MEASURES, Detail, Kind, Sums, Usage, total
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.view import View
from toilfn.units import format_duration, format_size

__all__ = ["command", "configure"]

_TIMES = ("wall", "cpu", "idle", "wait")
_OF_ATTEMPTS: dict[str, Callable[[Attempt], float]] = {
    "wall": lambda attempt: attempt.wall,
    "cpu": lambda attempt: attempt.cpu,
    "wait": lambda attempt: attempt.wait,
    "memory": lambda attempt: attempt.memory,
    "memory asked": lambda attempt: attempt.memory_asked,
    "read": lambda attempt: attempt.read,
    "written": lambda attempt: attempt.written,
}
"""The columns of the list of attempts."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = """\
wall          seconds from start to end of the attempts that succeeded
cpu           seconds of processor time, subprocesses included
idle          seconds that the requested cores were not used
wait          seconds between the time when a task was ready and its start
memory        peak memory in bytes, without that of the worker; 0 for tasks shorter than 20 ms
memory asked  requested memory in bytes; disk asked is the requested disk space
worker        bytes of memory of the worker itself when the task began, which do not count as the task's
disk          peak size in bytes of the temporary directory, measured every second and at the end
read          bytes read from disk or cache, by tasks longer than 20 ms; written is the same for writing"""
    add_store(parser)
    add_store_options(parser)
    parser.add_argument("--attempts", action="store_true", help="print one row for each attempt, including failed ones")
    form = parser.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--human", action="store_true", help="print sizes and times with units (default)")
    form.add_argument("--csv", action="store_true", help="print plain numbers, separated by commas")


def command(options: argparse.Namespace) -> int:
    """Print the resources that tasks used and requested: for each name, and for the whole run."""
    store = open_named(options)
    if options.attempts:
        _print_attempts(list(attempts_of(store, View(store))), as_json=options.json, as_csv=options.csv)
        return 0
    fold = Fold(Detail.USAGE)
    fold.update(store)
    # Sort by total wall time, longest first.
    kinds = sorted((kind for kind in fold.kinds if kind.usage.sums.attempts), key=lambda kind: -kind.usage.sums.wall)
    sums = _sums(total(kind.usage for kind in kinds), fold.requests)
    if options.json:
        print_json({"tasks": {kind.name: _as_dict(kind.usage) for kind in kinds}, "run": sums})
    elif options.csv:
        _print_csv(kinds)
    else:
        _print_table(kinds)
        _print_sums(sums)
    return 0


def _as_dict(usage: Usage) -> dict[str, object]:
    figures = {measure.replace(" ", "_"): usage.figures(measure) for measure in MEASURES}
    return {"done": usage.done, "failed_attempts": usage.failed, **figures}


def _sums(sums: Sums, leaders: int) -> dict[str, float]:
    """Describe the whole store, including failed attempts: resources requested, used and unused.

    `leaders` is the number of requests that leaders have sent to the store's server.
    """
    return {
        "attempts": sums.attempts,
        "failed_attempts": sums.failed,
        "wall": sums.wall,
        "wait": sums.wait,
        "core_seconds_asked": sums.cores_asked,
        "core_seconds_used": sums.cpu,
        "core_seconds_unused": max(0.0, sums.cores_asked - sums.cpu),
        "memory_seconds_asked": sums.memory_asked,
        "memory_seconds_used": sums.memory_used,
        "memory_seconds_unused": max(0.0, sums.memory_asked - sums.memory_used),
        "read": sums.read,
        "written": sums.written,
        "requests": leaders + sums.requests,
        "requests_of_leaders": leaders,
    }


def _print_table(kinds: Iterable[Kind]) -> None:
    rows = []
    for kind in kinds:
        own = [kind.name, str(kind.usage.done), str(kind.usage.failed)]
        for measure in MEASURES:
            write = format_duration if measure in _TIMES else _size
            rows.append([*own, measure, *map(write, kind.usage.figures(measure).values())])
            own = ["", "", ""]
    print_table(["task", "done", "failed", "", *FIGURES], rows, right={1, 2, *range(4, 9)})


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
    return f"{format_duration(asked)} requested, {100 * used / asked:.0f} % used; {format_duration(unused)} unused"


def _memory(sums: Mapping[str, float]) -> str:
    asked, used = (sums[f"memory_seconds_{what}"] for what in ("asked", "used"))
    if not asked:
        return "not known: no task took long enough to be measured"
    return f"{100 * used / asked:.0f} % of the requested memory was used while tasks ran"


def _print_csv(kinds: Iterable[Kind]) -> None:
    rows = csv.writer(sys.stdout)
    rows.writerow(["task", "done", "failed attempts", "measure", *FIGURES])
    for kind in kinds:
        own = [kind.name, kind.usage.done, kind.usage.failed]
        rows.writerows([*own, measure, *kind.usage.figures(measure).values()] for measure in MEASURES)


def _print_attempts(attempts: list[Attempt], *, as_json: bool, as_csv: bool) -> None:
    if as_json:
        print_json([attempt._asdict() for attempt in attempts])
    elif as_csv:
        rows = csv.writer(sys.stdout)
        rows.writerow(Attempt._fields)
        rows.writerows(attempts)
    else:
        print_table(
            ["id", "task", "run", "attempt", "result", *_OF_ATTEMPTS],
            [_row(attempt) for attempt in attempts],
            right={2, 3, *range(5, 5 + len(_OF_ATTEMPTS))},
        )


def _row(attempt: Attempt) -> list[str]:
    values = [(format_duration if m in _TIMES else _size)(of(attempt)) for m, of in _OF_ATTEMPTS.items()]
    return [attempt.task[:12], attempt.name, str(attempt.run), str(attempt.number), attempt.result, *values]
