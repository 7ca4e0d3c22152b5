"""Stores over fsspec: what is asked of a file system, and what is said when it cannot be used."""

from __future__ import annotations

import errno
import sys
import uuid

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from toilfn.errors import StoreError
from toilfn.stores import open_store
from toilfn.stores.remote import FsspecObjects
from toilfn.stores.testing import StoreContract


class TestUnconditional(StoreContract):
    """fsspec's local file system looks first and writes then."""

    conditional = False

    @pytest.fixture
    def url(self, tmp_path_factory):
        return f"local://{tmp_path_factory.mktemp('place')}/store"

    def test_a_warning_is_given(self, url, caplog):
        open_store(url)
        assert "has no conditional writes: only the lease" in caplog.text
        caplog.clear()
        open_store(url, create=False)
        assert "has no conditional writes" in caplog.text

    def test_half_written_objects_are_swept(self, store, url):
        (path,) = [f"{url.removeprefix('local://')}/log/.tmp-dead"]
        fsspec.filesystem("local").makedirs(path.rpartition("/")[0])
        fsspec.filesystem("local").touch(path)
        assert list(store.objects.list("log/")) == []
        assert store.objects.sweep(1000) == 0
        assert store.objects.sweep(-1) == 1


class IgnoresTheMode(MemoryFileSystem):
    """Like a server that does not know If-None-Match."""

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        super().pipe_file(path, value)


class KnowsNoMode(MemoryFileSystem):
    def pipe_file(self, path, value):
        super().pipe_file(path, value)


class RefusesOddly(MemoryFileSystem):
    """Like a server that s3fs does not know well, one in three of whose requests meets another one."""

    requests = 0

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self.requests += 1
        if mode == "create" and self.requests % 3 == 0:
            raise OSError(errno.EBUSY, "ConditionalRequestConflict")
        try:
            super().pipe_file(path, value, mode=mode)
        except FileExistsError:
            raise OSError(errno.EINVAL, "PreconditionFailed") from None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (MemoryFileSystem, True),
        (RefusesOddly, True),
        (IgnoresTheMode, False),
        (KnowsNoMode, False),
        (LocalFileSystem, False),
    ],
)
def test_conditional_writes_are_tried_out(kind, expected, tmp_path):
    root = f"{tmp_path}/{uuid.uuid4().hex}"
    fs = kind(skip_instance_cache=True, auto_mkdir=True)
    objects = FsspecObjects(fs, root, "x://y")
    objects.try_out()
    assert objects.conditional is expected
    assert fs.find(root) == []


def test_odd_refusals_are_understood():
    objects = FsspecObjects(RefusesOddly(skip_instance_cache=True), f"/{uuid.uuid4().hex}", "odd://x")
    won = [objects.put_new("flags/x", b"%d" % n) for n in range(6)]
    assert won == [True] + [False] * 5
    assert objects.get("flags/x") == b"0"


def test_an_object_that_cannot_be_written_is_named(monkeypatch):
    store = open_store(f"memory://tests/{uuid.uuid4().hex}")

    def refuse(*args, **kwargs):
        raise RuntimeError("quota exceeded")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    for write in (store.objects.put, store.objects.put_new):
        with pytest.raises(StoreError, match=r"cannot write flags/x in memory://tests/.*: quota exceeded"):
            write("flags/x", b"")


def test_unknown_scheme():
    with pytest.raises(StoreError, match=r"job store nosuch://a/b .*not known: nosuch; use a path"):
        open_store("nosuch://a/b")


def test_missing_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules, "toilfn.stores.s3", raising=False)
    with pytest.raises(StoreError, match=r"s3://bucket/x: no driver for s3:// is installed; pip install .*s3"):
        open_store("s3://bucket/x")


def test_passwords_are_kept_out_of_urls():
    with pytest.raises(StoreError, match="must not contain a password") as caught:
        open_store("sftp://me:secret@host/store")
    assert "secret" not in str(caught.value)


def test_a_place_in_use_is_not_touched():
    name = f"tests/{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    fs.pipe_file(f"/{name}/data", b"precious")
    with pytest.raises(StoreError, match="not empty and is not a job store; nothing was changed"):
        open_store(f"memory://{name}")
    assert fs.find(f"/{name}") == [f"/{name}/data"]
