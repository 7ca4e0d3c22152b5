"""The node's cache of files: one copy for all, under a limit, whoever dies."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import toilfn as toil
from toilfn.cli import main
from toilfn.files import cache, digests, room
from toilfn.model.records import BlobRef
from toilfn.stores import new_blob_name, open_store
from toilfn.stores.digests import hash_file

KIB = 1024


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv("TOILFN_CACHE_SIZE", "10Ki")
    monkeypatch.setenv("TOILFN_KEEP_ON_NODES", "1h")


@pytest.fixture
def store():
    """A store whose objects are no files, so that the cache has to copy them."""
    store = open_store(f"memory://{uuid.uuid4().hex}", create=True)
    yield store
    store.destroy()


@pytest.fixture
def put(store):
    """Puts a blob of so many KiB into the store."""
    return lambda size: put_blob(store, os.urandom(size * KIB))


def put_blob(store, data: bytes) -> BlobRef:
    return store.put_blob(data, name=new_blob_name())


@pytest.fixture
def fetched(store, monkeypatch):
    """The names of the blobs that were copied from the store, in order."""
    names = []
    download = store.objects.download

    def counted(name, path):
        names.append(name)
        download(name, path)

    monkeypatch.setattr(store.objects, "download", counted)
    return names


def entries() -> list[Path]:
    return [path for path in room.cache_dir().glob("*/*") if path.parent.name != "locks"]


def in_use() -> int:
    return sum(path.lstat().st_size for path in entries())


def test_one_copy_serves_all(store, put, fetched, tmp_path):
    ref = put(4)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: cache.place(store, ref, tmp_path / str(i)), range(50)))
    assert fetched == [ref.name]
    assert len({(tmp_path / str(i)).stat().st_ino for i in range(50)}) == 1


def test_recently_used_files_are_kept(store, put, fetched, tmp_path):
    first, second, third, new = (put(3) for _ in range(4))

    def use(ref):
        target = tmp_path / uuid.uuid4().hex
        cache.place(store, ref, target)
        target.unlink()

    for ref in (first, second, third, first, new):
        use(ref)
    assert in_use() == 9 * KIB
    fetched.clear()
    for ref in (third, first, new):
        use(ref)
    assert fetched == []
    use(second)
    assert fetched == [second.name]


def test_files_in_use_are_not_evicted(store, put, fetched, tmp_path):
    held, free, large = put(4), put(4), put(6)
    cache.place(store, held, tmp_path / "held")
    cache.place(store, free, tmp_path / "free")
    (tmp_path / "free").unlink()
    cache.place(store, large, tmp_path / "large")
    cache.place(store, held, tmp_path / "again")
    assert fetched == [held.name, free.name, large.name]
    assert in_use() == 10 * KIB


def test_a_task_gets_its_own_copy_when_the_cache_is_full(store, put, fetched, tmp_path):
    held, other = put(8), put(8)
    cache.place(store, held, tmp_path / "held")
    for name in ("one", "two"):
        cache.place(store, other, tmp_path / name)
        assert (tmp_path / name).read_bytes() == store.get_blob(other)
        assert not (tmp_path / name).stat().st_mode & 0o222
    assert fetched == [held.name, other.name, other.name]
    assert in_use() == 8 * KIB


def test_no_cache(store, put, tmp_path, monkeypatch):
    monkeypatch.setenv("TOILFN_CACHE_SIZE", "0")
    cache.place(store, put(1), tmp_path / "x", executable=True)
    assert os.access(tmp_path / "x", os.X_OK)
    assert entries() == []


def test_a_limit_that_is_no_size(store, put, tmp_path, monkeypatch):
    monkeypatch.setenv("TOILFN_CACHE_SIZE", "much")
    with pytest.raises(toil.InputError, match="much"):
        cache.place(store, put(1), tmp_path / "x")


def test_files_are_copied_where_hard_links_do_not_work(store, put, fetched, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    ref = put(4)
    for name in ("a", "b"):
        cache.place(store, ref, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == store.get_blob(ref)
    assert fetched == [ref.name]
    cache.place(store, put(10), tmp_path / "c")
    assert in_use() == 10 * KIB
    assert (tmp_path / "a").read_bytes() == store.get_blob(ref)


def test_without_locks_files_are_safe(store, put, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    for _ in range(4):
        ref = put(4)
        cache.place(store, ref, tmp_path / ref.name)
        assert (tmp_path / ref.name).read_bytes() == store.get_blob(ref)


def test_a_copy_that_a_user_changed_is_not_given_to_others(store, put, tmp_path):
    ref = put(2)
    cache.place(store, ref, tmp_path / "mine")
    (tmp_path / "mine").chmod(0o644)
    (tmp_path / "mine").write_bytes(os.urandom(2 * KIB))
    cache.place(store, ref, tmp_path / "yours")
    assert (tmp_path / "yours").read_bytes() == store.get_blob(ref)


def test_a_file_that_cannot_be_fetched_leaves_nothing(store, put, tmp_path):
    ref = put(2)
    store.objects.delete([ref.name])
    with pytest.raises(toil.CorruptObjectError):
        cache.place(store, ref, tmp_path / "x")
    assert entries() == []
    assert not (tmp_path / "x").exists()


def test_unfinished_files_of_dead_processes_are_removed(store, put, tmp_path):
    ref = put(8)
    cache.place(store, ref, tmp_path / "x")
    (entry,) = entries()
    (tmp_path / "x").unlink()
    draft = room.draft_dir(entry.with_name("half"), 8 * KIB)
    draft.mkdir()
    (draft / "content").write_bytes(b"half")
    cache.place(store, put(9), tmp_path / "y")
    assert not draft.exists()
    assert in_use() == 9 * KIB


@toil.task
def hold_and_die(file: toil.File) -> None:
    file.path()
    os.kill(os.getpid(), signal.SIGKILL)


@toil.task
def length(file: toil.File) -> int:
    return file.path().stat().st_size


@toil.task
def written(size: int) -> toil.File:
    with toil.open_write("some") as stream:
        stream.write(os.urandom(size))
    return stream.file


@pytest.fixture
def far_store(tmp_path):
    """A directory for a store on another file system, from where files have to be copied."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory) / "store"


