"""Leaders and workers are killed while the store is in a bucket; nothing is lost or repeated."""

from __future__ import annotations

import json
import random
import uuid
from pathlib import Path

from tests.chaos.test_killed_anywhere import Chaos, finish
from tests.servers.fixtures import radosgw_server
from tests.servers.radosgw import RadosGateway
from toilfn.model import records
from toilfn.stores import Store, open_store

__all__ = ["radosgw_server"]

LEADERS = 4
"""How many leaders are killed."""


class BucketChaos(Chaos):
    """The same workflow with its store in S3, which all processes find by dask's configuration."""

    points = "log.appending", "log.appended"
    first_hit = 3
    seconds = 1.0, 4.0

    def __init__(self, folder: Path, url: str, options: dict[str, object], size: int) -> None:
        super().__init__(folder, "graph", size, seed=1)
        self.arguments[0] = self.url = url
        self.options = options
        self.rng = random.Random(11)

    def open(self) -> Store:
        return open_store(self.url, **self.options)

    def log(self) -> list[records.Record]:
        return [records.decode(bytes(data)) for _, data in self.open().log.read()]

    def exists(self) -> bool:
        return True

    def variables(self) -> dict[str, str]:
        return {"DASK_TOILFN__STORE_OPTIONS": json.dumps(self.options)}


def test_killed_anywhere_with_the_store_in_s3(tmp_path: Path, radosgw_server: RadosGateway) -> None:
    calm = Chaos(tmp_path / "calm", "graph", 250, seed=1)
    calm.store.parent.mkdir()
    expected = finish(calm)
    options = {"endpoint_url": radosgw_server.url, "create_bucket": True, "encryption_key": "ab" * 32}
    chaos = BucketChaos(tmp_path, f"s3://chaos/{uuid.uuid4().hex}", options, 250)
    chaos.open()
    for _ in range(LEADERS):
        chaos.kill_one()
        chaos.check()
    assert chaos.killed
    assert finish(chaos) == expected
    chaos.check()
    assert chaos.finished
