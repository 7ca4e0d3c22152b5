"""Servers are shared by test processes and persons, and outlive neither their daemons nor the machine's sessions."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.servers.machine import BY_HAND, Server, alive, end_process, start_daemon, unmount


class Sleeper(Server):
    """A daemon that does nothing."""

    name = "sleeper"
    packages = ()
    commands = ("sleep",)

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder / "servers" / self.name

    @property
    def environment(self) -> dict[str, str]:
        return {}

    def configure(self) -> None:
        (self.folder / "configured").touch()

    def start(self) -> None:
        start_daemon(self.folder, "sleep", "sleep", "300")

    def stop(self) -> None:
        end_process(self.folder / "sleep.pid")


@pytest.fixture
def sleeper(tmp_path: Path) -> Sleeper:
    return Sleeper(tmp_path)


def pid(server: Server) -> str:
    return (server.folder / "sleep.pid").read_text()


def test_the_last_user_stops_it(sleeper: Sleeper) -> None:
    sleeper.acquire(BY_HAND)
    first = pid(sleeper)
    sleeper.acquire(str(os.getpid()))
    assert pid(sleeper) == first
    sleeper.release(BY_HAND)
    assert alive(sleeper.folder / "sleep.pid")
    sleeper.release(str(os.getpid()))
    assert not alive(sleeper.folder / "sleep.pid")


def test_the_use_of_a_server_by_hand_ends_with_its_daemon(sleeper: Sleeper) -> None:
    sleeper.acquire(BY_HAND)
    end_process(sleeper.folder / "sleep.pid")
    sleeper.acquire(str(os.getpid()))
    assert alive(sleeper.folder / "sleep.pid")
    sleeper.release(str(os.getpid()))
    assert not alive(sleeper.folder / "sleep.pid")


def test_a_process_that_got_the_number_of_a_killed_one_is_not_a_user(sleeper: Sleeper) -> None:
    users = sleeper.folder / "users"
    users.mkdir(parents=True)
    (users / str(os.getpid())).write_text(str(os.getpid()))
    os.utime(users / str(os.getpid()), (0, 0))  # before this process began
    (users / "1234").touch()  # what such a process leaves if it is killed at once
    sleeper.acquire(BY_HAND)
    assert alive(sleeper.folder / "sleep.pid")
    sleeper.release(BY_HAND)
    assert not alive(sleeper.folder / "sleep.pid")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_a_folder_that_a_killed_daemon_left_mounted_is_cleared(sleeper: Sleeper) -> None:
    (sleeper.folder / "data-root" / "below").mkdir(parents=True)
    for place in (sleeper.folder / "data-root", sleeper.folder / "data-root" / "below"):
        subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    try:
        sleeper.acquire(str(os.getpid()))
        assert not (sleeper.folder / "data-root").exists()
        sleeper.release(str(os.getpid()))
    finally:
        unmount(sleeper.folder)
