"""Places that do not answer, or answer with what no caller expects."""

from __future__ import annotations

import socket

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from toilfn.errors import InputError
from toilfn.files import transfer


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
    assert transfer.state_of_target(silent) is None


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
    assert not transfer.holds("oddtest://a/x", 1, "00")
