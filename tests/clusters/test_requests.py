"""What jobs of one task each cost at an object store's server."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import toilfn as toil
from tests.servers import radosgw
from tests.servers.counting import Counting
from tests.servers.fake.systems import system
from tests.servers.fixtures import radosgw_server
from tests.servers.radosgw import RadosGateway

__all__ = ["radosgw_server"]

FEW, MANY = 2, 18
BY_TIME = ("log", "leases", "flags")
"""What the leader writes and asks now and then, however many tasks there are."""


@toil.task
def nothing(i: int) -> None:
    """Do nothing."""


@pytest.fixture
def lsf() -> Iterator[Path]:
    yield from system("lsf")


def requests(count: int) -> Counter[str]:
    """Run so many tasks, each of them a job; gives what leader and workers have asked of the server."""
    with Counting(radosgw.PORT).running() as relay:
        options = {"endpoint_url": relay.url, "create_bucket": True}
        url = f"s3://requests/{uuid.uuid4().hex}"
        how = {"store_options": options, "cluster": "lsf", "bundle": 0, "progress": False}
        toil.compute([nothing(i) for i in range(count)], store=url, **how)
        return relay.seen


def test_a_task_that_is_alone_in_its_job_costs_four_requests(lsf: Path, radosgw_server: RadosGateway) -> None:
    more = requests(MANY)
    more.subtract(requests(FEW))
    of_jobs = {kind: n for kind, n in more.items() if not kind.endswith((*BY_TIME, "list"))}
    assert sum(of_jobs.values()) / (MANY - FEW) <= 4, of_jobs
    assert of_jobs["PUT answers"] == of_jobs["GET answers"] == MANY - FEW
