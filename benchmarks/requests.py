"""Count the requests to an S3 server for no-op tasks: on this machine, in batch jobs, and with one job for each task.

python benchmarks/requests.py [--tasks 10000] [--alone 10000]

A relay counts all requests of leader and workers. The server needs Debian and root. The batch system is the fake LSF of
the tests, whose jobs are processes of this machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import toilfn as toil

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers.counting import Counting
from tests.servers.fake.systems import system
from tests.servers.machine import BY_HAND
from tests.servers.radosgw import PORT, RadosGateway


@toil.task
def nothing(i: int) -> None:
    """Do nothing."""


def measure(label: str, tasks: int, **how: Any) -> None:
    """Run `tasks` tasks and print the number of requests and the time."""
    relay = Counting(PORT)
    with relay.running():
        options = {"endpoint_url": relay.url, "create_bucket": True}
        start = time.perf_counter()
        url = f"s3://requests/{uuid.uuid4().hex}"
        toil.compute([nothing(i) for i in range(tasks)], store=url, store_options=options, progress=False, **how)
        wall = time.perf_counter() - start
        asked = sum(relay.seen.values())
        print(f"{tasks:6,} {label:28} {asked / tasks:8.4f} requests a task  {wall:8.1f} s", flush=True)
        print(f"       {dict(relay.seen.most_common(8))}")


def main() -> None:
    """Measure all three cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--alone", type=int, default=10_000, help="number of jobs with one task; each is a process")
    options = parser.parse_args()
    server = RadosGateway()
    server.acquire(BY_HAND)
    os.environ.update(server.environment)
    try:
        measure("on this machine", options.tasks)
        for _ in system("lsf"):
            measure("in jobs of a batch system", options.tasks, cluster="lsf", max_jobs=4)
        for _ in system("lsf"):
            measure("each alone in its job", options.alone, cluster="lsf", bundle=0)
    finally:
        server.release(BY_HAND)


if __name__ == "__main__":
    main()
