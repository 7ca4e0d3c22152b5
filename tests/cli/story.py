"""Writes stores as a leader would, for tests of their readers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from toilfn.model.records import (
    BlobRef,
    End,
    Epoch,
    Failure,
    Function,
    Outage,
    Outcome,
    Record,
    Run,
    Started,
    Stats,
    TaskRecord,
    encode,
)
from toilfn.stores import Store, open_store

CODE = BlobRef("blobs/00/code", 1, b"d" * 16)
STATS = Stats(start=1000.0, wall=2.0, cpu=1.5, memory=2**20, host="node1", worker=7)


def id_of(name: str) -> bytes:
    """A task's id, by a name that only the test knows."""
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def function(name: str) -> Function:
    return Function(id_of(f"function {name}"), name, {}, CODE, {})


def task(
    name: str, of: str, needs: Sequence[str] = (), after: Sequence[str] = (), parent: str | None = None
) -> TaskRecord:
    return TaskRecord(
        id_of(name), id_of(f"function {of}"), b"", tuple(map(id_of, needs)), tuple(map(id_of, after)), {},
        id_of(parent) if parent else None, {},
    )  # fmt: skip


def outcome(
    name: str, tasks: Sequence[TaskRecord] = (), log: bytes = b"", value: bytes = b"", wall: float = 2.0
) -> Outcome:
    refs = tuple(task.id for task in tasks)
    return Outcome(id_of(name), 1, value, refs, tuple(tasks), (), (), (), log, STATS._replace(wall=wall))


def failure(name: str, attempt: int = 1, final: bool = False) -> Failure:
    return Failure(id_of(name), attempt, "error", "ValueError: bad", "Traceback: bad", b"trying\n", STATS, final)


def started(*names: str, job: str = "job") -> Started:
    return Started(tuple(map(id_of, names)), job, 1000.0)


def epoch(number: int = 1) -> Epoch:
    return Epoch(number, "node0", 1, 999.0)


def run(*roots: str, number: int = 1) -> Run:
    return Run(number, "/home/me/flow.py", b"", tuple(map(id_of, roots)), {}, None, 999.5)


def end(status: str, number: int = 1) -> End:
    return End(number, status, 1010.0)


def tell(path: Path, *records: Record) -> Store:
    """Add records to a store, which is made if there is none; gives the store."""
    store = open_store(path)
    store.log.append([encode(record) for record in records])
    return store


def half_done() -> list[Record]:
    """One split and five sorts, of which three are done, one runs, one has failed; the rest waits.

    Meanwhile the batch system was away once.
    """
    sorts = [f"sort {n}" for n in range(5)]
    return [
        epoch(),
        run("merge"),
        *map(function, ["split", "sort_chunk", "merge", "report"]),
        task("split", "split"),
        *(task(name, "sort_chunk", ["split"]) for name in sorts),
        task("report", "report", after=["split"]),
        task("merge", "merge", sorts, after=["report"]),
        started("split"),
        outcome("split", log=b"splitting\n"),
        started(*sorts),
        Outage("the batch system does not answer", 1001.0),
        Outage("", 1002.0),
        *(outcome(name, wall=n + 1.0) for n, name in enumerate(sorts[:3])),
        failure("sort 3"),
        failure("sort 3", 2, final=True),
    ]
