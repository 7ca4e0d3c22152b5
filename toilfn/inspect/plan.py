"""The plan of a dry run: the tasks that would run, the reasons, and the tasks that would be reused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from toilfn.resources import Resources
from toilfn.text import visible
from toilfn.units import format_duration, format_size

__all__ = ["Plan", "PlannedTask", "by_name"]

_SHOWN = 4
"""The most reasons in the text for the tasks of one name."""


@dataclass(frozen=True)
class PlannedTask:
    """A task that would run.

    Attributes
    ----------
    id, name : str
        The id in hexadecimal.
    reasons : tuple of str
        Why it would run; of very many tasks of one name, only the first ones have reasons.
    resources : Resources or None
        Its requirements; None if that depends on values that are not known yet.
    seconds : float or None
        The median of earlier tasks of the same name in the store; None if no such task has run.
    needs : tuple of str
        The ids of the tasks of the plan that it waits for.
    """

    id: str
    name: str
    reasons: tuple[str, ...]
    resources: Resources | None
    seconds: float | None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The plan of `compute`; it is true if any task would run.

    Attributes
    ----------
    store : str or None
    tasks : tuple of PlannedTask
        The tasks that would run.
    reused : dict of str to int
        How many finished tasks of each name would be reused.
    work, longest, elapsed : float or None
        Expected seconds: of all tasks together, of the longest chain of tasks, and of the run; None where the store
        has no statistics or, for the last one, the number of workers is not known.
    unknown : tuple of str
        Facts that cannot be known before the run.
    """

    store: str | None = None
    tasks: tuple[PlannedTask, ...] = ()
    reused: Mapping[str, int] = field(default_factory=dict)
    work: float | None = None
    longest: float | None = None
    elapsed: float | None = None
    unknown: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tasks)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, as ``--json`` prints it."""
        return {**asdict(self), "would_run": len(self.tasks), "reused": dict(self.reused)}

    def after(self, earlier: Plan) -> Plan:
        """Join the plan with that of an earlier `compute` of the script, for which no task had to run."""
        counts = Counter(earlier.reused)
        counts.update(self.reused)
        unknown = tuple(dict.fromkeys((*earlier.unknown, *self.unknown)))
        return replace(self, store=self.store or earlier.store, reused=dict(counts), unknown=unknown)

    def _lines(self) -> Iterator[str]:
        yield "dry run: nothing was run or written"
        yield f"would run: {len(self.tasks) or 'nothing'}"
        for name, tasks in by_name(self.tasks).items():
            yield f"  {len(tasks)} {visible(name, one_line=True)}: {_requested(tasks)}{_each(tasks)}"
            reasons = list(dict.fromkeys(reason for task in tasks for reason in _differences(task.reasons)))
            yield from (f"      {visible(reason, one_line=True)}" for reason in reasons[:_SHOWN])
            if len(reasons) > _SHOWN:
                yield f"      and {len(reasons) - _SHOWN} more reasons: --json has all"
        if self.reused:
            kinds = ", ".join(f"{count} {visible(name, one_line=True)}" for name, count in self.reused.items())
            yield f"reused: {sum(self.reused.values())} ({kinds})"
        if self.work is not None and self.longest is not None:
            ends = f"; the run takes about {format_duration(self.elapsed)}" if self.elapsed is not None else ""
            work, chain = format_duration(self.work), format_duration(self.longest)
            yield f"expected: {work} of work, {chain} in the longest chain of tasks{ends}"
        if self.unknown:
            yield "not known before the run:"
            yield from (f"  {visible(reason, one_line=True)}" for reason in self.unknown)


def by_name(tasks: Iterable[PlannedTask]) -> dict[str, list[PlannedTask]]:
    """Return the tasks of each name."""
    found: dict[str, list[PlannedTask]] = {}
    for task in tasks:
        found.setdefault(task.name, []).append(task)
    return found


def _differences(reasons: tuple[str, ...]) -> Iterator[str]:
    """Leave out the earlier task with which each one was compared, which differs from task to task."""
    return (reason for reason in reasons if not reason.startswith("compared with the earlier task"))


def _requested(tasks: list[PlannedTask]) -> str:
    kinds = list(dict.fromkeys(_resources(task.resources) for task in tasks))
    return kinds[0] if len(kinds) == 1 else f"{kinds[0]}, others differ"


def _resources(asked: Resources | None) -> str:
    if asked is None:
        return "resources depend on values"
    parts = [
        f"{asked.cores:g} core{'s' * (asked.cores != 1)}",
        f"{format_size(asked.memory)} memory",
        f"{format_size(asked.disk)} disk",
        *(f"{one.count} {one.model or one.brand or one.kind}" for one in asked.accelerators),
    ]
    if asked.walltime is not None:
        parts.append(f"at most {format_duration(asked.walltime)}")
    return ", ".join(parts)


def _each(tasks: list[PlannedTask]) -> str:
    seconds = tasks[0].seconds
    return f", about {format_duration(seconds)}{' each' * (len(tasks) > 1)}" if seconds is not None else ""
