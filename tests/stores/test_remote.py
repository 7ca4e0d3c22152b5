"""Stores over fsspec: what is asked of a file system, and what is said when it cannot be used."""

from __future__ import annotations

import errno
import io
import sys
import threading
import uuid
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from toilfn.errors import StoreError
from toilfn.stores import open_store, remote
from toilfn.stores.buckets import _Upload
from toilfn.stores.objects import MissingObjectError
from toilfn.stores.remote import FsspecObjects
from toilfn.stores.testing import StoreContract


class TestUnconditional(StoreContract):
    """fsspec's local file system looks first and writes then."""

    conditional = False

    @pytest.fixture
    def url(self, tmp_path_factory):
        return f"local://{tmp_path_factory.mktemp('place')}/store"

    @pytest.fixture(autouse=True)
    def _without_pauses(self, monkeypatch):
        """Read damaged objects again at once: this place has no answers that are wrong for a moment."""
        monkeypatch.setattr(FsspecObjects, "pause", 0.0)

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


class Silent(MemoryFileSystem):
    """A place that says nothing any more; of an object that is read as a stream, it still gives the beginning."""

    protocol = "silenttest"
    store: ClassVar[dict] = {}
    over = threading.Event()

    def wait(self, *args, **named):
        self.over.wait(60)

    cat_file = pipe_file = info = find = rm_file = put_file = get_file = wait

    def _open(self, path, mode="rb", **named):
        stream = io.BytesIO(b"begin")
        read = stream.read
        stream.read = lambda size=-1: read(size) or self.wait() or b""
        return stream


@pytest.fixture
def silent(monkeypatch):
    """Objects in such a place."""
    monkeypatch.setattr(remote, "_SILENCE", 0.3)
    Silent.over.clear()
    yield FsspecObjects(Silent(skip_instance_cache=True), "/x", "silenttest://x")
    Silent.over.set()


@pytest.mark.parametrize(
    ("verb", "call"),
    [
        ("read", lambda objects, path: objects.get("flags/x")),
        ("read", lambda objects, path: objects.size("flags/x")),
        ("read", lambda objects, path: objects.download("flags/x", path)),
        ("write", lambda objects, path: objects.put("flags/x", b"")),
        ("write", lambda objects, path: objects.put_new("flags/x", b"")),
        ("write", lambda objects, path: objects.upload(path, "flags/x")),
        ("delete", lambda objects, path: objects.delete(["flags/x"])),
        ("list", lambda objects, path: list(objects.list("flags/x"))),
    ],
)
def test_a_place_that_says_nothing_is_named_in_time(silent, tmp_path, verb, call):
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(StoreError, match=f"cannot {verb} flags/x in silenttest://x: no answer for") as raised:
        call(silent, tmp_path / "x")
    assert "when the storage service responds" in raised.value.hint


def test_a_stream_that_stops_in_the_middle_is_named_in_time(silent):
    with silent.open("blobs/ab/y") as stream:
        assert stream.read(5) == b"begin"
        with pytest.raises(StoreError, match="cannot read blobs/ab/y in silenttest://x: no answer for"):
            stream.read(5)


def test_a_stream_is_read_again_where_that_may_help(silent, monkeypatch):
    stream = io.BytesIO(b"content")
    read = stream.read
    failures = [ConnectionError("reset"), ConnectionError("reset")]

    def flaky(size=-1):
        if failures:
            raise failures.pop()
        return read(size)

    monkeypatch.setattr(stream, "read", flaky, raising=False)
    monkeypatch.setattr(Silent, "_open", lambda self, path, **named: stream)
    with silent.open("blobs/ab/y") as opened:
        assert opened.read() == b"content"


def test_an_upload_that_stops_in_the_middle_is_named_in_time(silent):
    class Part:
        blocksize = 0

        def write(self, data):
            Silent.over.wait(60)

        close = write

    def failed(error):
        return silent._failed("write", "blobs/ab/y", error)

    upload = _Upload(Part(), silent._limited, failed, lambda: 0)
    with pytest.raises(StoreError, match="cannot write blobs/ab/y in silenttest://x: no answer for"):
        upload.write(b"x")
    upload._stream.closed = True


@pytest.mark.parametrize(("there", "is_written"), [(7, True), (3, False), (None, False)])
def test_an_upload_whose_last_answer_was_lost_is_looked_for(silent, there, is_written):
    class Over:
        blocksize = 0

        def write(self, data):
            return len(data)

        def close(self):
            raise FileNotFoundError("the upload is over")

    def size():
        if there is None:
            raise MissingObjectError("blobs/ab/y does not exist")
        return there

    upload = _Upload(Over(), silent._limited, lambda error: silent._failed("write", "blobs/ab/y", error), size)
    upload.write(b"content")
    if is_written:
        upload.finish()
    else:
        with pytest.raises(StoreError, match="blobs/ab/y"):
            upload.finish()
    upload._stream.closed = True
