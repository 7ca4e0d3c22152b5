"""The requests to an object store's server for jobs of one task each."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import radosgw
from tests.servers.counting import Counting
from tests.servers.fake.systems import system
from tests.servers.fixtures import radosgw_server
from tests.servers.radosgw import RadosGateway

__all__ = ["radosgw_server"]

FEW, MANY = 2, 10
BY_TIME = ("log", "leases", "flags")
"""What the leader writes and asks now and then, however many tasks there are."""


SCRIPT = """
import sys
import toilfn as toil

@toil.task
def nothing(i):
    pass

if __name__ == "__main__":
    url, endpoint, count = sys.argv[1:]
    options = {"endpoint_url": endpoint, "create_bucket": True}
    tasks = [nothing(i) for i in range(int(count))]
    toil.compute(tasks, store=url, store_options=options, cluster="lsf", bundle=0, progress=False)
"""


@pytest.fixture
def lsf() -> Iterator[Path]:
    yield from system("lsf")


def requests(count: int, folder: Path) -> Counter[str]:
    """Run so many tasks, each of them a job; gives what leader and workers have asked of the server."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    relay = Counting(radosgw.PORT)
    with relay.running():
        url = f"s3://requests/{uuid.uuid4().hex}"
        subprocess.run([sys.executable, script, url, relay.url, str(count)], check=True)
    return relay.seen


def test_a_task_that_is_alone_in_its_job_costs_four_requests(
    lsf: Path, radosgw_server: RadosGateway, tmp_path: Path
) -> None:
    more = requests(MANY, tmp_path)
    more.subtract(requests(FEW, tmp_path))
    of_jobs = {kind: n for kind, n in more.items() if not kind.endswith((*BY_TIME, "list"))}
    assert sum(of_jobs.values()) / (MANY - FEW) <= 4, of_jobs
    assert of_jobs["GET batches"] == MANY - FEW, "each task is alone in a job"
