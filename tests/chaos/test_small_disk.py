"""A workflow on a disk that holds twice its results, though its files between tasks are ten times as large."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.dropping import RESULTS

PROGRAM = Path(__file__).with_name("dropping.py")

KILLS = int(os.environ.get("TOILFN_TEST_KILLS", "6"))
"""Fifty take minutes."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={2 * RESULTS}", "tmpfs", str(tmp_path)], check=True)
    (tmp_path / "work").mkdir()
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


POINTS = ("objects.deleted", "objects.deleted", "log.appending", "log.appended")
"""The steps of a leader that drops files; it is killed in one of them, so that it never gets far."""


def start(disk: Path, edit: int, fault: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(disk), str(edit)]
    environment = {**os.environ, "TOILFN_FAULT": fault}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def watch(leader: subprocess.Popen[str], disk: Path) -> int:
    """Wait for a leader to end; return the most bytes that the disk held meanwhile."""
    peak = 0
    limit = time.monotonic() + 300
    while leader.poll() is None and time.monotonic() < limit:
        peak = max(peak, shutil.disk_usage(disk).used)
        time.sleep(0.01)
    return peak


@pytest.mark.slow
def test_a_run_that_is_killed_edited_and_resumed_fits(disk: Path) -> None:
    rng = random.Random(KILLS)
    peak = killed = 0
    for number in range(KILLS):
        fault = f"{rng.choice(POINTS)}:{rng.randrange(1, 8)}"
        leader = start(disk, int(number >= KILLS // 2), fault)
        peak = max(peak, watch(leader, disk))
        messages = leader.communicate(timeout=60)[1]
        assert leader.returncode in (0, -9), messages
        killed += leader.returncode == -9
    assert killed >= KILLS // 2
    leader = start(disk, edit=1)
    peak = max(peak, watch(leader, disk))
    printed, messages = leader.communicate(timeout=60)
    assert (leader.returncode, printed) == (0, "True\n"), messages
    files = [path for path in (disk / "store" / "blobs").rglob("*-part") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= RESULTS
    assert peak <= 2 * RESULTS
    print(f"peak {peak / RESULTS:.2f} of the results, {killed} leaders killed")
