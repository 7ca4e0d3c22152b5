"""A store's bytes follow FORMAT.md: read and written here without the library."""

from __future__ import annotations

import hashlib
import json
import struct
import typing
from pathlib import Path

import msgpack
import pytest

import toilfn.stores
from toilfn.errors import StoreError
from toilfn.model import records
from toilfn.stores import BlobRef, open_store


def digest(data):
    return hashlib.blake2b(data, digest_size=16).digest()


def read_object(path):
    data = path.read_bytes()
    assert data[:8] == bytes.fromhex("746f696c666e0001")
    assert data[8:24] == digest(data[24:])
    (size,) = struct.unpack("<I", data[24:28])
    header = msgpack.unpackb(data[28 : 28 + size])
    table = 28 + size
    sizes = struct.unpack(f"<{header[6]}I", data[table : table + 4 * header[6]])
    records, at = [], table + 4 * header[6]
    for length in sizes:
        records.append(data[at : at + length])
        at += length
    assert at == len(data)
    return header, records


def write_object(path, header, records):
    head = msgpack.packb(header)
    sizes = b"".join(struct.pack("<I", len(record)) for record in records)
    body = struct.pack("<I", len(head)) + head + sizes + b"".join(records)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes.fromhex("746f696c666e0001") + digest(body) + body)


def names(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_description(tmp_path):
    store = open_store(tmp_path, workflow="w")
    description = json.loads((tmp_path / "store.json").read_text())
    assert description.pop("created") == store.created
    assert description == {"format": 1, "id": store.id, "workflow": "w", "conditional": True, "sync": True}


def test_segments(tmp_path):
    store = open_store(tmp_path)
    store.log.epoch = 4
    store.log.append([b"one", b"", b"three"])
    header, records = read_object(tmp_path / "log" / "0000000000000001")
    assert header == ["segment", store.id, 1, 0, store.log.writer, 4, 3]
    assert records == [b"one", b"", b"three"]


def test_snapshots(tmp_path):
    store = open_store(tmp_path)
    for record in (b"1", b"2", b"3"):
        store.log.append([record])
    store.log.compact([b"live"])
    assert names(tmp_path) == [
        "log/0000000000000001",
        "log/0000000000000004",
        "snapshots/0000000000000004",
        "snapshots/0000000000000004.000000",
        "store.json",
    ]
    header, (content,) = read_object(tmp_path / "snapshots" / "0000000000000004")
    assert header[:4] == ["snapshot", store.id, 4, 0]
    assert msgpack.unpackb(content) == [1, [1]]
    header, records = read_object(tmp_path / "snapshots" / "0000000000000004.000000")
    assert (header[:4], records) == (["part", store.id, 4, 0], [b"live"])
    header, records = read_object(tmp_path / "log" / "0000000000000001")
    assert (header[:3], records) == (["fence", store.id, 1], [])


def test_a_log_written_by_another_program_is_read(tmp_path):
    (tmp_path / "store.json").write_text(
        '{"format": 1, "id": "5", "created": 1.5, "workflow": "", "conditional": true, "sync": true}'
    )
    write_object(
        tmp_path / "snapshots" / f"{2:016d}", ["snapshot", "5", 2, 0, "h/1/x", 0, 1], [msgpack.packb([2, [1]])]
    )
    write_object(tmp_path / "snapshots" / f"{2:016d}.000000", ["part", "5", 2, 0, "h/1/x", 0, 2], [b"a", b"b"])
    write_object(tmp_path / "snapshots" / f"{2:016d}.000001", ["part", "5", 2, 1, "h/1/x", 0, 1], [b"c"])
    write_object(tmp_path / "log" / f"{3:016d}", ["segment", "5", 3, 0, "h/2/y", 0, 2], [b"d", b""])
    log = open_store(tmp_path).log
    assert [record for _, record in log.read()] == [b"a", b"b", b"c", b"d", b""]
    assert log.next_number == 4


def test_blobs(tmp_path):
    store = open_store(tmp_path)
    ref = store.put_blob(b"content")
    name = digest(b"content").hex()
    assert ref == (f"blobs/{digest(name.encode()).hex()[:2]}/{name}", 7, digest(b"content"))
    assert (tmp_path / ref.name).read_bytes() == b"content"


def test_batches_and_answers(tmp_path):
    store = open_store(tmp_path)
    blob = BlobRef("blobs/00/x", 1, b"d" * 16)
    store.put_batches("b-7", [b"message"], {blob: b"x"})
    store.put_answers("b-7-0", 0, b"answer")
    group, folder = digest(b"b-7").hex()[:2], digest(b"b-7-0").hex()[:2]
    assert (tmp_path / "batches" / group / "b-7").read_bytes() == msgpack.packb([[b"message"], [[blob, b"x"]]])
    assert (tmp_path / "answers" / folder / "b-7-0-0").read_bytes() == b"answer"


def test_a_record_has_a_largest_size(tmp_path):
    class Huge(bytes):
        def __len__(self):
            return 2**32

    with pytest.raises(StoreError, match="too large: the limit of the log"):
        open_store(tmp_path).log.append([Huge()])


@pytest.mark.parametrize("kind", typing.get_args(records.Record), ids=lambda kind: kind.__name__)
def test_every_record_is_described(kind):
    pages = (Path(toilfn.stores.__file__).parent / "FORMAT.md").read_text().splitlines()
    (items,) = [line.split("|")[2] for line in pages if line.startswith(f"| `{records.KINDS[kind]}` |")]
    assert items.count(";") + 1 == len(kind._fields)
