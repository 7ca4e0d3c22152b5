"""What a log makes of listings that lag behind and of objects that are not where they belong."""

from __future__ import annotations

import pytest

from toilfn.errors import CorruptObjectError
from toilfn.stores import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store", sync=False)


def read(store):
    return [record for _, record in open_store(store.url).log.read()]


def test_a_listing_may_lag_behind(store, monkeypatch):
    for n in range(5):
        store.log.append([b"%d" % n])
    real = store.objects.list
    monkeypatch.setattr(store.objects, "list", lambda prefix: (name for name in real(prefix) if name[-1] in "12"))
    assert [record for _, record in store.log.read()] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_listing_may_have_holes(store, monkeypatch):
    for n in range(5):
        store.log.append([b"%d" % n])
    real = store.objects.list
    monkeypatch.setattr(store.objects, "list", lambda prefix: (name for name in real(prefix) if name[-1] != "3"))
    assert [record for _, record in store.log.read()] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_copy_of_the_last_segment_behind_it(store):
    store.log.append([b"x"])
    store.objects.put("log/0000000000000002", store.objects.get("log/0000000000000001"))
    with pytest.raises(CorruptObjectError, match=r"log/0000000000000002 in .* is a copy of another object"):
        read(store)


def test_a_segment_of_another_store(store, tmp_path):
    other = open_store(tmp_path / "other")
    other.log.append([b"x"])
    store.objects.put("log/0000000000000001", other.objects.get("log/0000000000000001"))
    with pytest.raises(CorruptObjectError, match=r"log/0000000000000001 in .* belongs to another store"):
        read(store)
    with pytest.raises(CorruptObjectError, match="belongs to another store"):
        store.log.append([b"y"])


@pytest.mark.parametrize("segments", [1, 2, 5])
def test_a_lost_snapshot_is_noticed(store, segments):
    for n in range(segments):
        store.log.append([b"x"] if n or segments == 1 else [])
    store.log.compact([b"x"])
    store.objects.delete([f"snapshots/{segments + 1:016d}"])
    with pytest.raises(CorruptObjectError, match="log/"):
        read(store)


def test_fetching_from_a_damaged_segment(store):
    (position,) = store.log.append([b"x" * 100])
    data = store.objects.get(position.segment)
    store.objects.put(position.segment, data[:-1] + b"y")
    with pytest.raises(CorruptObjectError, match=position.segment):
        open_store(store.url).log.fetch(position)
    store.objects.delete([position.segment])
    with pytest.raises(CorruptObjectError, match=f"{position.segment} in .* is missing"):
        open_store(store.url).log.fetch(position)


def test_fetching_what_is_no_record(store):
    (position,) = store.log.append([b"x"])
    for wrong in (position._replace(offset=3), position._replace(size=2)):
        with pytest.raises(CorruptObjectError, match="has no record at byte"):
            store.log.fetch(wrong)


def test_fetching_from_more_segments_than_memory_keeps(store, monkeypatch):
    monkeypatch.setattr("toilfn.stores.log._CACHE_SIZE", 5000)
    positions = [store.log.append([b"%d" % n * 1000])[0] for n in range(9)]
    for _ in range(2):
        assert [store.log.fetch(position) for position in positions] == [b"%d" % n * 1000 for n in range(9)]


def test_a_million_small_records_are_read(store):
    records = [b"%060d" % n for n in range(100_000)]
    for _ in range(10):
        store.log.append(records)
    assert sum(1 for _ in open_store(store.url).log.read()) == 1_000_000
