"""Stores in a directory."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from toilfn.errors import CorruptObjectError, StoreError, StoreFormatError, StoreNotFoundError
from toilfn.stores import new_blob_name, open_store, temporary_store
from toilfn.stores.digests import digest_of
from toilfn.stores.files import FileObjects
from toilfn.stores.testing import StoreContract, at_once


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


class TestWithoutHardLinks(StoreContract):
    """As on FAT and some network file systems."""

    options: ClassVar = {"sync": False}

    @pytest.fixture(autouse=True)
    def _no_links(self, monkeypatch):
        def link(source, target):
            raise PermissionError(errno.EPERM, "Operation not permitted", source, None, target)

        monkeypatch.setattr(os, "link", link)

    @pytest.fixture
    def url(self, tmp_path_factory):
        return str(tmp_path_factory.mktemp("place") / "store")

    def test_a_warning_is_given_once(self, store, caplog):
        store.log.append([b"1"])
        store.log.append([b"2"])
        assert caplog.text.count("has no hard links: only the lease") <= 1
        assert not store.objects.conditional

    def test_without_locks_too(self, store, monkeypatch):
        def flock(*args):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", flock)
        assert store.objects.put_new("flags/x", b"1")
        assert not store.objects.put_new("flags/x", b"2")


# Opening


@pytest.mark.parametrize("form", [str, Path, "file://{}".format])
def test_all_spellings_of_a_path_are_one_store(tmp_path, form, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store(form(tmp_path / "a" / "b"))
    assert store.url == f"file://{tmp_path}/a/b"
    assert open_store("a/b", create=False).id == store.id


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("~/store").url == f"file://{tmp_path}/store"


def test_everything_is_private(store, tmp_path):
    old = os.umask(0)
    try:
        store = open_store(tmp_path / "open umask")
        store.log.append([b"x"])
        store.put_blob(b"x")
        store.set_flag("kill")
    finally:
        os.umask(old)
    for path in [tmp_path / "open umask", *(tmp_path / "open umask").rglob("*")]:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StoreError, match="is a file, not a job store; it was not changed"):
        open_store(tmp_path / "file")
    with pytest.raises(StoreError, match="file/below"):
        open_store(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_directory_in_use_is_not_touched(tmp_path):
    (tmp_path / "mine").write_text("precious")
    tmp_path.chmod(0o755)
    with pytest.raises(StoreError, match="not empty and is not a job store; nothing was changed"):
        open_store(tmp_path)
    assert (tree(tmp_path), mode(tmp_path)) == ({"mine": b"precious"}, 0o755)


def test_a_missing_store_is_not_created(tmp_path):
    with pytest.raises(StoreNotFoundError, match=f"no job store at file://{tmp_path}/a/b"):
        open_store(tmp_path / "a" / "b", create=False)
    assert list(tmp_path.iterdir()) == []


def test_another_format_is_reported(store, tmp_path):
    meta = tmp_path / "store" / "store.json"
    meta.write_text(meta.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(StoreFormatError, match="has format 7, but this toilfn reads format 1"):
        open_store(tmp_path / "store")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1}', '{"format": 1, "x": 2}'])
def test_a_damaged_description_is_reported(store, tmp_path, content):
    (tmp_path / "store" / "store.json").write_text(content)
    with pytest.raises(CorruptObjectError, match=r"store\.json in file://.* is damaged"):
        open_store(tmp_path / "store")


def test_temporary_stores_are_private_and_apart():
    first, second = temporary_store(), temporary_store()
    assert first.url != second.url
    assert mode(first.url.removeprefix("file://")) == 0o700
    for store in (first, second):
        store.destroy()
        assert not os.path.exists(store.url.removeprefix("file://"))


# Writing


def test_a_link_whose_answer_was_lost_counts(store, monkeypatch):
    real = os.link

    def link(source, target):
        real(source, target)
        raise FileExistsError(errno.EEXIST, "File exists", target)

    monkeypatch.setattr(os, "link", link)
    assert store.objects.put_new("flags/x", b"x")


@pytest.mark.parametrize("write", ["put", "put_new"])
def test_a_full_disk_leaves_nothing(store, tmp_path, monkeypatch, write):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = tree(tmp_path)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"cannot write flags/x in file://.*No space left"):
        getattr(store.objects, write)("flags/x", b"x")
    assert tree(tmp_path) == before


def test_writes_do_not_bring_a_deleted_store_back(store, tmp_path):
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(StoreNotFoundError, match="no longer exists: it was deleted or unmounted"):
        store.log.append([b"x"])
    with pytest.raises(StoreNotFoundError):
        store.put_blob(b"x")
    assert list(tmp_path.iterdir()) == []


def test_every_write_is_flushed_unless_told_otherwise(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    FileObjects(tmp_path).put("x", b"")
    assert len(flushed) == 2, "the file and its directory"
    store = open_store(tmp_path / "quick", sync=False)
    open_store(store.url).log.append([b"remembered"])
    assert len(flushed) == 2


# Files


@pytest.mark.parametrize(("before", "after"), [(0o644, 0o444), (0o700, 0o555)])
def test_objects_made_of_files_cannot_be_changed(store, tmp_path, before, after):
    (tmp_path / "in").write_text("x")
    (tmp_path / "in").chmod(before)
    for move in (False, True):
        ref = store.put_blob_file(tmp_path / "in", name=new_blob_name("in"), move=move)
        assert mode(store.objects.local_path(ref.name)) == after


def test_moving_renames(store, tmp_path):
    (tmp_path / "in").write_text("x")
    inode = os.stat(tmp_path / "in").st_ino
    ref = store.put_blob_file(tmp_path / "in", move=True)
    assert os.stat(store.objects.local_path(ref.name)).st_ino == inode


def test_a_file_with_other_names_is_copied(store, tmp_path):
    (tmp_path / "in").write_text("x")
    os.link(tmp_path / "in", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tmp_path / "link")
    refs = [store.put_blob_file(tmp_path / name, name=new_blob_name(), move=True) for name in ("in", "link")]
    (tmp_path / "elsewhere").write_text("changed")
    assert [store.get_blob(ref) for ref in refs] == [b"x", b"x"]
    assert not (tmp_path / "in").exists()
    assert not (tmp_path / "link").is_symlink()


def test_a_shared_file_is_linked_and_never_written_to(store, tmp_path):
    (tmp_path / "in").write_text("x")
    refs = [store.put_blob_file(tmp_path / "in", name=new_blob_name("in"), share=True) for _ in range(2)]
    inode = os.stat(tmp_path / "in").st_ino
    numbers = [os.stat(store.objects.local_path(ref.name)).st_ino for ref in refs]
    assert numbers[0] == inode
    assert numbers[1] != inode  # two objects are two files: each can be moved out alone
    assert mode(tmp_path / "in") == 0o444


# The end


def test_collecting_takes_half_written_objects_of_any_age(store, tmp_path):
    (tmp_path / "store" / "log").mkdir()
    for name, age in (("log/.tmp-old", 7200), (".tmp-older", 9000), ("log/.tmp-new", 0)):
        path = tmp_path / "store" / name
        path.write_bytes(b"half")
        os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    assert store.collect([]) == 3
    assert set(tree(tmp_path / "store")) == {"store.json"}
    assert list(store.log.read()) == []


def test_files_that_network_file_systems_leave_are_no_segments(store, tmp_path):
    store.log.append([b"x"])
    (tmp_path / "store" / "log" / ".nfs0001").write_bytes(b"")
    (tmp_path / "store" / "log" / "README").write_bytes(b"")
    assert [record for _, record in open_store(store.url).log.read()] == [b"x"]


def test_destroy_keeps_files_that_others_have_added(store, tmp_path):
    store.put_blob(b"x")
    (tmp_path / "store" / "results.txt").write_text("precious")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("precious")
    (tmp_path / "store" / "blobs" / "link").symlink_to(tmp_path / "outside")
    store.destroy()
    assert tree(tmp_path) == {"store/results.txt": b"precious", "outside/file": b"precious"}


def test_destroy_through_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = open_store(tmp_path / "link")
    store.log.append([b"x"])
    store.destroy()
    assert list((tmp_path / "real").iterdir()) == []


def test_many_threads_write_blobs(store):
    refs = at_once([partial(store.put_blob, b"%d" % (n % 3)) for n in range(8)])
    assert [store.get_blob(ref) for ref in refs] == [b"%d" % (n % 3) for n in range(8)]
    assert len(list(store.objects.list("blobs/"))) == 3


class TestLargeFiles:
    """Threads write and flush them while their digests are computed."""

    CONTENT = bytes(range(256)) * 2**16 + b"end"  # more than two pieces

    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "in").write_bytes(self.CONTENT)
        return tmp_path / "in"

    @pytest.mark.parametrize("how", [{}, {"move": True}, {"share": True}], ids=["copy", "move", "share"])
    @pytest.mark.parametrize("algorithm", ["blake2b", "sha256"])
    def test_the_digest_is_that_of_the_content(self, store, path, how, algorithm):
        ref = store.put_blob_file(path, name=new_blob_name("in"), algorithm=algorithm, **how)
        assert (ref.size, ref.digest) == (len(self.CONTENT), digest_of(self.CONTENT, algorithm))
        assert store.get_blob(ref) == self.CONTENT
        assert path.exists() == ("move" not in how)

    def test_a_file_that_cannot_be_renamed_is_moved(self, store, path, monkeypatch):
        monkeypatch.setattr(FileObjects, "_prepare_rename", lambda *args, **named: False)
        ref = store.put_blob_file(path, name=new_blob_name("in"), move=True)
        assert store.get_blob(ref) == self.CONTENT
        assert not path.exists()

    @pytest.mark.parametrize(
        ("call", "how"),
        [("fdatasync", {}), ("fsync", {}), ("fsync", {"move": True}), ("fsync", {"share": True})],
        ids=["while it is copied", "copy", "move", "share"],
    )
    def test_a_disk_that_fails_is_an_error(self, store, path, monkeypatch, call, how):
        def fail(descriptor):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(StoreError, match="Input/output error"):
            store.put_blob_file(path, name=new_blob_name("in"), **how)
        assert path.read_bytes() == self.CONTENT
        assert not list(store.objects.list("blobs/"))

    @pytest.mark.parametrize("how", [{}, {"move": True}, {"share": True}], ids=["copy", "move", "share"])
    def test_the_content_is_on_the_disk_before_it_has_a_name(self, store, path, monkeypatch, how):
        done = []
        fsync, replace = os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", lambda file: (fsync(file), done.append(os.fstat(file).st_size))[0])
        monkeypatch.setattr(os, "replace", lambda *names: (done.append("named"), replace(*names))[1])
        store.put_blob_file(path, name=new_blob_name("in"), **how)
        assert len(self.CONTENT) in done[: done.index("named")]
