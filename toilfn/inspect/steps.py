"""The steps of a CWL or WDL document, as far as they are known before a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from toilfn.ids import TaskId
from toilfn.inspect.view import TaskInfo

__all__ = ["Step", "as_tasks"]


class Step(NamedTuple):
    """A tool's place in a document.

    Attributes
    ----------
    name : str
        Its name, after those of the sub-workflows that it is in: ``align/sort``. A step that may run several times, or
        not at all, says so: ``sort (scatter)``.
    kind : str
        The name of the tool.
    needs : frozenset of str
        The names of the steps that run before it.
    """

    name: str
    kind: str
    needs: frozenset[str]


def as_tasks(steps: Iterable[Step], *, by_kind: bool) -> list[TaskInfo]:
    """Return steps as tasks that wait; they are named by their tools with `by_kind`, else by themselves."""
    return [
        TaskInfo(_id(step.name), step.kind if by_kind else step.name, needs=tuple(map(_id, sorted(step.needs))))
        for step in steps
    ]


def _id(name: str) -> TaskId:
    return TaskId(name.encode())
