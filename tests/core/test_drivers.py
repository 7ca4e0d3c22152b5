"""Places that do not answer, or answer with what no caller expects."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from toilfn.errors import InputError
from toilfn.files import transfer, trees
from toilfn.wdl.document import _fetch
from toilfn.wdl.inputs import read_inputs


class DeniedError(Exception):
    """As drivers have them: no OSError."""


class Odd(MemoryFileSystem):
    """A file system whose driver has errors of its own."""

    protocol = "oddtest"

    def info(self, path, **named):
        raise DeniedError("no credentials")

    def put_file(self, *args, **named):
        raise DeniedError("no credentials")

    get_file = put_file


@pytest.fixture
def silent():
    """The URL of a server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/x.txt"


def test_a_place_that_does_not_answer_is_named_in_time(silent, monkeypatch, tmp_path):
    monkeypatch.setattr(transfer, "_QUESTION", 0.5)
    with pytest.raises(InputError, match=f"{silent}: no answer for"):
        transfer.fingerprint(silent)
    with pytest.raises(InputError, match=f"{silent}: no answer for"):
        transfer.fetch(silent, tmp_path / "x")
    assert trees.state_of_target(silent) is None


@pytest.fixture
def halting():
    """The URL of a server that sends a part of what it has announced, and then nothing."""

    class Halting(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", "5000000")
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(b"x" * 1000)
            self.wfile.flush()
            over.wait(60)

        def log_message(self, *_):
            pass

    over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Halting) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/x.json"
        over.set()
        server.shutdown()
        thread.join()


def test_a_place_that_stops_in_the_middle_is_named_in_time(halting, monkeypatch):
    assert fsspec.core.url_to_fs(halting)  # what takes long is loading the driver
    monkeypatch.setattr(transfer, "_QUESTION", 2.0)
    with pytest.raises(InputError, match=f"{halting}: no answer for"):
        transfer.read(halting)
    assert not transfer.holds(halting, 5_000_000, bytes(16))
    for read in (read_inputs, _fetch):
        with pytest.raises(InputError, match=f"{halting}: no answer for"):
            read(halting)


def test_errors_that_only_a_driver_has_name_the_url(tmp_path):
    fsspec.register_implementation("oddtest", Odd, clobber=True)
    (tmp_path / "x").write_text("x")
    for call in (
        lambda: transfer.fingerprint("oddtest://a/x"),
        lambda: transfer.fetch("oddtest://a/x", tmp_path / "y"),
        lambda: transfer.send(tmp_path / "x", "oddtest://a/x"),
    ):
        with pytest.raises(InputError, match="cannot reach oddtest://a/x: DeniedError: no credentials"):
            call()
    assert not transfer.holds("oddtest://a/x", 1, bytes(16))


def test_a_listing_may_take_longer_than_other_questions(monkeypatch):
    """In a bucket, it may have many pages."""
    find = MemoryFileSystem.find

    def find_slowly(*args, **named):
        time.sleep(1)
        return find(*args, **named)

    monkeypatch.setattr(MemoryFileSystem, "find", find_slowly)
    monkeypatch.setattr(transfer, "_QUESTION", 0.5)
    system = fsspec.filesystem("memory")
    system.pipe({"/long/a": b"a", "/long/deep/b": b"b"})
    try:
        assert trees.names_below("memory://long") == {"a", "deep/b"}
        assert trees.sources_below("memory://long") is None  # listed, and without ETags
        monkeypatch.setattr(transfer, "_LISTING", 0.5)
        with pytest.raises(InputError, match="memory://long: no answer for"):
            trees.fingerprint_tree("memory://long")
    finally:
        system.rm("/long", recursive=True)


def test_only_directories_are_listed():
    system = fsspec.filesystem("memory")
    system.pipe({"/listed/file": b"x"})
    system.mkdir("/listed/empty")
    try:
        trees.fingerprint_tree("memory://listed/empty")
        for name in ("file", "gone"):
            with pytest.raises(InputError, match=f"memory://listed/{name}: directory not found"):
                trees.fingerprint_tree(f"memory://listed/{name}")
    finally:
        system.rm("/listed", recursive=True)
