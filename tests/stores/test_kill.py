"""A process that is killed at any point of writing leaves a store that can still be used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.stores.test_log_model import POINTS
from toilfn.stores import open_store

WRITER = """
import sys
from toilfn.stores import open_store

store = open_store(sys.argv[1])
for n in range(3):
    store.log.append([b"%d" % n])
    print(n, flush=True)
    store.put_blob(b"%d" % n)
store.log.compact([record for _, record in store.log.read()])
store.log.append([b"3"])
print(3, flush=True)
store.log.compact([record for _, record in store.log.read()])
store.collect([])
"""


@pytest.mark.parametrize("passing", [1, 3])
@pytest.mark.parametrize("point", [*POINTS, "store.collected"])
def test_killed_while_writing(tmp_path, point, passing):
    environment = {**os.environ, "TOILFN_FAULT": f"{point}:{passing}"}
    command = [sys.executable, "-c", WRITER, tmp_path / "store"]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert ended.returncode == -signal.SIGKILL or (passing == 3 and ended.returncode == 0)
    acknowledged = [line.encode() for line in ended.stdout.split()]
    store = open_store(tmp_path / "store")
    found = [record for _, record in store.log.read()]
    assert found[: len(acknowledged)] == acknowledged
    assert found == [b"%d" % n for n in range(len(found))]
    store.log.append([b"and on"])
    store.log.compact([*found, b"and on"])
    assert [record for _, record in open_store(store.url).log.read()] == [*found, b"and on"]


def test_destroying_can_be_resumed(tmp_path):
    code = "import sys; from toilfn.stores import open_store; open_store(sys.argv[1]).destroy()"
    store = open_store(tmp_path / "store")
    store.log.append([b"x"])
    environment = {**os.environ, "TOILFN_FAULT": "store.cleared:5"}
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "store"], env=environment)
    assert ended.returncode == -signal.SIGKILL
    open_store(tmp_path / "store", create=False).destroy()
    assert list(tmp_path.iterdir()) == []
