"""The parts of a fold: what is kept of tasks, kinds, workers and attempts."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from toilfn.ids import TaskId
from toilfn.inspect.fold.curves import Levels
from toilfn.inspect.fold.figures import Usage
from toilfn.inspect.view import State
from toilfn.resources import Resources
from toilfn.stores.segments import Segment

__all__ = ["Attempts", "Block", "Detail", "Item", "Kind", "Row", "Variant", "Worker"]


class Detail(IntEnum):
    """How much is kept; each includes those before it."""

    STATES = 0
    """States, errors, what runs."""
    USAGE = 1
    """Statistics of each kind."""
    CURVES = 2
    """Levels over time, workers, and how kinds lead to each other."""
    ATTEMPTS = 3
    """Every attempt: its times, and where its record is."""


class Row(NamedTuple):
    """One task."""

    number: int
    """From 0, in the order in which the store learnt of them."""
    id: TaskId
    name: str
    state: State
    attempts: int
    """Those that ended."""
    since: float
    """When it was given to the cluster, if it is there now; seconds since the epoch."""
    job: str
    reason: str
    """Why the job waits, in the words of the cluster's system."""
    cause: str
    error: str
    """Why the last attempt failed: its one-line message."""

    @property
    def short_id(self) -> str:
        """The start of the id in hexadecimal, which commands understand."""
        return self.id.hex()[:12]


class Kind:
    """The tasks of one name.

    Attributes
    ----------
    name : str
    number : int
    usage : Usage
    running : Levels or None
        How many attempts ran at each time.
    """

    __slots__ = ("name", "number", "running", "usage")

    def __init__(self, name: str, number: int, running: Levels | None) -> None:
        self.name = name
        self.number = number
        self.usage = Usage()
        self.running = running


class Variant(NamedTuple):
    """Tasks of one kind that ask for the same."""

    kind: Kind
    asked: Resources
    options: dict[str, Any]
    """The options of their function with their own; those that are missing have the newest run's defaults."""


class Worker:
    """A process that ran attempts, or all on one host when there are very many."""

    __slots__ = ("attempts", "busy", "cpu", "failed", "host", "levels", "process")

    def __init__(self, host: str, process: int, levels: Levels) -> None:
        self.host = host
        self.process = process
        self.levels = levels
        self.attempts = self.failed = 0
        self.busy = self.cpu = 0.0


class Attempts:
    """The columns of all attempts, in the order in which they ended.

    Attributes
    ----------
    is_whole : bool
        False if there are too many, so that none is kept.
    """

    def __init__(self, *, is_whole: bool = True) -> None:
        self.is_whole = is_whole
        self.task = array("I")
        self.cause = array("B")
        self.start, self.wall, self.cpu, self.wait = array("d"), array("f"), array("f"), array("f")
        self.memory = array("Q")
        self.worker = array("I")
        self.segment, self.offset, self.size = array("I"), array("Q"), array("I")
        self.segments: list[str] = []
        self.causes: list[str] = [""]
        self.workers: dict[tuple[str, int], int] = {}


Item: TypeAlias = tuple[Sequence[Any], int, int]
"""A record: its kind and its fields, its offset in the segment, and its size."""


class Block:
    """Records of a segment that wait to be taken: first the tasks, then the outcomes.

    An outcome may wait while further tasks are recorded, and while other tasks are given to the cluster.
    """

    __slots__ = ("outcomes", "segment", "tasks")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.tasks: list[Item] = []
        self.outcomes: dict[TaskId, Item] = {}
