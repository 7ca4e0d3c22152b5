"""What a log makes of listings that lag behind and of objects that are not where they belong."""

from __future__ import annotations

import pytest

from toilfn.errors import CorruptObjectError, FencedError, StoreError
from toilfn.stores import log, open_store


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


def test_fetching_data_that_is_not_a_record(store):
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


@pytest.fixture
def small_parts(monkeypatch):
    """Let a snapshot need several parts for a few records."""
    monkeypatch.setattr(log, "_PART_SIZE", 10)


def test_a_snapshot_in_parts_replaces_everything_before_it(store, small_parts):
    records = [b"record%d" % n for n in range(7)]
    for turn in (1, 2):
        for record in records:
            store.log.append([record])
        positions = store.log.compact(records)
        assert read(store) == records
        assert [store.log.fetch(position) for position in positions] == records
        (newest,) = {name[:26] for name in store.objects.list("snapshots/")}
        assert len(list(store.objects.list("snapshots/"))) == 1 + 4  # the snapshot itself, and two records in each part
        assert int(newest.removeprefix("snapshots/")) == turn * 8
    store.log.append([b"later"])
    assert read(store) == [*records, b"later"]


def test_no_record_is_left_in_segments_that_a_snapshot_replaces(store):
    for n in range(5):
        store.log.append([b"in-a-segment-%d" % n])
    store.log.compact([b"in-the-snapshot"])
    assert all(b"in-a-segment" not in store.objects.get(name) for name in store.objects.list("log/"))


def test_a_part_that_is_a_copy_of_another_part(store, small_parts):
    store.log.compact([b"record%d" % n for n in range(4)])
    first, second = sorted(name for name in store.objects.list("snapshots/") if "." in name)
    store.objects.put(second, store.objects.get(first))
    with pytest.raises(CorruptObjectError, match=rf"{second} in {store.url} is a copy of another object"):
        read(store)


def test_a_reader_is_told_that_the_log_was_compacted_meanwhile(store):
    for n in range(5):
        store.log.append([b"%d" % n])
    reader = open_store(store.url).log.read()
    assert next(reader)[1] == b"0"
    store.log.compact([b"all"])
    with pytest.raises(StoreError, match=f"the log of {store.url} was compacted while it was being read") as raised:
        list(reader)
    assert raised.value.hint == "read it again"
    assert not isinstance(raised.value, CorruptObjectError)


def test_records_that_are_new_since_a_segment(store):
    for n in range(3):
        store.log.append([b"%d" % n])
    reader = open_store(store.url).log
    assert [record for _, record in reader.read_after(1)] == [b"1", b"2"]
    assert list(reader.read_after(3)) == []
    store.log.compact([b"0", b"1", b"2"])
    assert reader.read_after(3) is None
    assert [record for _, record in reader.read_after(0)] == [b"0", b"1", b"2"]


def test_a_leader_that_was_replaced_names_the_new_one(store):
    store.log.append([b"first"])
    successor = open_store(store.url)
    list(successor.log.read())
    successor.log.append([b"second"])
    place = rf"job store {store.url}: another leader has taken over; log/0000000000000002 was written by process \d+"
    with pytest.raises(FencedError, match=place):
        store.log.append([b"never"])
    assert read(store) == [b"first", b"second"]


def test_a_stray_segment_behind_a_gap_is_named_and_not_the_gap(store, tmp_path):
    other = open_store(tmp_path / "other")
    for _ in range(4):
        other.log.append([b"x"])
    store.log.append([b"x"])
    stray = "log/0000000000000004"
    store.objects.put(stray, other.objects.get(stray))
    with pytest.raises(CorruptObjectError, match=f"{stray} in .* belongs to another store"):
        read(store)


def test_a_segment_that_is_missing_before_others_is_named(store):
    for n in range(4):
        store.log.append([b"%d" % n])
    store.objects.delete(["log/0000000000000002"])
    with pytest.raises(CorruptObjectError, match=r"log/0000000000000002 in .* is missing"):
        read(store)


def test_a_leader_that_was_replaced_learns_it_from_a_snapshot_too(store):
    """Its first number is free: the other leader has compacted the log, and the segments before are gone."""
    store.log.append([b"first"])
    late = open_store(store.url)
    list(late.log.read())
    successor = open_store(store.url)
    successor.log.compact([b"first"])
    successor.objects.delete(["log/0000000000000002"])
    with pytest.raises(
        FencedError, match=r"another leader has taken over; snapshots/0{15}2 was written by process \d+"
    ):
        late.log.append([b"never"])


def test_the_length_is_the_number_of_segments_after_the_snapshot(store):
    for n in range(3):
        store.log.append([b"%d" % n])
    reader = open_store(store.url).log
    list(reader.read())
    assert reader.length == 3
    store.log.compact([b"all"])
    store.log.append([b"later"])
    list(reader.read())
    assert reader.length == 1


def test_the_records_of_segments_that_were_read_last_stay_in_memory(store, monkeypatch):
    monkeypatch.setattr("toilfn.stores.log._CACHE_SIZE", 5000)
    positions = [store.log.append([b"%d" % n * 1000])[0] for n in range(9)]
    real, read = store.objects.get, []
    monkeypatch.setattr(store.objects, "get", lambda name: read.append(name) or real(name))
    store.log.fetch(positions[8])
    store.log.fetch(positions[7])
    assert read == []
    store.log.fetch(positions[0])
    store.log.fetch(positions[0])
    assert read == [positions[0].segment]


def test_a_part_of_a_snapshot_has_about_the_size_of_a_part(store, monkeypatch):
    monkeypatch.setattr(log, "_PART_SIZE", 10)
    store.log.compact([b"12345"] * 5)
    sizes = [len(list(segment.items())) for segment in open_store(store.url).log.segments()]
    assert sizes == [2, 2, 1]


def test_an_append_whose_answer_was_lost_has_used_its_number(store, monkeypatch):
    """The records of the call that failed are in the log, once; the next ones follow them."""
    store.log.append([b"first"])
    real = store.objects.put_new

    def lose_the_answer(name, data):
        real(name, data)
        raise StoreError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(store.objects, "put_new", lose_the_answer)
        with pytest.raises(StoreError, match="no answer"):
            store.log.append([b"second"])
    (position,) = store.log.append([b"third"])
    assert position.segment == "log/0000000000000003"
    assert store.log.fetch(position) == b"third"
    assert read(store) == [b"first", b"second", b"third"]


def test_segments_of_a_slow_store_are_read_several_at_a_time_and_in_order(store, monkeypatch):
    for n in range(7):
        store.log.append([b"%d" % n])
    monkeypatch.setattr(store.objects, "parallel", 3)
    assert [record for _, record in store.log.read()] == [b"%d" % n for n in range(7)]
