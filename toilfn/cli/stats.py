"""``toilfn stats STORE``."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean, median

from toilfn.cli.common import add_json, add_store, print_json, print_table
from toilfn.stores import open_store
from toilfn.units import format_duration, format_size
from toilfn.view import State, TaskInfo, View

__all__ = ["command", "configure"]

_MEASURES = ("wall", "cpu", "wait", "memory")
_FIGURES = ("min", "median", "mean", "max", "total")


@dataclass(slots=True)
class _Group:
    """What the finished tasks of one name used: seconds, and bytes at the peak."""

    failed: int = 0
    values: dict[str, list[float]] = field(default_factory=lambda: {measure: [] for measure in _MEASURES})

    @property
    def count(self) -> int:
        return len(self.values["wall"])

    def add(self, task: TaskInfo) -> None:
        used = (task.wall, task.cpu, max(0.0, task.wall - task.cpu), task.memory)
        for measure, value in zip(_MEASURES, used, strict=True):
            self.values[measure].append(value)

    def figures(self, measure: str) -> dict[str, float]:
        values = self.values[measure] or [0.0]
        found = (min(values), median(values), fmean(values), max(values), sum(values))
        return dict(zip(_FIGURES, found, strict=True))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = """\
wall    seconds from start to end of the attempt that succeeded
cpu     seconds of processor time, subprocesses included
wait    wall less cpu: input, output and waiting, where it is not negative
memory  the peak, in bytes; its total says what all would take at one time"""
    add_store(parser)
    form = parser.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--csv", action="store_true", help="print one line of plain numbers for each name and measure")


def command(options: argparse.Namespace) -> int:
    """Print, for each name of tasks, what those that are done took."""
    groups = _gather(View(open_store(options.store, create=False)).tasks.values())
    if options.json:
        print_json({name: _as_dict(group) for name, group in groups.items()})
    elif options.csv:
        rows = csv.writer(sys.stdout)
        rows.writerow(["task", "done", "failed attempts", "measure", *_FIGURES])
        rows.writerows(
            [name, group.count, group.failed, measure, *group.figures(measure).values()]
            for name, group in groups.items()
            for measure in _MEASURES
        )
    else:
        _print_for_people(groups)
    return 0


def _gather(tasks: Iterable[TaskInfo]) -> dict[str, _Group]:
    """Sort tasks by their names; those that took longest together come first."""
    groups: dict[str, _Group] = {}
    for task in tasks:
        if not task.attempts:
            continue
        group = groups.setdefault(task.name, _Group())
        done = task.state is State.DONE
        group.failed += task.attempts - done
        if done:
            group.add(task)
    return dict(sorted(groups.items(), key=lambda item: -sum(item[1].values["wall"])))


def _as_dict(group: _Group) -> dict[str, object]:
    figures = {measure: group.figures(measure) for measure in _MEASURES}
    return {"done": group.count, "failed_attempts": group.failed, **figures}


def _print_for_people(groups: dict[str, _Group]) -> None:
    rows = []
    for name, group in groups.items():
        for measure in _MEASURES:
            first = measure == _MEASURES[0]
            write = format_size if measure == "memory" else format_duration
            own = [name, str(group.count), str(group.failed)] if first else ["", "", ""]
            rows.append([*own, measure, *map(write, group.figures(measure).values())])
    print_table(["task", "done", "failed", "", *_FIGURES], rows, right={1, 2, *range(4, 9)})
