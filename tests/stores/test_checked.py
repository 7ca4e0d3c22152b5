"""Whatever an object of a store holds, the answer is right or one error that names the object."""

from __future__ import annotations

import json
import struct

import msgpack
import pytest

from toilfn.cli import main
from toilfn.errors import CorruptObjectError
from toilfn.model import records
from toilfn.stores import open_store
from toilfn.stores.digests import digest_of
from toilfn.stores.segments import MAGIC

WRONG = [None, -1, 1.5, "x", b"x", [], {}, True, [[]], float("nan")]


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.mark.parametrize("value", [None, -1, [], {}, True, float("nan")])
@pytest.mark.parametrize("field", ["id", "created", "workflow", "conditional", "sync"])
def test_fields_of_the_description(store, tmp_path, field, value):
    if value is True and field in ("conditional", "sync"):
        pytest.skip("is right")
    meta = tmp_path / "store" / "store.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), field: value}))
    with pytest.raises(CorruptObjectError, match=rf"store\.json in file://.* is damaged: {field} is"):
        open_store(tmp_path / "store")


def segment(header, body=b""):
    head = header if isinstance(header, bytes) else msgpack.packb(header)
    rest = struct.pack("<I", len(head)) + head + body
    return MAGIC + digest_of(rest) + rest


HEADER = ["segment", "ID", 1, 0, "host/1/x", 1, 0]


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("place", range(7))
def test_headers_of_the_log_whose_digest_is_right(store, place, value):
    header = [store.id if item == "ID" else item for item in HEADER]
    store.objects.put("log/0000000000000001", segment([*header[:place], value, *header[place + 1 :]]))
    with pytest.raises(CorruptObjectError, match="log/0000000000000001 in "):
        list(store.log.read())


@pytest.mark.parametrize("header", [b"", b"\xc1", msgpack.packb(3), msgpack.packb([]), msgpack.packb([*HEADER, 1])])
def test_headers_that_are_something_else(store, header):
    store.objects.put("log/0000000000000001", segment(header))
    with pytest.raises(CorruptObjectError, match=r"log/0000000000000001 in .* is damaged"):
        list(store.log.read())


@pytest.mark.parametrize("content", [3, [], [1], [1, 2], ["x", []], [-1, []], [0, ["x"]], [1, [], 2]])
def test_the_content_of_a_snapshot(store, content):
    record = msgpack.packb(content)
    header = ["snapshot", store.id, 1, 0, "host/1/x", 1, 1]
    store.objects.put("snapshots/0000000000000001", segment(header, struct.pack("<I", len(record)) + record))
    with pytest.raises(CorruptObjectError, match=r"snapshots/0000000000000001 in .* is damaged"):
        list(store.log.read())


@pytest.mark.parametrize(
    "content", [b"", b"x", msgpack.packb([[], []]), msgpack.packb([[3], []]), msgpack.packb([[b"m"], [1]])]
)
def test_messages_of_batches(store, content):
    store.put_batches("b", [b"m"])
    name = next(store.objects.list("batches/"))
    store.objects.put(name, content)
    with pytest.raises(CorruptObjectError, match=f"{name} in .* is damaged"):
        store.get_batch("b-0")


@pytest.mark.parametrize(
    "record",
    [3, [], ["nonsense"], ["epoch"], ["epoch", 1, 2, 3, 4], ["task", 1], ["end", 1, b"done", 0.0, 0], [["end"]],
     ["outcome", b"x" * 16, 1, b"", [], 5, [], [], [], b"", [], []]],
)  # fmt: skip
@pytest.mark.parametrize("command", ["status", "events", "stats"])
def test_records_whose_digest_is_right(store, tmp_path, capsys, record, command):
    data = msgpack.packb(record)
    store.log.append([records.encode(records.Epoch(1, "host", 1, 0.0)), data])
    assert main([command, str(tmp_path / "store")]) == 1
    assert "of log/0000000000000001 is damaged: " in capsys.readouterr().err


def test_every_kind_of_record_survives(store):
    stats = records.Stats()
    ref = records.BlobRef("blobs/aa/x", 1, b"d" * 16)
    function = records.Function(b"f" * 16, "f", {}, ref, {"a": "b"})
    task = records.TaskRecord(b"t" * 16, b"f" * 16, b"args", (b"n" * 16,), (), {}, None, {})
    for record in (
        records.Epoch(1, "h", 1, 0.0), records.Run(1, "w", b"", (b"t" * 16,), {}, None, 1.0), function, task,
        records.Run(1, "w", b"", (), {}, ref, 1), records.Started((b"t" * 16,), "job", 1.0),
        records.Outcome(b"t" * 16, 1, ref, (), (task,), (function,), (ref,), ("x",), b"log", stats, ("y",)),
        records.Failure(b"t" * 16, 1, "error", "m", "t", ref, stats, True), records.Forget((b"t" * 16,)),
        records.Deleted(("x",)), records.Outage("m", 1.0), records.End(1, "done", 1.0),
    ):  # fmt: skip
        assert records.decode(records.encode(record)) == record
