"""Batches made by hand from promises, for tests of workers and clusters."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from toilfn import protocol
from toilfn.clusters.base import Batch, Cluster, JobState, Update
from toilfn.graph.record import record
from toilfn.graph.serialize import loads, resolve
from toilfn.model import records
from toilfn.model.records import encode
from toilfn.resources import Resources
from toilfn.stores import Store


@dataclass
class Made:
    """A batch, and the ids of its tasks by their positions among the promises it was made from."""

    message: bytes
    ids: list[bytes]
    resources: Resources

    @property
    def batch(self) -> Batch:
        return Batch("a-batch", "tasks of a test", self.resources, self.message)


def make(store: Store, *promises: Any, attempt: int = 1, values: Any = None, **resources: Any) -> Made:
    """Make a batch of different promises and all that they need, in order."""
    parent = records.TaskRecord(b"p" * 16, b"", b"", (), (), {}, None, {}, lineage=os.urandom(16))
    made = record(list(promises), (), parent, store)
    shape = Resources(**{"memory": 2**30, **resources})
    tasks = [(encode(task), attempt, protocol.limits(shape)) for task in made.tasks]
    order = protocol.Run(tasks, values or {}, list(map(encode, made.functions)))
    return Made(protocol.encode(order), list(made.refs), shape)


@dataclass
class Answered:
    """A worker's answers about batches."""

    outcomes: dict[bytes, records.Outcome] = field(default_factory=dict)
    failures: dict[bytes, records.Failure] = field(default_factory=dict)
    kept: list[bytes] = field(default_factory=list)
    returned: list[bytes] = field(default_factory=list)
    running: list[bytes] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    ends: list[Update] = field(default_factory=list)

    def hear(self, message: bytes) -> None:
        said = protocol.decode(message)
        self.kinds.append(type(said).__name__.lower())
        match said:
            case protocol.Records(made, tail_calls) | protocol.Done(made, tail_calls):
                for data in made:
                    record: Any = records.decode(data)
                    kept = self.outcomes if isinstance(record, records.Outcome) else self.failures
                    kept[record.id] = record
                self.kept += tail_calls
            case protocol.Returned(tasks):
                self.returned += tasks
            case protocol.Running(task):
                self.running.append(task)

    def value(self, id_: bytes, store: Store) -> Any:
        """The value of a task, with the values that it refers to."""
        entries = {
            key: (one.value if isinstance(one.value, bytes) else store.get_blob(one.value), one.refs)
            for key, one in self.outcomes.items()
        }
        if not entries[id_][1]:
            return loads(entries[id_][0], {})
        return resolve([id_], entries)[id_]


def gather(cluster: Cluster, jobs: int = 1, *, answered: Answered | None = None, limit: float = 30) -> Answered:
    """Poll until so many jobs have ended."""
    import time

    answered = answered or Answered()
    deadline = time.monotonic() + limit
    while len(answered.ends) < jobs:
        assert time.monotonic() < deadline, answered
        for update in cluster.poll(1):
            for message in update.answers:
                answered.hear(message)
            if update.state is JobState.ENDED:
                answered.ends.append(update)
    return answered
