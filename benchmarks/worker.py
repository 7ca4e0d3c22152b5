"""Measure a worker alone, started by the local cluster: time per task, without the scheduler and the log.

    python benchmarks/worker.py [--tasks 5000] [--levels 100000]

Processor time is that of the worker; wall time includes the messages to the worker and back.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import psutil

import toilfn as toil
from toilfn import protocol
from toilfn.clusters.base import Batch, JobState, RunContext
from toilfn.clusters.local.cluster import LocalCluster
from toilfn.graph.record import record
from toilfn.model import records
from toilfn.resources import Resources
from toilfn.stores import Store, temporary_store


@toil.task
def nothing(i: int) -> int:
    return i


@toil.task
def count_down(n: int) -> Any:
    return count_down(n - 1) if n else "lift-off"


def batch(store: Store, promises: list[Any]) -> Batch:
    parent = records.TaskRecord(b"p" * 16, b"", b"", (), (), {}, None, {}, lineage=os.urandom(16))
    made = record(promises, (), parent, store)
    tasks = [(records.encode(task), 1, protocol.limits(Resources())) for task in made.tasks]
    message = protocol.encode(protocol.Run(tasks, {}, list(map(records.encode, made.functions))))
    return Batch("batch", "batch", Resources(), message)


def run(cluster: LocalCluster, work: Batch) -> tuple[float, int]:
    """Run a batch and return the seconds it took and the number of records that came back."""
    start, count = time.perf_counter(), 0
    cluster.submit([work])
    while True:
        for update in cluster.poll(10):
            said = map(protocol.decode, update.answers)
            count += sum(len(one.records) for one in said if isinstance(one, protocol.Records | protocol.Done))
            if update.state is JobState.ENDED:
                assert update.cause is None, update
                return time.perf_counter() - start, count


def measure(cluster: LocalCluster, what: str, work: Batch, tasks: int) -> None:
    *_, worker = psutil.Process().children(recursive=True)  # after the process that has forked it
    before = worker.cpu_times()
    wall, count = run(cluster, work)
    after = worker.cpu_times()
    assert count == tasks, count
    cpu = after.user + after.system - before.user - before.system
    memory = worker.memory_info().rss / 2**20
    print(
        f"{what:>12}: {cpu / tasks * 1e6:6.1f} us processor, {wall / tasks * 1e6:6.1f} us wall, worker {memory:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--levels", type=int, default=100_000)
    given = parser.parse_args()
    store, cluster = temporary_store(), LocalCluster()
    cluster.open(RunContext(store.url, "benchmark"))
    start, _ = run(cluster, batch(store, [nothing(0)]))
    print(f"{'first task':>12}: {start * 1e3:.0f} ms after submit, the start of the worker included")
    measure(cluster, "no-op task", batch(store, [nothing(i) for i in range(given.tasks)]), given.tasks)
    measure(cluster, "tail call", batch(store, [count_down(given.levels)]), given.levels + 1)
    trips = [run(cluster, batch(store, [nothing(0)]))[0] for _ in range(200)]
    print(f"{'round trip':>12}: {sorted(trips)[100] * 1e6:.0f} us for a batch of one task")
    cluster.close()
    store.destroy()


if __name__ == "__main__":
    main()
