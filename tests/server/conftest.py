from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.wes import Client, Server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers on one place, with options; their runs end with the test."""
    started: list[Server] = []

    def begin(*options: str, place: str | Path = tmp_path / "place") -> Server:
        started.append(Server(place, *options, log=tmp_path / f"server{len(started)}.log"))
        return started[-1].start()

    yield begin
    for server in started[:1]:
        server.end()
    for server in started[1:]:
        server.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of a module."""
    folder = tmp_path_factory.mktemp("server")
    allowed = folder / "allowed"
    allowed.mkdir()
    server = Server(folder / "place", f"--allow-folder={allowed}", "--max-runs=2", log=folder / "server.log").start()
    yield server
    server.end()


@pytest.fixture
def client(server: Server) -> Client:
    return server.client()
