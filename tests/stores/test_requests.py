"""What a run asks of a bucket's server, which costs money; benchmarks/requests.py measures more of it."""

from __future__ import annotations

import json
import uuid

import toilfn as toil
from tests.servers import radosgw
from tests.servers.counting import Counting
from tests.servers.fixtures import radosgw_server
from toilfn.cli import main

__all__ = ["radosgw_server"]


@toil.task
def nothing(i):
    return None


def requests(capsys, count, **how):
    """Run tasks that do nothing; give the requests a task that a relay saw, and that `toilfn stats` tells."""
    url = f"s3://requests/{uuid.uuid4().hex}"
    with Counting(radosgw.PORT).running() as relay:
        options = {"endpoint_url": relay.url, "create_bucket": True}
        toil.compute([nothing(i) for i in range(count)], store=url, store_options=options, progress=False, **how)
        seen = relay.seen.total()
        assert main(["stats", url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["run"]["requests"]
    return seen / count, told / count


def test_many_tasks_of_one_machine_take_few_requests(radosgw_server, capsys):
    seen, told = requests(capsys, 2000, workers=2)
    assert seen < 0.2
    assert 0.7 * seen < told < seen, "what leaders do after their last record is not in it"
