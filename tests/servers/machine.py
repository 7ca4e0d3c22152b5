"""The common part of all real servers of the tests: one of each on a machine, started by its first user.

A server's folder holds a lock and one file for each process that uses it. The last one to leave stops it, so
parallel test processes share one server, and `python -m tests.servers.slurm start` keeps one up by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

import psutil
import pytest

BY_HAND = "by-hand"


S = TypeVar("S", bound="Server")


class ServerMissingError(Exception):
    """The server cannot run on this machine; the message says why."""


class Server(ABC):
    """A real server on loopback.

    Attributes
    ----------
    name : str
        Also the name of its folder.
    packages : tuple of str
        Debian packages that it comes in.
    commands : tuple of str
        Programs that show that the packages are installed.
    """

    name: str
    packages: tuple[str, ...]
    commands: tuple[str, ...]

    def __init__(self) -> None:
        self.folder = Path(tempfile.gettempdir()) / f"toilfn-servers-{os.getuid()}" / self.name

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Variables that its commands need."""

    @abstractmethod
    def configure(self) -> None:
        """Write a fresh configuration into the folder."""

    @abstractmethod
    def start(self) -> None:
        """Start the daemons and return when they answer."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the daemons and return when they are gone."""

    def pid_files(self) -> Iterable[Path]:
        """Return the files that name its daemons' processes."""
        return self.folder.glob("*.pid")

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of its commands and return the output."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def acquire(self, user: str) -> None:
        """Start the server if it does not run."""
        with self._locked():
            install(self)
            users = self._users()
            if not users:
                self._clear()
                self._begin()
            (self.folder / "users").mkdir(exist_ok=True)
            (self.folder / "users" / user).write_text(user)

    def release(self, user: str) -> None:
        """Stop the server if it has no other user."""
        with self._locked():
            (self.folder / "users" / user).unlink(missing_ok=True)
            if not self._users():
                self.stop()

    @contextlib.contextmanager
    def used(self, *, alone: bool) -> Iterator[None]:
        """Keep out users who want the server alone, or all other users."""
        with (self.folder / "use.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield

    def _begin(self) -> None:
        self.configure()
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def _users(self) -> list[str]:
        """Return the users of the server: live processes, and a person as long as a daemon of the server runs."""
        found = (self.folder / "users").glob("*")
        return [path.name for path in found if (self._runs() if path.name == BY_HAND else alive(path))]

    def _runs(self) -> bool:
        return any(alive(path) for path in self.pid_files())

    def _clear(self) -> None:
        """Stop daemons that a killed test run left behind, and begin with an empty folder."""
        if self.folder.exists():
            self.stop()
            unmount(self.folder)
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.parent.mkdir(exist_ok=True, parents=True)
        with (self.folder.parent / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def install(server: Server) -> None:
    """Install a server's packages if they are missing.

    Raises
    ------
    ServerMissingError
        If that is not possible here.
    """
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if all(shutil.which(command, path=path) for command in server.commands):
        return
    if os.getuid() or not shutil.which("apt-get"):
        raise ServerMissingError(f"{server.name} is not installed, and only root on Debian can install it")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *server.packages]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerMissingError(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")


def serve(server: S) -> Iterator[S]:
    """Be the body of a session fixture: skip where the server cannot run, fail there in CI."""
    user = str(os.getpid())
    try:
        server.acquire(user)
    except ServerMissingError as error:
        missing(error)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            yield server
    finally:
        server.release(user)


def missing(error: ServerMissingError) -> NoReturn:
    """Skip the test that needs a server; in CI, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have this server: {error}")
    pytest.skip(str(error))


def cache_folder() -> Path:
    """Return the folder for files that take long to download or build: ``TOILFN_TEST_CACHE``, or one in the home."""
    folder = Path(os.environ.get("TOILFN_TEST_CACHE") or Path.home() / ".cache" / "toilfn-tests")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def debian_mirror() -> list[str]:
    """Return the address of this machine's Debian mirror; empty if apt does not know it."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Codename: bookworm"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()[:1]


def wait_for(condition: Callable[[], object], what: str, limit: float = 120.0) -> None:
    """Wait until a condition holds; if it raises, it does not hold yet."""
    end = time.monotonic() + limit
    while True:
        with contextlib.suppress(RuntimeError, OSError, subprocess.TimeoutExpired):
            if condition():
                return
        if time.monotonic() > end:
            raise RuntimeError(f"waited {limit:g} s in vain for {what}")
        time.sleep(0.1)


def start_daemon(folder: Path, name: str, *command: str, env: Mapping[str, str] | None = None) -> None:
    """Start a program that does not go to the background by itself; its log and process id are in the folder."""
    script = '"$@" > "$0" 2>&1 < /dev/null & echo $!'
    words = ["sh", "-c", script, f"{folder}/{name}.log", *command]
    root = Path(__file__).parents[2]
    started = subprocess.run(
        words, stdout=subprocess.PIPE, text=True, check=True, cwd=root, env=os.environ | (env or {}),
        start_new_session=True,
    )  # fmt: skip
    (folder / f"{name}.pid").write_text(started.stdout)


def end_process(pid_file: Path, limit: float = 20.0) -> None:
    """End the process that a file names and wait until it is gone."""
    if not alive(pid_file):
        return
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGTERM)
    try:
        wait_for(lambda: not alive(pid_file), f"process {pid} to end", limit)
    except RuntimeError:
        os.kill(pid, signal.SIGKILL)


def unmount(folder: Path) -> None:
    """Unmount what a killed daemon left mounted in a folder; Docker's mounts its data root on itself."""
    places = [Path(partition.mountpoint) for partition in psutil.disk_partitions(all=True)]
    for place in sorted((place for place in places if place.is_relative_to(folder)), reverse=True):
        subprocess.run(["umount", "--lazy", str(place)], check=False)


def alive(pid_file: Path) -> bool:
    """Return whether the process that a file names runs; one that is younger than the file has only got its number."""
    try:
        process = psutil.Process(int(pid_file.read_text()))
        is_it = process.create_time() < pid_file.stat().st_mtime + 1
        return is_it and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.NoSuchProcess):
        return False


def main(server: Server) -> None:
    """Start or stop a server by hand."""
    parser = argparse.ArgumentParser(description=f"{server.name} on loopback")
    parser.add_argument("what", choices=["start", "stop"])
    if parser.parse_args().what == "start":
        server.acquire(BY_HAND)
        print("\n".join(f"export {name}={value}" for name, value in server.environment.items()))
    else:
        server.release(BY_HAND)
