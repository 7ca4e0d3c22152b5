"""Files much larger than memory may be, up to a bucket and down again."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

import pytest

from tests.servers.fixtures import radosgw_server

__all__ = ["radosgw_server"]

SCRIPT = """
import sys
from pathlib import Path
from toilfn.stores import new_blob_name, open_store

url, folder, endpoint, key = sys.argv[1:]
options = {"encryption_key": key} if key else {}
store = open_store(url, endpoint_url=endpoint, create_bucket=True, **options)
source, target = Path(folder, "in"), Path(folder, "out")
ref = store.put_blob_file(source, name=new_blob_name("large"))
store.fetch_blob(ref, target)
with store.open_blob(ref) as stream:
    stream.seek(-1000, 2)
    with target.open("rb") as copy:
        copy.seek(-1000, 2)
        assert stream.read() == copy.read()
# Not getrusage: its peak counts what the process that forked this one had.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024)
store.destroy()
"""

SLOW = pytest.mark.skipif(not os.environ.get("TOILFN_TEST_SLOW"), reason="TOILFN_TEST_SLOW=1 moves 3 GB")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("key", ["", "00" * 32], ids=["plain", "encrypted"])
@pytest.mark.parametrize("size", [pytest.param(150_000_000), pytest.param(3_000_000_000, marks=SLOW)])
def test_a_large_file_takes_little_memory(radosgw_server, tmp_path, size, key):
    with (tmp_path / "in").open("wb") as file:
        for start in range(0, size, 1_000_000):
            file.write(start.to_bytes(8, "big") * 125_000)
    url = f"s3://tests/{uuid.uuid4().hex}"
    command = [sys.executable, "-c", SCRIPT, url, str(tmp_path), radosgw_server.url, key]
    used = int(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    assert used < 200_000_000
    assert (tmp_path / "out").stat().st_size == size
