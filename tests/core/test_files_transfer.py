"""Files from and to the outside world: plain paths, file URLs, and what fsspec opens."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import stat
import sys
import threading
import uuid
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry as drivers

import toilfn as toil
from tests.servers.fixtures import gcs_server
from toilfn.files import transfer
from toilfn.files.task_files import TaskFiles
from toilfn.stores import open_store

__all__ = ["gcs_server"]


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A running attempt."""
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))
    (tmp_path / "temp").mkdir()
    with TaskFiles(open_store(tmp_path / "store"), lambda: tmp_path / "temp") as session:
        yield session


@pytest.fixture
def bucket():
    """A place in fsspec's memory file system, as a URL."""
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    system, path = fsspec.core.url_to_fs(url)
    if system.exists(path):
        system.rm(path, recursive=True)


@contextlib.contextmanager
def serving(folder):
    """A web server for a folder's files, as a URL."""
    handler = functools.partial(QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def put(url, data):
    with fsspec.open(url, "wb") as stream:
        stream.write(data)


def get(url):
    with fsspec.open(url, "rb") as stream:
        return stream.read()


def made(content, name="made.txt"):
    with toil.open_write(name) as stream:
        stream.write(content)
    return stream.file


NAMES = [
    "plain.txt",
    "with space",
    "new\nline",
    "ünïcode-文",
    "per%20cent",
    "hash#tag",
    "a::b",
    "quest?ion",
    "-dash",
    ".dot",
]


@pytest.mark.usefixtures("session")
class TestImport:
    @pytest.mark.parametrize("name", NAMES)
    def test_paths_of_any_name(self, tmp_path, name):
        (tmp_path / name).write_text(name)
        for source in (tmp_path / name, str(tmp_path / name), (tmp_path / name).as_uri()):
            file = toil.import_file(source)
            assert (file.name, file.read_text()) == (name, name)

    def test_executables_stay_executable(self, tmp_path):
        (tmp_path / "tool").write_text("#!/bin/sh\necho ran\n")
        (tmp_path / "tool").chmod(0o755)
        file = toil.import_file(tmp_path / "tool")
        assert file.executable
        assert os.access(file.path(), os.X_OK)

    def test_names_can_be_chosen(self, tmp_path):
        (tmp_path / "x").touch()
        assert toil.import_file(tmp_path / "x", name="y").name == "y"

    def test_urls(self, bucket):
        put(f"{bucket}/folder/data.bin", b"remote")
        file = toil.import_file(f"{bucket}/folder/data.bin")
        assert (file.name, file.read_bytes()) == ("data.bin", b"remote")

    def test_chained_urls(self, bucket):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("inside.txt", "packed")
        put(f"{bucket}/a.zip", archive.getvalue())
        file = toil.import_file(f"zip://inside.txt::{bucket}/a.zip")
        assert (file.name, file.read_text()) == ("inside.txt", "packed")

    @pytest.mark.parametrize("url", ["data:text/plain;base64,aGVsbG8=", "data:,hello"])
    def test_data_urls(self, url):
        file = toil.import_file(url, name="greeting.txt")
        assert (file.name, file.read_text()) == ("greeting.txt", "hello")

    def test_web_pages(self, tmp_path):
        pytest.importorskip("aiohttp")
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "a b.txt").write_text("from the web")
        with serving(tmp_path / "site") as url:
            file = toil.import_file(f"{url}/a%20b.txt")
            with pytest.raises(toil.InputError, match=r"gone\.txt"):
                toil.import_file(f"{url}/gone.txt")
        assert (file.name, file.read_text()) == ("a b.txt", "from the web")

    def test_a_missing_driver_is_named_with_the_package_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "s3fs", None)
        monkeypatch.delitem(drivers, "s3", raising=False)  # where another test has used it
        with pytest.raises(toil.InputError, match=r"Install toilfn\[s3\]"):
            toil.import_file("s3://bucket/x")

    @pytest.mark.parametrize("link", ["hard", "symlink"])
    @pytest.mark.parametrize("checksum", [False, True])
    def test_links(self, tmp_path, session, link, checksum):
        source = tmp_path / "large.bin"
        source.write_bytes(b"large")
        file = toil.import_file(source, link=link, checksum=checksum)
        stored = session.store.objects.local_path(file.id)
        assert stored.samefile(source)
        assert stored.is_symlink() == (link == "symlink")
        assert os.access(source, os.W_OK)
        assert file.path().read_bytes() == file.read_bytes() == b"large"
        assert file.path("mine", mutable=True).read_bytes() == b"large"
        assert not (session.temp_dir() / "mine").samefile(source)
        assert (len(file.checksum) == 32) == checksum
        source.write_bytes(b"LARGE")
        with pytest.raises(toil.CorruptObjectError, match=r"'large\.bin', linked from .*large\.bin"):
            file.read_bytes()
        with pytest.raises(toil.CorruptObjectError, match=r"large\.bin"):
            toil.export(file, tmp_path / "out")

    def test_a_linked_file_is_read_where_it_is(self, tmp_path):
        source = tmp_path / "large.bin"
        source.write_bytes(b"large")
        assert toil.import_file(source, link="symlink").path().samefile(source)

    @pytest.mark.parametrize("way", ["path", "read", "export"])
    @pytest.mark.parametrize("fate", ["gone", "replaced", "longer", "written to", "touched"])
    def test_a_linked_source_that_does_not_stay_is_named(self, tmp_path, fate, way):
        source = tmp_path / "large.bin"
        source.write_bytes(b"large")
        file = toil.import_file(source, link="symlink")
        state = source.stat()
        if fate == "replaced":
            (tmp_path / "other").write_bytes(b"LARGE")
            os.utime(tmp_path / "other", ns=(state.st_atime_ns, state.st_mtime_ns))
            (tmp_path / "other").replace(source)
        elif fate == "gone":
            source.unlink()
        elif fate == "touched":
            os.utime(source, ns=(1, 1))
        else:
            source.write_bytes(b"larger" if fate == "longer" else b"LARGE")
        told = {
            "gone": "is gone", "replaced": "was replaced by another file", "longer": "has 6 bytes instead of 5",
            "written to": "was changed after it was linked", "touched": "was changed after it was linked",
        }  # fmt: skip
        ways = {
            "path": file.path, "read": file.read_bytes, "export": lambda: toil.export(file, tmp_path / "out"),
        }  # fmt: skip
        with pytest.raises(toil.CorruptObjectError, match=rf"{re.escape(str(source))}.*{told[fate]}"):
            ways[way]()
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("link", ["hard", "symlink"])
    def test_a_checksum_finds_a_change_whose_time_was_set_back(self, tmp_path, monkeypatch, link):
        monkeypatch.setattr("toilfn.files.digests._RECENT", 0)
        source = tmp_path / "large.bin"
        source.write_bytes(bytes(2**21))
        file = toil.import_file(source, link=link, checksum=True)
        state = source.stat()
        toil.export(file, tmp_path / "before")
        source.write_bytes(b"x" * 2**21)
        os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns))
        for attempt in (file.read_bytes, file.path, lambda: toil.export(file, tmp_path / "after")):
            with pytest.raises(toil.CorruptObjectError, match="was altered"):
                attempt()

    @pytest.mark.parametrize("link", ["hard", "symlink"])
    def test_links_that_tasks_get_do_not_count_as_a_change(self, tmp_path, link):
        source = tmp_path / "large.bin"
        source.write_bytes(b"large")
        file = toil.import_file(source, link=link)
        for name in ("first", "second"):
            changed = source.stat().st_ctime_ns
            assert file.path(name).samefile(source)
            assert source.stat().st_ctime_ns > changed

    def test_a_source_of_hard_links_may_go(self, tmp_path):
        source = tmp_path / "large.bin"
        source.write_bytes(b"large")
        file = toil.import_file(source, link="hard")
        source.unlink()
        source.write_bytes(b"other")
        assert file.read_bytes() == b"large"

    def test_a_change_while_a_linked_file_is_read_is_noticed(self, tmp_path):
        source = tmp_path / "large.bin"
        source.write_bytes(bytes(5_000_000))
        with toil.import_file(source, link="symlink").open() as stream:
            stream.read(1000)
            with source.open("r+b") as other:
                other.seek(4_000_000)
                other.write(b"x")
            with pytest.raises(toil.CorruptObjectError, match="was changed after it was linked"):
                stream.read()

    def test_a_link_takes_no_time_and_no_room_whatever_the_size(self, tmp_path, session):
        source = tmp_path / "sparse.bin"
        with source.open("wb") as stream:
            stream.truncate(50 * 10**9)
        file = toil.import_file(source, link="symlink")
        assert file.size == 50 * 10**9
        assert file.path().stat().st_blocks == source.stat().st_blocks

    def test_a_reflink_is_a_copy_where_there_are_none(self, tmp_path, session):
        source = tmp_path / "x"
        source.write_bytes(b"content")
        file = toil.import_file(source, link="reflink")
        source.write_bytes(b"CONTENT")
        assert file.read_bytes() == b"content"

    def test_an_encrypted_store_has_copies(self, tmp_path):
        pytest.importorskip("cryptography")
        (tmp_path / "x").write_bytes(b"x")
        store = open_store(tmp_path / "encrypted", encryption_key="00" * 32)
        with TaskFiles(store, lambda: tmp_path):
            file = toil.import_file(tmp_path / "x", link="symlink")
            (tmp_path / "x").write_bytes(b"y")
            assert file.read_bytes() == b"x"

    def test_links_that_cannot_be_made_are_copies(self, tmp_path):
        (tmp_path / "x").write_bytes(b"x")
        store = open_store(f"memory://{uuid.uuid4().hex}", create=True)
        with TaskFiles(store, lambda: tmp_path / "temp"):
            assert toil.import_file(tmp_path / "x", link="hard").read_bytes() == b"x"
        store.destroy()

    def test_unknown_ways_to_link(self, tmp_path):
        with pytest.raises(toil.InputError, match=r"'soft'.*choose from copy, reflink, hard, symlink and reference"):
            toil.import_file(tmp_path, link="soft")

    def test_globs(self, tmp_path, bucket):
        for name in ("b.txt", "a.txt", "c.bin", "sub/d.txt"):
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / name).write_text(name)
            put(f"{bucket}/{name}", name.encode())
        for place in (tmp_path / "data", bucket):
            assert [file.read_text() for file in toil.import_files(f"{place}/*.txt")] == ["a.txt", "b.txt"]
            assert [file.name for file in toil.import_files(f"{place}/**/*.txt")] == ["a.txt", "b.txt", "d.txt"]
            with pytest.raises(toil.InputError, match=r"no file matches .*\*\.gone"):
                toil.import_files(f"{place}/*.gone")

    def test_a_missing_source_is_named(self, tmp_path, bucket):
        for source in (tmp_path / "gone.txt", f"{bucket}/gone.txt"):
            with pytest.raises(toil.InputError, match=r"gone\.txt"):
                toil.import_file(source)

    def test_directories_are_refused(self, tmp_path, bucket):
        put(f"{bucket}/folder/x", b"")
        for source in (tmp_path, f"{bucket}/folder"):
            with pytest.raises(toil.InputError, match="is a directory"):
                toil.import_file(source)

    def test_unknown_schemes_are_named(self):
        with pytest.raises(toil.InputError, match=r"nosuch://host/x.*nosuch"):
            toil.import_file("nosuch://user:secret@host/x?signature=secret")


