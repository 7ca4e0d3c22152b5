"""Large arrays, frames and byte strings in values: stored apart, and mapped by all readers of a machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from toilfn.cli import main
from toilfn.clusters.local.machine import used_memory
from toilfn.graph.serialize import dumps, loads

np = pytest.importorskip("numpy")

COUNT = 2**18
"""Numbers of an array: 2 MiB of them."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))


@toil.task
def numbers(count: int = COUNT, writable: bool = True) -> Any:
    made = np.arange(count, dtype=np.int64)
    made.flags.writeable = writable
    return made


def inode_of(array: Any) -> int:
    """Return the inode of the file that holds an array's memory; 0 if no file does."""
    start = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, inode, *_ = line.split()
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= start < last:
            return int(inode)
    return 0


@toil.task
def file_of(array: Any, number: int) -> tuple[int, int]:
    return inode_of(array), int(array[number])


@toil.task
def overwritten(array: Any) -> int:
    array[:] = 7
    return int(array.sum())


@toil.task
def total(array: Any, after: object = None) -> tuple[int, bool]:
    return int(array.sum()), bool(array.flags.writeable)


def large_blobs(store: Path) -> list[Path]:
    return [path for path in (store / "blobs").rglob("*") if path.is_file() and path.stat().st_size >= 2**20]


def test_all_tasks_map_the_file_of_the_store(tmp_path):
    array = numbers()
    found = toil.compute([file_of(array, i) for i in range(4)], store=tmp_path / "store", workers=2)
    (blob,) = large_blobs(tmp_path / "store")
    assert found == [(blob.stat().st_ino, i) for i in range(4)]


def test_tasks_map_the_nodes_copy_of_an_encrypted_store(tmp_path):
    array = numbers()
    options = {"encryption_key": os.urandom(32).hex()}
    made = [file_of(array, i) for i in range(3)]
    found = toil.compute(made, store=tmp_path / "store", store_options=options, workers=2)
    (inode,) = {inode for inode, _ in found}
    assert [number for _, number in found] == [0, 1, 2]
    copies = [path.stat().st_ino for path in (tmp_path / "work").rglob("files/*/blobs-*")]
    assert copies == [inode]


def test_output_of_a_task_is_its_own(tmp_path):
    array = numbers()
    changed = overwritten(array)
    whole = sum(range(COUNT))
    assert toil.compute([changed, total(array, changed)], store=tmp_path / "store") == [7 * COUNT, (whole, True)]
    result = toil.compute(array, store=tmp_path / "store")
    result[0] = 1
    assert toil.compute(total(array, 2), store=tmp_path / "store") == (whole, True)


def test_arrays_that_cannot_be_written_to_stay_so(tmp_path):
    assert toil.compute(total(numbers(writable=False)), store=tmp_path / "store") == (sum(range(COUNT)), False)


@dataclass
class Pair:
    name: str
    values: Any


@toil.task
def same(value: Any) -> Any:
    return value


def plain(value: Any) -> Any:
    """Return a value in a form that can be compared."""
    if isinstance(value, Pair):
        return value.name, value.values.tolist()
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize(
    "value",
    [
        np.arange(COUNT).reshape(512, -1, order="F"),
        np.arange(2 * COUNT)[::2],
        Pair("a", np.linspace(0, 1, COUNT)),
        np.array([{"a": 1}, None], dtype=object),
        bytes(range(256)) * 8192,
        bytearray(b"ab" * 2**20),
    ],
    ids=["fortran", "strided", "dataclass", "objects", "bytes", "bytearray"],
)
def test_values_come_back(tmp_path, value):
    found = toil.compute([same(value), same(same(value))], store=tmp_path / "store")
    for copy in found:
        assert type(copy) is type(value)
        assert plain(copy) == plain(value)


def test_frames_come_back(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": np.arange(COUNT), "b": np.linspace(0, 1, COUNT), "c": ["x", "y"] * (COUNT // 2)})
    pd.testing.assert_frame_equal(toil.compute(same(frame), store=tmp_path / "store"), frame)
    assert large_blobs(tmp_path / "store")


def test_arrow_tables_come_back(tmp_path):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": np.arange(COUNT), "b": pa.array(["text"] * COUNT)})
    assert toil.compute(same(table), store=tmp_path / "store").equals(table)
    assert large_blobs(tmp_path / "store")


def test_equal_byte_strings_are_one_object(tmp_path):
    data = b"x" * 2**21
    one, two, small = toil.compute(same([data, bytes(bytearray(data)), b"small"]), store=tmp_path / "store")
    assert (one, two, small) == (data, data, b"small")
    assert len(large_blobs(tmp_path / "store")) == 1


def test_an_array_of_the_script_is_stored_once(tmp_path):
    array = np.arange(COUNT)
    found = toil.compute([file_of(array, i) for i in range(3)], store=tmp_path / "store")
    (blob,) = large_blobs(tmp_path / "store")
    assert found == [(blob.stat().st_ino, i) for i in range(3)]


def test_small_arrays_stay_in_the_record(tmp_path):
    assert toil.compute(total(numbers(100)), store=tmp_path / "store") == (4950, True)
    assert not large_blobs(tmp_path / "store")


def test_payloads_of_earlier_versions_are_read():
    array = np.arange(COUNT)
    assert (loads(dumps([array])[0], {})[0] == array).all()


def test_garbage_collection_keeps_buffers(tmp_path, capsys):
    array = numbers()
    toil.compute([array, same(np.ones(COUNT))], store=tmp_path / "store")
    main(["clean", "--garbage", str(tmp_path / "store")])
    assert len(large_blobs(tmp_path / "store")) == 2
    found = toil.compute([total(array), total(same(np.ones(COUNT)))], store=tmp_path / "store")
    assert [number for number, _ in found] == [sum(range(COUNT)), COUNT]


def test_an_altered_buffer_is_named(tmp_path):
    array = numbers()
    toil.compute(same(array), store=tmp_path / "store")
    (blob,) = large_blobs(tmp_path / "store")
    blob.chmod(0o600)
    blob.write_bytes(b"x" * blob.stat().st_size)
    with pytest.raises(toil.ToilfnError, match=f"{blob.name}.* was altered"):
        toil.compute(total(array), store=tmp_path / "store")


def test_a_dry_run_stores_no_array(tmp_path):
    plan = toil.compute(total(np.arange(COUNT)), store=tmp_path / "store", dry_run=True)
    assert len(plan.tasks) == 2
    assert not (tmp_path / "store").exists()


MAPPER = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
assert not any(mapped[::mmap.PAGESIZE])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_files_are_not_the_memory_of_a_task(tmp_path):
    if subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True).stdout == "tmpfs\n":
        pytest.skip("files of a tmpfs are memory")
    with (tmp_path / "file").open("wb") as file:
        file.truncate(200 * 2**20)
    command = [sys.executable, "-c", MAPPER, str(tmp_path / "file")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        used = used_memory(process.pid, limit=2**20)
        process.communicate()
    assert 2**20 < used < 100 * 2**20