def test_a_killed_tasks_use_ends(far_store):
    with pytest.raises(toil.FailedTasksError):
        toil.compute(hold_and_die(written(8 * KIB)), store=far_store, workers=1, retries=0, lost_retries=0)
    assert in_use() == 8 * KIB
    assert toil.compute(length(written(9 * KIB)), store=far_store, workers=1) == 9 * KIB
    assert in_use() == 9 * KIB


@toil.task
def copy_used(file: toil.File, number: int) -> tuple[int, int]:
    found = file.path().stat()
    return found.st_dev, found.st_ino


def test_fifty_tasks_share_one_copy(far_store, monkeypatch):
    monkeypatch.setenv("TOILFN_CACHE_SIZE", "300Mi")
    file = written(200 * KIB * KIB)
    copies = toil.compute([copy_used(file, i) for i in range(50)], store=far_store, workers=4)
    assert len(copies) == 50
    assert len(set(copies)) == 1


def test_the_setting_reaches_the_workers(far_store):
    assert toil.compute(length(written(KIB)), store=far_store, workers=1, cache_size=0) == KIB
    assert entries() == []


EVICTING = """
import os, random, shutil, sys
from pathlib import Path
from toilfn.files import cache
from toilfn.files import room
from toilfn.model.records import BlobRef
from toilfn.stores import open_store

cache._is_linkable = lambda *_: False  # as if the store were far away
store = open_store(sys.argv[1], create=False)
refs = [BlobRef(line.split()[0], int(line.split()[1]), bytes.fromhex(line.split()[2])) for line in sys.stdin]
mine = Path(sys.argv[2])
worst = 0
for turn in range(25):
    ref = random.choice(refs)
    cache.place(store, ref, mine / "x")
    assert (mine / "x").stat().st_size == ref.size
    paths = [p for p in room.cache_dir().glob("*/*") if p.parent.name != "locks" and p.is_file()]
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            pass
    worst = max(worst, total)
    shutil.rmtree(mine)
print(worst)
"""


