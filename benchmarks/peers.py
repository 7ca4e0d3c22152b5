"""Measure the same graphs on toilfn, dask.distributed, Parsl and a process pool, one after the other.

    python benchmarks/peers.py [--engine NAME ...] [--shape NAME ...] [--scale 1.0] [--json]

Every engine has two workers and its own default settings. The store of toilfn is on disk, with
durable commits, and Parsl writes checkpoints. Each time is from the first call of a task to the
final value; it does not include starting and stopping workers if the engine keeps them between
graphs. Each engine runs in a separate process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from processes import run

WORKERS = 2
SIZES = {"flat": 10_000, "chain": 2_000, "tree": 4_096, "fan-out": 10_000}


def inc(x: int) -> int:
    return x + 1


def add(x: int, y: int) -> int:
    return x + y


def total(xs: list[int]) -> int:
    return sum(xs)


def tasks_of(shape: str, size: int) -> int:
    """Return the number of tasks of a shape."""
    return {"flat": size + 1, "chain": size, "tree": 2 * size - 1, "fan-out": size + 2}[shape]


def expected(shape: str, size: int) -> int:
    """Return the value that the graph of a shape must have."""
    return size if shape == "chain" else size * (size + 1) // 2


def build(shape: str, size: int, inc: Callable[..., Any], add: Callable[..., Any], total: Callable[..., Any]) -> Any:
    """Build a lazy graph; for engines without lazy graphs, the arguments are futures that the engine resolves."""
    if shape == "flat":
        return total([inc(i) for i in range(size)])
    if shape == "chain":
        value: Any = 0
        for _ in range(size):
            value = inc(value)
        return value
    level = [inc(i) for i in range(size)]
    while len(level) > 1:
        level = [add(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def run_toilfn(shape: str, size: int) -> float:
    import toilfn as toil

    lazy_inc, lazy_add, lazy_total = toil.task(inc), toil.task(add), toil.task(total)

    @toil.task
    def fan_out(size: int) -> int:
        return lazy_total([lazy_inc(i) for i in range(size)])

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        graph = fan_out(size) if shape == "fan-out" else build(shape, size, lazy_inc, lazy_add, lazy_total)
        value = toil.compute(graph, store=f"{folder}/store", cluster=toil.LocalCluster(workers=WORKERS), progress=False)
        took = time.perf_counter() - began
    assert value == expected(shape, size), value
    return took


def run_dask(shape: str, size: int) -> float:
    from dask import delayed
    from distributed import Client, LocalCluster, worker_client

    def fan_out(size: int) -> int:
        with worker_client() as client:
            return sum(client.gather(client.map(inc, range(size))))

    with LocalCluster(n_workers=WORKERS, dashboard_address=None) as cluster, Client(cluster) as client:
        client.submit(inc, -1).result()
        began = time.perf_counter()
        if shape == "fan-out":
            value = client.submit(fan_out, size).result()
        else:
            value = client.compute(build(shape, size, delayed(inc), delayed(add), delayed(total))).result()
        took = time.perf_counter() - began
    assert value == expected(shape, size), value
    return took


def run_parsl(shape: str, size: int) -> float:
    import parsl
    from parsl.config import Config
    from parsl.dataflow.memoization import BasicMemoizer
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    with tempfile.TemporaryDirectory() as folder:
        executor = HighThroughputExecutor(
            max_workers_per_node=WORKERS, address="127.0.0.1", provider=LocalProvider(init_blocks=1, max_blocks=1)
        )
        memoizer = BasicMemoizer(checkpoint_mode="task_exit")
        config = Config(executors=[executor], memoizer=memoizer, run_dir=folder, usage_tracking=0)
        with parsl.load(config):
            lazy = [parsl.python_app(f, cache=True) for f in (inc, add)]
            gather = parsl.python_app(lambda *xs: sum(xs), cache=True)
            lazy[0](-1).result()
            began = time.perf_counter()
            # In Parsl, tasks on workers cannot create tasks: the main program creates the fan-out.
            flat = "flat" if shape == "fan-out" else shape
            value = build(flat, size, lazy[0], lazy[1], lambda xs: gather(*xs)).result()
            took = time.perf_counter() - began
    assert value == expected(shape, size), value
    return took


def run_pool(shape: str, size: int) -> float:
    """Run a graph on a process pool. It does not support dependencies, so this process waits for the values."""
    with ProcessPoolExecutor(WORKERS) as pool:
        pool.submit(inc, 0).result()
        began = time.perf_counter()
        if shape == "chain":
            value = 0
            for _ in range(size):
                value = pool.submit(inc, value).result()
        elif shape == "tree":
            level = [f.result() for f in [pool.submit(inc, i) for i in range(size)]]
            while len(level) > 1:
                futures = [pool.submit(add, level[i], level[i + 1]) for i in range(0, len(level), 2)]
                level = [f.result() for f in futures]
            value = level[0]
        else:
            value = sum(f.result() for f in [pool.submit(inc, i) for i in range(size)])
        took = time.perf_counter() - began
    assert value == expected(shape, size), value
    return took


ENGINES = {"toilfn": run_toilfn, "dask": run_dask, "parsl": run_parsl, "pool": run_pool}


def scaled(shape: str, scale: float) -> int:
    """Return the scaled size of a shape; that of a tree is rounded to a power of two."""
    size = int(SIZES[shape] * scale)
    return 1 << (size.bit_length() - 1) if shape == "tree" else size


def measure(engine: str, shape: str, size: int) -> float:
    """Run one engine on one graph in a fresh process and return the seconds."""
    return float(run(__file__, "--only", engine, shape, str(size)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--shape", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the number of tasks by this factor")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        engine, shape, size = options.only
        print(ENGINES[engine](shape, int(size)))
        return
    rows = []
    for shape in options.shape:
        size = scaled(shape, options.scale)
        for engine in options.engine:
            seconds = measure(engine, shape, size)
            rows.append({"shape": shape, "engine": engine, "tasks": tasks_of(shape, size), "seconds": seconds})
            if not options.json:
                show(rows[-1], rows)
    if options.json:
        print(json.dumps(rows, indent=1))


def show(row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    per_task = row["seconds"] / row["tasks"]
    ours = next((r for r in rows if r["shape"] == row["shape"] and r["engine"] == "toilfn"), None)
    ratio = f"{per_task * ours['tasks'] / ours['seconds']:8.1f} x toilfn's time" if ours else ""
    print(
        f"{row['shape']:8} {row['engine']:8} {row['seconds']:8.2f} s {per_task * 1e3:8.3f} ms/task {ratio}", flush=True
    )


if __name__ == "__main__":
    main()