@pytest.mark.usefixtures("session")
class TestExport:
    @pytest.mark.parametrize("name", NAMES)
    def test_paths_of_any_name(self, tmp_path, name):
        file = made(b"content")
        for target in (tmp_path / "path" / name, (tmp_path / "url" / name).as_uri()):
            toil.export(file, target)
        assert (tmp_path / "path" / name).read_bytes() == (tmp_path / "url" / name).read_bytes() == b"content"

    def test_relative_paths_and_the_answer(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert toil.export(made(b"x"), "out.txt") == str(tmp_path / "out.txt")
        assert Path("out.txt").read_bytes() == b"x"

    def test_into_directories(self, tmp_path, bucket):
        assert toil.export(made(b"x"), tmp_path) == str(tmp_path / "made.txt")
        assert toil.export(made(b"x"), f"{tmp_path}/new/") == f"{tmp_path}/new/made.txt"
        assert toil.export(made(b"x"), f"{bucket}/") == f"{bucket}/made.txt"

    def test_rights_are_the_users_ordinary_ones(self, tmp_path, session):
        tool = session.temp_dir() / "tool"
        tool.touch(mode=0o700)
        old = os.umask(0o027)
        try:
            toil.export(made(b"x"), tmp_path / "data")
            toil.export(session.adopt(tool), tmp_path / "tool")
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o640
        assert stat.S_IMODE((tmp_path / "tool").stat().st_mode) == 0o750

    def test_replaces_whole_or_not_at_all(self, tmp_path, session):
        target = tmp_path / "out" / "x"
        toil.export(made(b"old"), target)
        broken = made(b"new")
        session.store.objects.delete([broken.id])
        with pytest.raises(toil.CorruptObjectError):
            toil.export(broken, target)
        assert target.read_bytes() == b"old"
        assert list(target.parent.iterdir()) == [target]

    def test_an_equal_file_that_exists_is_left_alone(self, tmp_path):
        file = made(b"same")
        toil.export(file, tmp_path / "x")
        before = (tmp_path / "x").stat()
        toil.export(file, tmp_path / "x")
        after = (tmp_path / "x").stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)

    def test_same_size_other_content_is_replaced(self, tmp_path):
        (tmp_path / "x").write_bytes(b"1234")
        toil.export(made(b"5678"), tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == b"5678"

    def test_urls(self, bucket):
        assert toil.export(made(b"remote"), f"{bucket}/new/folder/x") == f"{bucket}/new/folder/x"
        assert get(f"{bucket}/new/folder/x") == b"remote"

    def test_devices_stay_devices(self):
        toil.export(made(b"x"), "/dev/null")
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)

    def test_by_moving(self, tmp_path, session):
        file = made(b"moved")
        stored = session.store.objects.local_path(file.id)
        inode = stored.stat().st_ino
        for _ in range(2):
            toil.export(file, tmp_path / "out", move=True)
        assert (tmp_path / "out").stat().st_ino == inode
        assert os.access(tmp_path / "out", os.W_OK)
        assert stored.is_symlink()
        assert file.read_bytes() == file.path().read_bytes() == b"moved"
        session.store.objects.delete([file.id])
        assert (tmp_path / "out").read_bytes() == b"moved"

    def test_a_moved_file_that_is_gone_is_named(self, tmp_path):
        file = made(b"moved")
        toil.export(file, tmp_path / "out", move=True)
        (tmp_path / "out").unlink()
        with pytest.raises(toil.CorruptObjectError, match=re.escape(f"is a link to {tmp_path / 'out'}, which is gone")):
            file.read_bytes()

    @pytest.mark.parametrize("link", ["hard", "symlink"])
    def test_a_file_of_the_user_is_never_moved(self, tmp_path, link):
        source = tmp_path / "mine"
        source.write_bytes(b"mine")
        file = toil.import_file(source, link=link)
        toil.export(file, tmp_path / "out", move=True)
        (tmp_path / "out").write_bytes(b"changed")
        assert source.read_bytes() == file.read_bytes() == b"mine"

    def test_by_moving_to_another_place_than_this_machine(self, bucket):
        file = made(b"copied")
        toil.export(file, f"{bucket}/x", move=True)
        assert get(f"{bucket}/x") == file.read_bytes() == b"copied"

    def test_only_files(self, tmp_path):
        with pytest.raises(toil.InputError, match="str"):
            toil.export("text", tmp_path / "x")


