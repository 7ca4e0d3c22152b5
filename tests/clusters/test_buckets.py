"""Clusters whose jobs share nothing with the leader but a bucket, and who gets to see its credentials: nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.leaders import counts
from tests.servers.fake.mesos import FakeMesos
from tests.servers.fake.tes import FakeTES
from tests.servers.fixtures import radosgw_server
from tests.servers.radosgw import SECRET, RadosGateway
from toilfn.stores import open_store

__all__ = ["radosgw_server"]

WORKFLOW = Path(__file__).with_name("workflow.py")


@pytest.fixture
def tes() -> Iterator[dict[str, Any]]:
    with FakeTES().running() as fake:
        yield {"endpoint": fake.url, "image": "toilfn:test", "python": sys.executable, "poll_interval": 0.3}
        assert SECRET not in repr(fake.tasks)


@pytest.fixture
def mesos() -> Iterator[dict[str, Any]]:
    with FakeMesos().running() as fake:
        yield {"endpoint": fake.address}


def command_lines() -> set[bytes]:
    """What everybody on this machine sees of the processes that run now."""
    seen = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            seen.add(path.read_bytes())
    return seen


@pytest.mark.parametrize("name", ["tes", "mesos"])
def test_merge_sort_in_a_bucket_shows_its_credentials_nowhere(
    name: str, radosgw_server: RadosGateway, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    options = {"endpoint_url": radosgw_server.url, "create_bucket": True}
    role = tmp_path.parent / "role"  # jobs have the machine's credentials, not the leader's
    role.write_text("".join(f"export {name}={value}\n" for name, value in radosgw_server.environment.items()))
    cluster = {**request.getfixturevalue(name), "job_script_prologue": [f". {role}"]}
    settings = {"cluster": cluster, "store_options": options}
    url = f"s3://clusters/{uuid.uuid4().hex}"
    words = [name, url, str(tmp_path), "sort", "6", json.dumps(settings)]
    lines: set[bytes] = set()
    with (tmp_path.parent / "said").open("w+") as said:
        with subprocess.Popen([sys.executable, str(WORKFLOW), *words], stdout=said, stderr=said) as leader:
            while leader.poll() is None:
                lines |= command_lines()
                with suppress(subprocess.TimeoutExpired):
                    leader.wait(0.2)
        said.seek(0)
        printed = said.read()
    assert leader.returncode == 0, printed
    assert SECRET not in printed
    assert counts(tmp_path) == {"sort": 7, "merge": 3}
    assert any(url.encode() in line for line in lines), "nothing was seen of the leader"
    assert not any(SECRET.encode() in line for line in lines)
    objects = open_store(url, **options).objects
    assert not [one for one in objects.list("") if SECRET.encode() in objects.get(one)]
