"""Objects of the log, without a store: whatever is packed is unpacked, and any damage is named."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toilfn.errors import CorruptObjectError, StoreError
from toilfn.stores import segments
from toilfn.stores.segments import Header, pack, unpack

NAME = "log/0000000000000007"
WHERE = "file:///store"
HEADER = Header("segment", "store-id", 7, 0, "host/1/abc", 3, 0)


@given(st.lists(st.binary(max_size=40), max_size=12), st.sampled_from(["segment", "part", "snapshot", "fence"]))
def test_a_segment_is_the_same_after_packing_and_unpacking(records: list[bytes], kind: str) -> None:
    packed = pack(NAME, HEADER._replace(kind=kind), records)
    assert unpack(NAME, packed.data, WHERE) == packed
    assert packed.header == HEADER._replace(kind=kind, records=len(records))
    assert [record for _, record in packed.items()] == records
    assert [position for position, _ in packed.items()] == list(packed.positions())


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=12))
def test_a_position_says_where_a_record_is(records: list[bytes]) -> None:
    packed = pack(NAME, HEADER, records)
    for position, record in zip(packed.positions(), records, strict=True):
        assert position.segment == NAME
        assert packed.data[position.offset : position.offset + position.size] == record
    assert sum(position.size for position in packed.positions()) == len(packed.data) - packed.start


def test_any_truncation_and_any_altered_byte_is_noticed() -> None:
    data = pack(NAME, HEADER, [b"one", b"", b"three"]).data
    damaged = [data[:size] for size in range(len(data))]
    damaged += [data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] for place in range(len(data))]
    damaged.append(data + b"x")
    for content in damaged:
        with pytest.raises(CorruptObjectError, match=rf"^{re.escape(NAME)} in {WHERE} (is|was) truncated") as raised:
            unpack(NAME, content, WHERE)
        assert raised.value.hint


def test_a_record_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_LARGEST", 10)
    assert pack(NAME, HEADER, [b"x" * 10]).sizes == (10,)
    with pytest.raises(StoreError, match="a record of 11 bytes is too large") as raised:
        pack(NAME, HEADER, [b"", b"x" * 11])
    assert raised.value.hint == "store it as a blob"