def test_messages_tell_no_secrets():
    assert transfer.shown("https://me:pass@host/a/b?X-Signature=1") == "https://host/a/b"
    assert transfer.shown("/plain/@path?") == "/plain/@path?"
    assert transfer.shown("data:text/plain,secret") == "data:text/plain,..."


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/b%20c.txt?x=/y", "b c.txt"),
        ("s3://bucket/a/b%20c.txt", "b%20c.txt"),
        ("zip://in/side.txt::https://host/a.zip", "side.txt"),
        ("https://host", "file"),
        ("/a/b", "b"),
    ],
)
def test_names_of_urls(url, name):
    assert transfer.name_of(url) == name


def test_fingerprints_follow_the_content(tmp_path, bucket):
    for url in (str(tmp_path / "x"), f"{bucket}/x"):
        assert transfer.fingerprint(url) is None
        put(url, b"1")
        first = transfer.fingerprint(url)
        assert first == transfer.fingerprint(url) is not None
        put(url, b"22")
        assert transfer.fingerprint(url) != first


@pytest.mark.usefixtures("session")
def test_google_storage(gcs_server, monkeypatch):
    """Folders, too, and what is not there is named."""
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "project": "tests"})
    place = f"gs://transfer-{uuid.uuid4().hex}"
    system, bucket = fsspec.core.url_to_fs(place)
    system.mkdir(bucket)
    data = bytes(range(256)) * 2000
    assert toil.export(made(data), f"{place}/a folder/") == f"{place}/a folder/made.txt"
    assert get(f"{place}/a folder/made.txt") == data
    file = toil.import_file(f"{place}/a folder/made.txt")
    assert (file.name, file.read_bytes()) == ("made.txt", data)
    put(f"{place}/a folder/deep/b#c.txt", b"deep")
    folder = toil.import_directory(f"{place}/a folder")
    assert folder["deep/b#c.txt"].read_bytes() == b"deep"
    with pytest.raises(toil.InputError, match=r"gone\.txt"):
        toil.import_file(f"{place}/gone.txt")
