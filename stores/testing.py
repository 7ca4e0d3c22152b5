"""Tests of the requirements that every storage must meet. Other packages can run them on their own storage.

Subclass `StoreContract` in a test module, and override its fixture ``url``: an empty place for a store.
Set `options` to the options that the file system needs. This module requires pytest.
"""

# ruff: noqa: D102 - the names of the tests say what they check

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from toilfn.errors import CorruptObjectError, FencedError, StoreError, StoreLockedError, StoreNotFoundError
from toilfn.stores import BlobRef, MissingObjectError, Objects, Store, new_blob_name, open_store, stores_below
from toilfn.stores.lease import Lease, holder

__all__ = ["StoreContract"]

_T = TypeVar("_T")
ODD_NAMES = ("plain.txt", "two words", "quo'te\"s", "Größe 量.txt", "new\nline", "100%#?&=+", "-dash", ".hidden")


def at_once(calls: Sequence[Callable[[], _T]]) -> list[_T]:
    """Call functions at the same time, each in a thread of its own."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], _T]) -> _T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def flipped(data: bytes, at: int) -> bytes:
    """Return the bytes with one bit inverted."""
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def each_object_damaged(objects: Objects, prefix: str) -> list[tuple[str, Callable[[], object]]]:
    """List ways to damage the objects below a prefix: the name of the object, and a function that damages it."""
    ways: list[tuple[str, Callable[[], object]]] = []
    names = sorted(objects.list(prefix))
    for name in names:
        data = objects.get(name)
        lengths = {0, 1, 7, 8, 27, len(data) // 2, len(data) - 1}
        broken = [data[:length] for length in sorted(lengths) if length < len(data)]
        broken += [flipped(data, at) for at in range(0, len(data), max(1, len(data) // 40))]
        broken += [objects.get(other) for other in names if other != name]
        ways += [(name, partial(objects.put, name, bad)) for bad in broken]
        ways.append((name, partial(objects.delete, [name])))
    return ways


class StoreContract:
    """Tests of a storage; each runs with a new store."""

    options: ClassVar[dict[str, Any]] = {}
    """Options for `open_store`."""
    conditional = True
    """Whether the place supports writing an object only if it does not exist."""
    damages = 1
    """Try only every N-th kind of damage to the log; set it higher for slow places."""

    @pytest.fixture
    def url(self) -> str:
        """Return the path or URL of an empty place."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, url: str) -> Store:
        """Create a store at `url`."""
        return open_store(url, workflow="contract", **self.options)

    def reopen(self, store: Store) -> Store:
        """Open a store as another process would."""
        return open_store(store.url, create=False, **self.options)

    def records(self, store: Store) -> list[bytes]:
        """Read all records as another process would."""
        return [record for _, record in self.reopen(store).log.read()]

    # Opening

    def test_a_new_store_can_be_opened_again(self, store: Store) -> None:
        again = self.reopen(store)
        assert (again.id, again.url, again.created) == (store.id, store.url, store.created)
        assert again.workflow == "contract"
        assert again.objects.conditional is self.conditional

    def test_two_stores_have_different_ids(self, store: Store, url: str) -> None:
        assert open_store(f"{url}-2", **self.options).id != store.id

    def test_a_missing_store_is_reported(self, url: str) -> None:
        with pytest.raises(StoreNotFoundError, match="no job store at"):
            open_store(url, create=False, **self.options)

    def test_opening_does_not_create_anything(self, url: str) -> None:
        for _ in range(2):
            with pytest.raises(StoreNotFoundError):
                open_store(url, create=False, **self.options)

    def test_racing_creators_get_one_store(self, url: str) -> None:
        if not self.conditional:
            pytest.skip("this place has no conditional writes")
        stores = at_once([partial(open_store, url, **self.options)] * 4)
        assert len({store.id for store in stores}) == 1

    def test_stores_below_a_place_are_found_with_their_sizes(self, url: str) -> None:
        for name in ("lab/one", "lab/two"):
            open_store(f"{url}/{name}", **self.options).objects.put("flags/x", b"12345")
        found = list(stores_below(url, 2, **self.options))
        assert [place.rpartition("/")[2] for place in found] == ["one", "two"]
        assert list(stores_below(url, 1, **self.options)) == []
        assert list(stores_below(found[0], 0, **self.options)) == found[:1]
        objects = open_store(found[0], create=False, **self.options).objects
        before = objects.total_size()
        objects.put("flags/y", b"1234567")
        assert objects.total_size() >= before + 7

    # Objects

    def test_an_object_is_read_as_it_was_written(self, store: Store) -> None:
        for data in (b"", b"one", bytes(range(256)) * 5000):
            store.objects.put("flags/x", data)
            assert store.objects.get("flags/x") == data
            assert store.objects.size("flags/x") == len(data)
            with store.objects.open("flags/x") as stream:
                assert stream.read() == data

    def test_put_new_writes_once(self, store: Store) -> None:
        assert store.objects.put_new("flags/x", b"first")
        assert not store.objects.put_new("flags/x", b"second")
        assert store.objects.get("flags/x") == b"first"

    def test_exactly_one_of_many_writers_wins(self, store: Store) -> None:
        if not self.conditional:
            pytest.skip("this place has no conditional writes")
        for name in ("flags/a", "flags/b", "flags/c"):
            won = at_once([partial(store.objects.put_new, name, b"%d" % k) for k in range(6)])
            assert sum(won) == 1
            assert store.objects.get(name) == b"%d" % won.index(True)

    def test_missing_objects(self, store: Store, tmp_path: Path) -> None:
        objects = store.objects
        assert not objects.exists("flags/none")
        assert objects.local_path("flags/none") is None
        objects.delete(["flags/none", "nowhere/none"])
        for use in (objects.get, objects.size, objects.open, lambda name: objects.download(name, tmp_path / "x")):
            with pytest.raises(MissingObjectError, match="flags/none"):
                use("flags/none")

    def test_list_returns_names_with_the_prefix(self, store: Store) -> None:
        for name in ("blobs/aa/1", "blobs/ab/2", "blobs/ab/22", "flags/blobs"):
            store.objects.put(name, b"")
        assert sorted(store.objects.list("blobs/")) == ["blobs/aa/1", "blobs/ab/2", "blobs/ab/22"]
        assert sorted(store.objects.list("blobs/ab/2")) == ["blobs/ab/2", "blobs/ab/22"]
        assert list(store.objects.list("nothing/")) == []
        assert "store.json" in set(store.objects.list(""))

    def test_a_folder_can_be_opened(self, store: Store) -> None:
        store.objects.put("notes/a/b", b"outer")
        folder = store.objects.below("notes/a")
        assert list(folder.list("")) == ["b"]
        assert folder.get("b") == b"outer"
        assert folder.put_new("c/d", b"inner")
        assert not folder.put_new("c/d", b"late")
        assert store.objects.get("notes/a/c/d") == b"inner"
        with pytest.raises(CorruptObjectError):
            folder.get("../../store.json")

    def test_delete(self, store: Store) -> None:
        names = [f"blobs/aa/{n}" for n in range(20)]
        for name in names:
            store.objects.put(name, b"x")
        store.objects.delete(names[1:])
        assert list(store.objects.list("blobs/")) == names[:1]

    # Blobs

    def test_blobs_are_named_by_content(self, store: Store) -> None:
        ref = store.put_blob(b"content")
        assert store.put_blob(b"content") == ref
        assert list(store.objects.list("blobs/")) == [ref.name]
        assert self.reopen(store).get_blob(ref) == b"content"

    @pytest.mark.parametrize("size", [2**20, 65 * 2**20 + 1])
    def test_buffers_are_named_by_content(self, store: Store, size: int) -> None:
        data = (bytes(range(256)) * (size // 256 + 1))[:size]
        ref = store.put_buffer(memoryview(data))
        assert store.put_buffer(memoryview(bytearray(data))) == ref
        assert list(store.objects.list("blobs/")) == [ref.name]
        assert self.reopen(store).get_blob(ref) == data
        assert ref == store.put_blob(data)

    @pytest.mark.parametrize("hint", ODD_NAMES)
    def test_odd_file_names(self, store: Store, tmp_path: Path, hint: str) -> None:
        path = tmp_path / hint
        path.write_bytes(b"odd")
        ref = store.put_blob_file(path, name=new_blob_name(hint))
        assert path.read_bytes() == b"odd"
        target = tmp_path / f"{hint}.back"
        store.fetch_blob(ref, target)
        assert target.read_bytes() == b"odd"
        assert list(store.objects.list("blobs/")) == [ref.name]

    def test_names_are_never_used_twice(self, store: Store) -> None:
        refs = {store.put_blob(b"same", name=new_blob_name("a.txt")).name for _ in range(10)}
        assert len(refs) == 10
        assert all(name.endswith("a.txt") for name in refs)

    def test_files_are_read_as_they_were_written(self, store: Store, tmp_path: Path) -> None:
        data = bytes(range(256)) * 20_000
        (tmp_path / "in").write_bytes(data)
        ref = store.put_blob_file(tmp_path / "in")
        assert ref == store.put_blob(data)
        assert ref.size == len(data)
        (tmp_path / "out").write_bytes(b"in the way")
        store.fetch_blob(ref, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == data
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]

    @pytest.mark.parametrize("named", [True, False])
    def test_moved_files_are_gone(self, store: Store, tmp_path: Path, named: bool) -> None:
        for _ in range(2):
            (tmp_path / "in").write_bytes(b"moved")
            ref = store.put_blob_file(tmp_path / "in", name=new_blob_name("in") if named else None, move=True)
            assert not (tmp_path / "in").exists()
            assert store.get_blob(ref) == b"moved"

    def test_shared_files_stay(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "in").write_bytes(b"shared")
        refs = [store.put_blob_file(tmp_path / "in", name=new_blob_name("in"), share=True) for _ in range(2)]
        assert [store.get_blob(ref) for ref in refs] == [b"shared", b"shared"]
        assert (tmp_path / "in").read_bytes() == b"shared"
        store.objects.delete([refs[0].name])
        assert store.get_blob(refs[1]) == (tmp_path / "in").read_bytes() == b"shared"

    def test_streams_can_seek(self, store: Store) -> None:
        data = bytes(range(256)) * 10_000
        with store.open_blob(store.put_blob(data)) as stream:
            assert stream.seek(-10, 2) == len(data) - 10
            assert stream.read() == data[-10:]
            stream.seek(0)
            assert stream.read(300) == data[:300]
            stream.seek(1_000_000)
            assert stream.read(3) == data[1_000_000:1_000_003]
            stream.seek(0)
            assert stream.read() == data

    def test_damaged_blobs_are_detected(self, store: Store, tmp_path: Path) -> None:
        data = b"0123456789" * 100
        ref = store.put_blob(data)
        for bad in (b"", data[:-1], data + b"x", flipped(data, 500), flipped(data, 0)):
            store.objects.put(ref.name, bad)
            for read in self.readers(store, ref, tmp_path):
                with pytest.raises(CorruptObjectError, match=ref.name):
                    read()
        store.objects.delete([ref.name])
        for read in self.readers(store, ref, tmp_path):
            with pytest.raises(CorruptObjectError, match=rf"(?s){ref.name} in .* is missing"):
                read()
        assert list(tmp_path.iterdir()) == []

    def readers(self, store: Store, ref: BlobRef, folder: Path) -> list[Callable[[], object]]:
        """List the ways to read a blob."""

        def stream() -> None:
            with store.open_blob(ref) as opened:
                while opened.read(64):
                    pass

        return [lambda: store.get_blob(ref), lambda: store.fetch_blob(ref, folder / "x"), stream]

    # The log

    def test_records_are_read_in_order(self, store: Store) -> None:
        written = [[b"a", b"", b"c" * 100_000], [b"d"], []]
        positions = [position for records in written for position in store.log.append(records)]
        again = self.reopen(store).log
        assert [record for _, record in again.read()] == [b"a", b"", b"c" * 100_000, b"d"]
        assert [position for position, _ in again.read()] == positions
        assert [again.fetch(position) for position in reversed(positions)] == [b"d", b"c" * 100_000, b"", b"a"]
        assert again.next_number == store.log.next_number == 4

    def test_many_segments(self, store: Store) -> None:
        records = [b"%d" % n for n in range(40)]
        for record in records:
            store.log.append([record])
        assert self.records(store) == records

    def test_the_slower_leader_is_fenced(self, store: Store) -> None:
        first, second = self.reopen(store).log, self.reopen(store).log
        assert (first.next_number, second.next_number) == (1, 1)
        second.append([b"second"])
        for _ in range(2):
            with pytest.raises(FencedError, match=r"log/0{15}1 was written by process \d+ on"):
                first.append([b"first"])
        second.append([b"third"])
        assert self.records(store) == [b"second", b"third"]

    def test_reading_does_not_lift_a_fence(self, store: Store) -> None:
        store.log.append([b"mine"])
        self.reopen(store).log.append([b"theirs"])
        assert [record for _, record in store.log.read()] == [b"mine", b"theirs"]
        with pytest.raises(FencedError):
            store.log.append([b"more"])

    def test_two_writers_one_wins_each_number(self, store: Store) -> None:
        if not self.conditional:
            pytest.skip("this place has no conditional writes")
        logs = [self.reopen(store).log for _ in range(2)]
        assert [log.next_number for log in logs] == [1, 1]

        def write(n: int) -> int:
            for k in range(20):
                try:
                    logs[n].append([b"%d %d" % (n, k)])
                except FencedError:
                    return k
            return 20

        written = at_once([partial(write, 0), partial(write, 1)])
        records = self.records(store)
        assert sorted(written) == [0, 20]
        assert records == [b"%d %d" % (written.index(20), k) for k in range(20)]

    def test_a_write_whose_answer_was_lost_counts(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        real = store.objects.put_new
        with monkeypatch.context() as patch:
            patch.setattr(store.objects, "put_new", lambda name, data: not real(name, data))
            store.log.append([b"one"])
        store.log.append([b"two"])
        assert self.records(store) == [b"one", b"two"]

    def test_a_failed_write_can_be_followed_by_another(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        real = store.objects.put_new

        def fails_late(name: str, data: bytes) -> bool:
            real(name, data)
            raise StoreError("the network is down")

        with monkeypatch.context() as patch:
            patch.setattr(store.objects, "put_new", fails_late)
            with pytest.raises(StoreError, match="network"):
                store.log.append([b"one"])
        store.log.append([b"two"])
        assert self.records(store) == [b"one", b"two"]

    def test_compacting_keeps_the_live_records(self, store: Store) -> None:
        for n in range(10):
            store.log.append([b"%d" % n])
        for live in ([b"3", b"4"], [b"4"], []):
            positions = store.log.compact(iter(live))
            assert [store.log.fetch(position) for position in positions] == live
            again = self.reopen(store).log
            assert [*again.read()] == list(zip(positions, live, strict=True))
        store.log.append([b"later"])
        assert self.records(store) == [b"later"]
        assert len(list(store.objects.list("log/"))) <= 3
        assert len(list(store.objects.list("snapshots/"))) == 1

    def test_large_snapshots_have_parts(self, store: Store) -> None:
        live = [b"%07d" % n * 50_000 for n in range(60)]
        positions = store.log.compact(live)
        assert len({position.segment for position in positions}) > 1
        assert self.records(store) == live

    def test_a_leader_suspended_while_another_compacted_is_fenced(self, store: Store) -> None:
        old = store.log
        old.append([b"old"])
        idle = self.reopen(store).log
        assert idle.next_number == 2
        new = self.reopen(store).log
        for _ in range(3):
            new.append([b"new"])
        new.compact([b"old", b"new"])
        new.append([b"newer"])
        new.compact([b"old", b"new", b"newer"])
        for log in (old, idle):
            with pytest.raises(FencedError):
                log.append([b"lost"])
        assert self.records(store) == [b"old", b"new", b"newer"]

    def test_a_leader_that_read_before_the_old_one_compacted_is_fenced(self, store: Store) -> None:
        store.log.append([b"1"])
        newcomer = self.reopen(store).log
        assert newcomer.next_number == 2
        for _ in range(3):
            store.log.append([b"2"])
        store.log.compact([b"1", b"2"])
        with pytest.raises(FencedError):
            newcomer.append([b"lost"])
        store.log.append([b"3"])
        assert self.records(store) == [b"1", b"2", b"3"]

    def test_compacting_during_a_read_is_reported(self, store: Store) -> None:
        for n in range(40):
            store.log.append([b"%d" % n])
        reader = self.reopen(store).log.read()
        assert next(reader)[1] == b"0"
        store.log.compact([b"0"])
        with pytest.raises(StoreError, match="read it again") as caught:
            list(reader)
        assert not isinstance(caught.value, CorruptObjectError)

    def test_damage_to_the_log_is_detected(self, store: Store) -> None:
        written = self.write_a_log(store)
        good = {name: store.objects.get(name) for name in store.objects.list("") if name.startswith(("log/", "snap"))}
        last = max(name for name in good if name.startswith("log/"))
        ways = each_object_damaged(store.objects, "log/") + each_object_damaged(store.objects, "snapshots/")
        for name, damage in ways[:: self.damages]:
            damage()
            self.check_damaged(store, name, written, last)
            store.objects.put(name, good[name])
        assert self.records(store) == written

    def write_a_log(self, store: Store) -> list[bytes]:
        """Write a log with a snapshot and some segments of two writers; return its records."""
        for n in range(4):
            store.log.append([b"gone", b"%d" % n])
        store.log.compact([b"%d" % n for n in range(4)])
        other = self.reopen(store).log
        for n in range(4, 7):
            other.append([b"%d" % n, b"+"])
        return [b"0", b"1", b"2", b"3", b"4", b"+", b"5", b"+", b"6", b"+"]

    def check_damaged(self, store: Store, name: str, written: list[bytes], last: str) -> None:
        """Check that a damaged log yields all records, or the first ones and an error that names an object."""
        found, error = self.read_until_error(store)
        is_gone = not store.objects.exists(name)
        assert found == written[: len(found)]
        if error is not None:
            assert name in str(error) or is_gone
        elif is_gone and name == last:
            assert found == written[:-2], "a log cannot detect that its last segment is gone"
        else:
            assert found == written

    def read_until_error(self, store: Store) -> tuple[list[bytes], CorruptObjectError | None]:
        """Read the records up to the first error, and return them and the error."""
        found: list[bytes] = []
        try:
            found.extend(record for _, record in self.reopen(store).log.read())
        except CorruptObjectError as error:
            return found, error
        return found, None

    # Flags, batches, answers

    def test_flags(self, store: Store) -> None:
        assert not store.has_flag("kill")
        store.set_flag("kill")
        store.set_flag("kill")
        assert self.reopen(store).has_flag("kill")
        store.clear_flag("kill")
        store.clear_flag("kill")
        assert not store.has_flag("kill")

    def test_batches_and_answers(self, store: Store) -> None:
        blobs = {store.put_blob(b"blob"): b"blob"}
        store.put_batches("b", [b"zeroth", b"message"], blobs)
        assert self.reopen(store).get_batch("b-1") == (b"message", blobs)
        assert store.put_answers("b-1", 0, b"zero")
        assert store.put_answers("b-1", 0, b"zero"), "the same worker may try twice"
        assert not store.put_answers("b-1", 0, b"another")
        assert store.put_answers("b-1", 1, b"one")
        assert store.get_answers("b-1") == [b"zero", b"one"]
        assert store.get_answers("b-1", 1) == [b"one"]
        assert store.get_answers("b-2") == []
        assert store.list_answers() == {"b-1": 2}
        store.delete_batches(["b"], {"b-1": 2})
        assert store.list_answers() == {}
        with pytest.raises(MissingObjectError):
            store.get_batch("b-1")

    @pytest.mark.parametrize("name", ["", "a/b", "../x", "."])
    def test_names_outside_the_store_are_refused(self, store: Store, name: str) -> None:
        with pytest.raises(ValueError, match="is not a valid object name"):
            store.put_batches(name, [b""])

    # The lease

    def test_a_second_leader_is_kept_out(self, store: Store) -> None:
        with Lease.acquire(store) as lease:
            with pytest.raises(StoreLockedError, match=r"in use by process \d+ on .* \(epoch 1, last heartbeat"):
                Lease.acquire(self.reopen(store))
            assert lease.epoch == store.log.epoch == 1
            held = holder(store)
            assert held is not None
            assert held.holds(held.heartbeat)
        with Lease.acquire(store) as lease:
            assert lease.epoch == 2

    def test_a_lease_without_a_heartbeat_is_taken_over(self, store: Store) -> None:
        old = Lease.acquire(store, timeout=1000, clock=lambda: 5000.0)
        with pytest.raises(StoreLockedError):
            Lease.acquire(self.reopen(store), timeout=1000, clock=lambda: 5999.0)
        with Lease.acquire(self.reopen(store), timeout=1000, clock=lambda: 6001.0) as new:
            assert new.epoch == 2
            old.release()
            assert old.lost
            held = holder(store)
            assert held is not None
            assert (held.epoch, held.released) == (2, False)

    def test_racing_leaders_one_wins(self, store: Store) -> None:
        if not self.conditional:
            pytest.skip("this place has no conditional writes")

        def acquire() -> Lease | None:
            try:
                return Lease.acquire(self.reopen(store))
            except StoreLockedError:
                return None

        leases = [lease for lease in at_once([acquire] * 4) if lease is not None]
        assert [lease.epoch for lease in leases] == [1]
        leases[0].release()

    # Cleaning up

    def test_garbage_is_collected(self, store: Store) -> None:
        live = store.put_blob(b"live")
        garbage = [store.put_blob(b"%d" % n) for n in range(5)]
        store.put_batches("b", [b""])
        store.put_answers("b", 0, b"")
        store.log.append([b"record"])
        assert store.collect([live.name]) == len(garbage) + 2
        assert store.get_blob(live) == b"live"
        assert store.collect([live.name]) == 0
        assert self.records(store) == [b"record"]

    def test_destroy_leaves_the_neighbours_alone(self, store: Store, url: str) -> None:
        neighbour = open_store(f"{url}-2", **self.options)
        neighbour.log.append([b"here"])
        self.write_a_log(store)
        store.put_blob(b"x")
        with Lease.acquire(store):
            store.set_flag("kill")
        store.destroy()
        with pytest.raises(StoreNotFoundError):
            self.reopen(store)
        assert self.records(neighbour) == [b"here"]
        again = open_store(url, **self.options)
        assert again.id != store.id
        assert list(again.log.read()) == []
