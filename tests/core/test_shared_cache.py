"""Several users share the files of their caches, and none has to trust the files of another one."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from toilfn.cli import main
from toilfn.files import cache, node, room
from toilfn.model.records import BlobRef
from toilfn.stores import Store, new_blob_name, open_store

CONTENT = os.urandom(2**21)


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOILFN_CACHE_SHARED", str(tmp_path / "shared"))
    monkeypatch.setenv("TOILFN_CACHE_SIZE", "100Mi")
    return tmp_path / "shared"


@pytest.fixture
def become(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Become another user: one with another work directory."""

    def become(name: str) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / name))

    become("first")
    return become


@pytest.fixture
def store() -> Iterator[Store]:
    """A store whose objects are no files, so that the cache has to copy them."""
    store = open_store(f"memory://{uuid.uuid4().hex}", create=True)
    yield store
    store.destroy()


@pytest.fixture
def ref(store: Store) -> BlobRef:
    return store.put_blob(CONTENT, name=new_blob_name())


@pytest.fixture
def fetched(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the blobs that were copied from the store, in order."""
    names: list[str] = []
    download = store.objects.download

    def counted(name: str, path: str | os.PathLike[str]) -> None:
        names.append(name)
        download(name, path)

    monkeypatch.setattr(store.objects, "download", counted)
    return names


def inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.mark.usefixtures("shared")
def test_a_second_user_copies_what_the_first_one_has_fetched(
    store: Store, ref: BlobRef, fetched: list[str], become: Any, tmp_path: Path
) -> None:
    cache.place(store, ref, tmp_path / "a")
    become("second")
    cache.place(store, ref, tmp_path / "b")
    assert len(fetched) == 1
    assert (tmp_path / "b").read_bytes() == CONTENT
    assert inode(tmp_path / "b") != inode(tmp_path / "a")  # the first one could alter a link at any time


def damage(path: Path, how: str) -> None:
    path.chmod(0o644)
    if how == "content":
        path.write_bytes(CONTENT[::-1])
    elif how == "size":
        path.write_bytes(CONTENT + b"x")
    else:
        path.unlink()
        if how == "link":
            path.symlink_to("/dev/zero")
        else:
            os.mkfifo(path)


@pytest.mark.parametrize("how", ["content", "size", "link", "pipe"])
def test_a_damaged_copy_in_the_shared_cache_is_fetched_again(
    store: Store, ref: BlobRef, fetched: list[str], become: Any, shared: Path, tmp_path: Path, how: str
) -> None:
    cache.place(store, ref, tmp_path / "a")
    (tmp_path / "a").unlink()
    (place,) = shared.iterdir()
    damage(place, how)
    become("second")
    cache.place(store, ref, tmp_path / "b")
    assert len(fetched) == 2
    assert (tmp_path / "b").read_bytes() == CONTENT


def test_a_shared_file_takes_no_further_room_and_goes_with_the_first(
    store: Store, ref: BlobRef, become: Any, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.place(store, ref, tmp_path / "a")
    (place,) = shared.iterdir()
    assert inode(place) == inode(tmp_path / "a")
    assert room.trim(0, time.time()) == []  # it is in use
    (tmp_path / "a").unlink()
    assert main(["cache", "show", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["in_use"], found["shared"], found["size"]) == (False, str(place), len(CONTENT))
    assert main(["cache", "clean"]) == 0
    assert list(shared.iterdir()) == []
    assert room.cached_files() == []


def test_remains_of_a_store_that_is_gone_are_removed_too(
    store: Store, ref: BlobRef, become: Any, shared: Path, tmp_path: Path
) -> None:
    cache.place(store, ref, tmp_path / "a")
    (tmp_path / "a").unlink()
    node.remove(store.url)
    become("second")
    cache.place(store, ref, tmp_path / "b")  # another cache leaves it alone
    become("first")
    assert [entry.path.parent for entry in room.cached_files()] == [shared]
    assert len(room.trim(0, time.time())) == 1
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("kind", ["small", "encrypted", "weak"])
def test_some_files_are_not_shared(store: Store, become: Any, shared: Path, tmp_path: Path, kind: str) -> None:
    data, algorithm = (b"x" if kind == "small" else CONTENT), "blake2b"
    if kind == "encrypted":
        store = open_store(f"memory://{uuid.uuid4().hex}", create=True, encryption_key="ab" * 32)
    if kind == "weak":
        pytest.importorskip("xxhash")
        algorithm = "xxh3"
    (tmp_path / "source").write_bytes(data)
    ref = store.put_blob_file(tmp_path / "source", name=new_blob_name(), algorithm=algorithm)
    cache.place(store, ref, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == data
    assert not shared.exists() or list(shared.iterdir()) == []


def test_a_directory_that_cannot_be_written_does_no_harm(
    store: Store, ref: BlobRef, become: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TOILFN_CACHE_SHARED", str(tmp_path / "file" / "below"))
    cache.place(store, ref, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


@toil.task
def read(file: toil.File) -> int:
    return len(file.path().read_bytes())


@toil.task
def written() -> toil.File:
    with toil.open_write("x") as stream:
        stream.write(CONTENT)
    return stream.file


def test_the_setting_reaches_the_workers(
    become: Any, shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TOILFN_CACHE_SHARED")
    url = f"memory://{uuid.uuid4().hex}"
    toil.compute(read(written()), store=url, cluster="inline", cache_shared=str(shared))
    assert len(list(shared.iterdir())) == 1
