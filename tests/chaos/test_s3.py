"""Leaders and workers are killed while the store is in a bucket; nothing is lost or repeated."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.chaos.test_killed_anywhere import PROGRAM, Chaos, finish
from tests.servers.fixtures import radosgw_server
from tests.servers.radosgw import RadosGateway
from toilfn.model import records
from toilfn.stores import Store, open_store

__all__ = ["radosgw_server"]

POINTS = ("log.appending", "log.appended")
LEADERS = 4
"""How many leaders are killed."""


class BucketChaos(Chaos):
    """The same workflow with its store in S3, which everybody finds by dask's configuration."""

    def __init__(self, folder: Path, url: str, options: dict[str, object], size: int) -> None:
        super().__init__(folder, "graph", size, seed=1)
        self.arguments[0] = self.url = url
        self.options = options
        self.rng = random.Random(11)

    def open(self) -> Store:
        return open_store(self.url, **self.options)

    def log(self) -> list[records.Record]:
        return [records.decode(bytes(data)) for _, data in self.open().log.read()]

    def start(self, fault: str = "") -> subprocess.Popen[str]:
        resumable = bool(self.runs()) and self.rng.random() < 0.5
        command = ["-m", "toilfn", "resume", self.url] if resumable else [str(PROGRAM), *self.arguments]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DASK_TOILFN__STORE_OPTIONS", json.dumps(self.options))
            patch.setenv("TOILFN_FAULT", fault)
            return subprocess.Popen(
                [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )

    def kill_one(self) -> None:
        """Let a leader and its workers run for a while, and kill it."""
        fault = f"{self.rng.choice(POINTS)}:{self.rng.randrange(3, 12)}" if self.killed % 2 else ""
        leader = self.start(fault)
        deadline = time.monotonic() + self.rng.uniform(1.0, 4.0)
        while leader.poll() is None and time.monotonic() < deadline:
            if self.rng.random() < 0.05:
                self.kill_worker(leader.pid)
            time.sleep(0.02)
        if leader.poll() is None:
            leader.kill()
        _, errors = leader.communicate()
        assert leader.returncode in (-signal.SIGKILL, 0), errors
        self.killed += leader.returncode != 0

    def check(self) -> None:
        committed: list[bytes] = [record.id for record in self.log() if isinstance(record, records.Outcome)]
        assert len(set(committed)) == len(committed)
        assert self.finished.keys() <= set(committed), "a finished task was lost"
        again = [task.hex() for task, before in self.finished.items() if self.starts(task) != before]
        assert not again, f"finished tasks ran again: {again}"
        self.finished = {task: self.starts(task) for task in committed}


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
