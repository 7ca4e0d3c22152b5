"""Measure the leader alone: flat graphs of no-op tasks on a cluster that answers at once.

    python benchmarks/million.py [N ...]

Everything except running the tasks is real: building promises and task ids, recording the graph in
the store, scheduling, messages, durable commits. Each size runs in a separate process. Memory is the
growth of the peak since a first small run, with and without the promises that the script holds.
"""

from __future__ import annotations

import pickle
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence

import msgpack
import psutil
from processes import run

import toilfn as toil
from toilfn.clusters.base import Batch, Capabilities, Cluster, JobId, JobState, RunContext, Update
from toilfn.model import records
from toilfn.resources import Capacity, Resources


class InstantCluster(Cluster):
    """A cluster that answers every batch at once, with an outcome for each of its tasks."""

    capabilities = Capabilities(direct=True)

    def open(self, session: RunContext) -> None:
        self._updates: list[Update] = []
        self._number = 0
        self._value = pickle.dumps(1, 5)

    def capacity(self) -> Capacity:
        return Capacity(Resources(cores=2, memory=2**40, disk=2**40), None, 2)

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        return [self._answer(batch) for batch in batches]

    def _answer(self, batch: Batch) -> JobId:
        self._number += 1
        job = JobId(str(self._number))
        tasks = msgpack.unpackb(batch.message, use_list=False, strict_map_key=False)[1]
        answers = [self._outcome(data) for data, _, _ in tasks]
        message = msgpack.packb(("records", answers, ()))
        self._updates.append(Update(job, JobState.ENDED, None, answers=(message,)))
        return job

    def _outcome(self, data: bytes) -> bytes:
        start = len(records.start_of(records.TaskRecord))
        id_ = data[start : start + 16]
        stats = records.Stats(time.time(), 1e-5)
        return records.encode(records.Outcome(id_, 1, self._value, (), (), (), (), (), b"", stats))

    def poll(self, timeout: float) -> list[Update]:
        updates, self._updates = self._updates, []
        return updates

    def kill(self, jobs: Iterable[JobId]) -> None:
        pass

    def close(self) -> None:
        pass


@toil.task
def nothing(x: int) -> int:
    return x


@toil.task
def gather(xs: list[int]) -> int:
    return len(xs)


def peak() -> int:
    """Return the peak memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(size: int) -> str:
    """Run a flat graph and return a line with its time and memory."""
    toil.compute(gather([nothing(0)]), cluster=InstantCluster(), progress=False)
    before = peak()
    began = time.perf_counter()
    wanted = gather([nothing(i) for i in range(size)])
    built = time.perf_counter()
    promises = psutil.Process().memory_info().rss - before
    with tempfile.TemporaryDirectory() as folder:
        toil.compute(wanted, store=f"{folder}/store", cluster=InstantCluster(), progress=False)
    took = time.perf_counter() - began
    return (
        f"{size:>9,} tasks: {built - began:7.2f} s to build, {took:7.2f} s in all, "
        f"{took / size * 1e6:6.1f} µs a task, {(peak() - before) / size:6.0f} bytes a task, "
        f"{(peak() - before - promises) / size:6.0f} without the script's promises"
    )


def main() -> None:
    if sys.argv[1:2] == ["--only"]:
        print(measure(int(sys.argv[2])))
        return
    for size in [int(text) for text in sys.argv[1:]] or [10_000, 100_000, 1_000_000]:
        print(run(__file__, "--only", str(size)), flush=True)


if __name__ == "__main__":
    main()
