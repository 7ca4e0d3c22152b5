"""Runs a command of Python many times without importing its modules each time: a process that has them forks.

``python -m tests.forked PLACE toilfn.cwl toilfn.cwl.runner`` imports the second module, and listens at a socket;
``python -SI tests/forked.py PLACE WORD...`` then runs the first one as ``python -m toilfn.cwl WORD...`` would, with its
own arguments, variables, directory, standard streams and exit status. Importing takes half of a short run of CWL.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def ask(place: str, words: list[str], variables: dict[str, str], folder: str, streams: tuple[int, int, int]) -> int:
    """Run the command in a fork of the process that listens; return its exit status, or minus its signal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        connection.connect(place)
        request = json.dumps([words, variables, folder]).encode()
        connection.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))])
        answer = connection.recv(100)
    if not answer:
        raise ConnectionError(f"the process at {place} has ended")
    return int(answer)


class Forks:
    """Listens, forks, and tells who asked how the child ended; a child ends with the one who asked for it."""

    def __init__(self, place: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(place)
        self._listener.listen(64)
        self._children: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor that tells of its end

    def child(self) -> tuple[list[str], dict[str, str], str]:
        """Serve until this is a new child; return what it shall do."""
        while True:
            poll = select.poll()
            poll.register(self._listener, select.POLLIN)
            for descriptor, (_, connection) in self._children.items():
                poll.register(descriptor, select.POLLIN)
                poll.register(connection, select.POLLHUP)
            ready = {descriptor for descriptor, _ in poll.poll()}
            for descriptor, (process, connection) in list(self._children.items()):
                if descriptor in ready:
                    self._ended(descriptor)
                elif connection.fileno() in ready:
                    os.kill(process, 15)
            if self._listener.fileno() in ready and (request := self._forked()):
                return request

    def _ended(self, descriptor: int) -> None:
        process, connection = self._children.pop(descriptor)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        os.close(descriptor)
        with connection:
            try:
                connection.send(str(status).encode())
            except OSError:
                return  # it did not wait

    def _forked(self) -> tuple[list[str], dict[str, str], str] | None:
        connection, _ = self._listener.accept()
        data, control, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(3 * array.array("i").itemsize))
        streams = array.array("i")
        for _, _, descriptors in control:
            streams.frombytes(descriptors)
        process = os.fork()
        if not process:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
        for stream in streams:
            os.close(stream)
        if process:
            self._children[os.pidfd_open(process)] = (process, connection)
            return None
        for descriptor, (_, other) in self._children.items():
            os.close(descriptor)
            other.close()
        connection.close()
        self._listener.close()
        request: tuple[list[str], dict[str, str], str] = tuple(json.loads(data))
        return request


def serve(place: str, module: str, *imported: str) -> None:
    """Import modules, and run the first one in a child for each that asks."""
    import importlib
    import runpy

    for name in imported:
        importlib.import_module(name)
    forks = Forks(place)
    print("ready", flush=True)
    words, variables, folder = forks.child()
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@contextmanager
def forks_of(place: Path, *modules: str) -> Iterator[list[str]]:
    """Start the process that forks; gives the command to be run instead of ``python -m MODULE``."""
    command = [sys.executable, "-m", "tests.forked", str(place), *modules]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield [sys.executable, "-SI", __file__, str(place)]
        finally:
            process.terminate()


def main(place: str, *words: str) -> Any:
    """Be the command."""
    status = ask(place, list(words), dict(os.environ), os.getcwd(), (0, 1, 2))
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    if __spec__:  # by its name, with ``-m``
        serve(*sys.argv[1:])
    else:
        sys.exit(main(*sys.argv[1:]))
