"""Measure a server under load: pages of lists, submissions, the tasks of a large run, and ranges of a large log.

python benchmarks/server.py [--runs 10000] [--submissions 200] [--tasks 100000] [--log-gigabytes 5]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil

from toilfn.server.client import Client
from toilfn.server.records import Place, State

SCRIPT = """\
import sys
import toilfn as toil

@toil.task
def add(n):
    return n + 1

toil.compute([add(n) for n in range(int(sys.argv[1].partition("=")[2]))])
"""


def seconds(call: Callable[[], Any]) -> float:
    """Return the time that a call takes, in seconds."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def fill(place: Path, count: int) -> None:
    """Write `count` records of finished runs to the server's directory."""
    opened = Place(str(place), sync=False)
    request = {
        "workflow_type": "CWL",
        "workflow_type_version": "v1.2",
        "workflow_url": "a.cwl",
        "tags": {"project": "x"},
    }
    for number in range(count):
        run = opened.run(opened.new_id())
        content = {"owner": "local", "submitted": time.time(), "kind": "CWL", "document": "a.cwl", "options": [],
                   "params": {}, "store": None, "outputs": None, "request": request, "run_id": run.id}  # fmt: skip
        opened.submit(run, content)
        run.note("started", {"command": ["true", str(number)]})
        run.end(State.COMPLETE, 0, [])


class ServerProcess:
    """A server in a separate process."""

    def __init__(self, place: Path) -> None:
        self.place = place
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        program = os.path.join(os.path.dirname(sys.executable), "toilfn")
        command = [program, "server", f"--place={place}", f"--port={port}", "--max-runs=1"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.client = Client(f"http://127.0.0.1:{port}")
        while True:
            try:
                self.client.get("/service-info")
                return
            except Exception:
                time.sleep(0.05)

    @property
    def memory(self) -> float:
        """The resident memory of the server, in megabytes."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def restart(self) -> ServerProcess:
        """Stop this server, and return a new one with the same directory."""
        self.process.terminate()
        self.process.wait()
        return ServerProcess(self.place)

    @property
    def processor_time(self) -> float:
        """The processor time of the server, in seconds."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


def first_page(served: ServerProcess, run: str, what: str) -> None:
    """Print the time that the first page of a run's tasks takes."""
    before = served.processor_time
    took = seconds(lambda: served.client.get(f"/runs/{run}/tasks", page_size=100))
    print(f"{what}: {took * 1000:.0f} ms; {(served.processor_time - before) * 1000:.0f} ms of a processor")


def pages(served: ServerProcess, path: str, items: str) -> list[float]:
    """Return the time that each page of a list takes, in seconds."""
    times, token = [], ""
    while True:
        began = time.perf_counter()
        page = served.client.get(path, page_size=100, page_token=token)
        times.append(time.perf_counter() - began)
        token = page["next_page_token"]
        assert page[items]
        if not token:
            return times


def report(what: str, times: list[float]) -> None:
    """Print the median and the maximum of some times."""
    median, most = statistics.median(times) * 1000, max(times) * 1000
    print(f"{what}: median {median:.1f} ms, maximum {most:.1f} ms, {len(times)} requests")


def submissions(served: ServerProcess, folder: Path, count: int) -> None:
    """Submit runs that upload a file each, then cancel them."""
    upload = folder / "data.bin"
    upload.write_bytes(os.urandom(1 << 20))
    script = folder / "work.py"
    script.write_text("import time\ntime.sleep(600)\n")
    fields = {"workflow_type": "PYTHON", "workflow_type_version": "3", "workflow_url": "work.py"}
    runs: list[str] = []
    took = seconds(
        lambda: runs.extend(
            served.client.submit(fields, [("work.py", script), ("data.bin", upload)]) for _ in range(count)
        )
    )
    print(f"{count} submissions with 1 MiB each: {took:.1f} s")
    for run in runs:
        served.client.cancel(run)
    for run in runs:
        served.client.wait(run)


def tasks(served: ServerProcess, folder: Path, count: int) -> str:
    """Run a workflow of many tasks, read its list of tasks page by page, and return the id of the run."""
    script = folder / "many.py"
    script.write_text(SCRIPT)
    fields = {"workflow_type": "PYTHON", "workflow_type_version": "3", "workflow_url": "many.py",
              "workflow_params": json.dumps({"count": count})}  # fmt: skip
    run = served.client.submit(fields, [("many.py", script)])
    print(f"a run of {count} tasks: {seconds(lambda: served.client.wait(run)):.1f} s")
    first_page(served, run, "its first page")
    report("its pages of 100", pages(served, f"/runs/{run}/tasks", "task_logs"))
    print(f"the server's memory afterwards: {served.memory:.0f} MB")
    return run


def large_log(served: ServerProcess, place: Path, run: str, gigabytes: int) -> None:
    """Read ranges of a large log."""
    path = place / "work" / run / "stderr"
    with path.open("r+b") as file:
        file.truncate(gigabytes << 30)
    url = f"{served.client.url}/runs/{run}/stderr"
    times, most = [], 0.0
    for start in range(0, gigabytes << 30, 256 << 20):
        request = Request(url, headers={"Range": f"bytes={start}-{start + (16 << 20) - 1}"})  # noqa: S310
        times.append(seconds(lambda request=request: urlopen(request, timeout=60).read()))  # type: ignore[misc]  # noqa: S310
        most = max(most, served.memory)
    report(f"ranges of 16 MiB of a log of {gigabytes} GB", times)
    print(f"the server's peak memory: {most:.0f} MB")


def main() -> None:
    """Measure and print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--submissions", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--log-gigabytes", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="toilfn-benchmark-") as name:
        folder = Path(name)
        place = folder / "place"
        fill(place, options.runs)
        began = time.perf_counter()
        served = ServerProcess(place)
        try:
            print(f"start with {options.runs} runs and no index: {time.perf_counter() - began:.1f} s")
            report("pages of 100 runs", pages(served, "/runs", "runs"))
            submissions(served, folder, options.submissions)
            run = tasks(served, folder, options.tasks)
            served = served.restart()
            first_page(served, run, "its first page after a restart of the server")
            large_log(served, place, run, options.log_gigabytes)
        finally:
            served.process.terminate()
            served.process.wait()


if __name__ == "__main__":
    main()
