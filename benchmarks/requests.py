"""How many requests 10,000 tasks that do nothing send to an S3 server: on this machine, and as jobs of a batch system.

Needs Debian and root for the server. The batch system is the tests' stand-in for LSF, whose jobs are processes of
this machine.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import toilfn as toil

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers.fake.systems import system
from tests.servers.machine import BY_HAND
from tests.servers.radosgw import RadosGateway
from toilfn.stores import open_store
from toilfn.view import View

TASKS = 10_000


@toil.task
def nothing(i: int) -> None:
    """Do nothing."""


def measure(label: str, url: str, **how: Any) -> None:
    """Run the tasks, and print what it took."""
    start = time.perf_counter()
    toil.compute([nothing(i) for i in range(TASKS)], store=url, progress=False, **how)
    wall = time.perf_counter() - start
    view = View(open_store(url))
    asked = view.requests + sum(event.requests for event in attempts(url, view))
    print(f"{label:28} {asked / TASKS:8.4f} requests a task  {wall:8.1f} s")


def attempts(url: str, view: View) -> Any:
    """Give the attempts of a store's tasks."""
    from toilfn.report.attempts import attempts_of

    return attempts_of(open_store(url), view)


def main() -> None:
    """Measure both."""
    server = RadosGateway()
    server.acquire(BY_HAND)
    os.environ.update(server.environment)
    options = {"endpoint_url": server.url, "create_bucket": True}
    try:
        measure("this machine", f"s3://requests/{uuid.uuid4().hex}", store_options=options)
        for _ in system("lsf"):
            url = f"s3://requests/{uuid.uuid4().hex}"
            measure("jobs of a batch system", url, store_options=options, cluster="lsf", max_jobs=4)
    finally:
        server.release(BY_HAND)


if __name__ == "__main__":
    main()