def test_four_processes_stay_under_the_limit(tmp_path):
    store = open_store(tmp_path / "store", create=True)
    refs = [put_blob(store, os.urandom(KIB * (1 + i % 4))) for i in range(12)]
    text = "".join(f"{ref.name} {ref.size} {ref.digest.hex()}\n" for ref in refs)
    command = [sys.executable, "-c", EVICTING, store.url]
    running = [
        subprocess.Popen([*command, tmp_path / f"p{i}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    worst = [int(process.communicate(text, timeout=60)[0]) for process in running]
    assert 0 < max(worst) <= 10 * KIB
    assert 0 < in_use() <= 10 * KIB


def test_a_large_file_is_read_once_for_its_digest(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(digests, "check_file", lambda ref, path, where: read.append(path))
    ref = BlobRef("blobs/00/x", 2 * 2**20, b"0" * 16)
    path = tmp_path / "x"
    path.write_bytes(bytes(ref.size))
    path.chmod(0o444)
    for _ in range(2):
        digests.check_once(ref, path, "here")
    assert read == [path]
    other = ref._replace(digest=b"1" * 16)
    digests.check_once(other, path, "here")  # another content is expected
    path.chmod(0o644)
    path.write_bytes(b"x" * ref.size)
    path.chmod(0o444)
    digests.check_once(ref, path, "here")  # it was changed
    assert read == [path] * 3
    digests.remember(ref, path)
    digests.check_once(ref, path, "here")
    assert read == [path] * 3


def test_a_memory_of_digests_that_cannot_be_used_does_no_harm(tmp_path):
    (room.cache_dir() / "digests.sqlite").unlink(missing_ok=True)
    (room.cache_dir() / "digests.sqlite").mkdir()
    path = tmp_path / "x"
    path.write_bytes(bytes(2**21))
    path.chmod(0o444)
    digests.check_once(BlobRef("blobs/00/x", *hash_file(path)), path, "here")
    with pytest.raises(toil.CorruptObjectError, match="was altered"):
        digests.check_once(BlobRef("blobs/00/x", 2**21, bytes(16)), path, "here")


def test_files_that_were_not_used_for_long_are_removed(store, put, tmp_path, monkeypatch):
    monkeypatch.setenv(room.AGE_VARIABLE, "1d")
    old, used, new = put(1), put(1), put(1)
    cache.place(store, old, tmp_path / "old")
    cache.place(store, used, tmp_path / "used")
    (tmp_path / "old").unlink()
    long_ago = time.time() - 2 * 86400
    for entry in room.cached_files():
        os.utime(entry.path, ns=(int(long_ago * 1e9), entry.path.stat().st_mtime_ns))
    os.utime(room._state() / "aged", (long_ago, long_ago))
    cache.place(store, new, tmp_path / "new")
    assert sorted(entry.path.name for entry in room.cached_files()) == sorted(
        ref.name.replace("/", "-") for ref in (used, new)
    )


def test_an_age_that_is_not_a_duration(store, put, tmp_path, monkeypatch):
    monkeypatch.setenv(room.AGE_VARIABLE, "soon")
    with pytest.raises(toil.InputError, match=r"TOILFN_CACHE_AGE.*soon"):
        cache.place(store, put(1), tmp_path / "x")


def test_the_cache_is_shown_and_cleaned_by_size_and_age(store, put, tmp_path, capsys):
    refs = [put(2) for _ in range(3)]
    for number, ref in enumerate(refs):
        cache.place(store, ref, tmp_path / str(number))
    (tmp_path / "0").unlink()
    (tmp_path / "1").unlink()  # the last one is in use
    assert main(["cache", "show", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["size"] for each in found] == [2 * KIB] * 3
    assert [each["in_use"] for each in found].count(True) == 1
    assert main(["cache"]) == 0
    assert "3 files, 6 KiB of at most 10 KiB" in capsys.readouterr().out
    assert main(["cache", "clean", "--older-than", "1h"]) == 0
    assert "removed 0 files" in capsys.readouterr().out
    assert main(["cache", "clean", "--max-size", "4Ki"]) == 0
    assert "removed 1 file, 2 KiB" in capsys.readouterr().out
    assert main(["cache", "clean"]) == 0
    assert "removed 1 file" in capsys.readouterr().out
    assert (tmp_path / "2").stat().st_size == 2 * KIB
    assert len(room.cached_files()) == 1
