"""Large files pass through in constant memory: measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import toilfn as toil
from toilfn.files.task_files import TaskFiles
from toilfn.stores import open_store

here, size = Path(sys.argv[1]), int(sys.argv[2])
with open(here / "source", "wb") as sparse:
    sparse.truncate(size)
(here / "temp").mkdir()

def peak():  # not getrusage's, which counts what the process that forked this one had
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) // 1024

with TaskFiles(open_store(here / "store"), lambda: here / "temp"):
    before = peak()
    file = toil.import_file(here / "source")
    assert file.path().stat().st_size == file.size == size
    with file.open() as stream:
        while stream.read(2**20):
            pass
    toil.export(file, here / "exported")
    assert (here / "exported").stat().st_size == size
print(peak() - before)
"""


def used(tmp_path, size: int) -> int:
    """Import, link, stream and export a file; gives by how many MiB the process grew."""
    (tmp_path / "work").mkdir()
    environment = {**os.environ, "TOILFN_WORK_DIR": str(tmp_path / "work")}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(size)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(run.stdout)


def test_300_megabytes(tmp_path):
    assert used(tmp_path, 300 * 2**20) < 60


@pytest.mark.slow
@pytest.mark.skipif("TOILFN_TEST_SLOW" not in os.environ, reason="set TOILFN_TEST_SLOW=1 to copy 5 GB several times")
@pytest.mark.timeout(1200)
def test_5_gigabytes(tmp_path):
    assert used(tmp_path, 5 * 2**30) < 60
