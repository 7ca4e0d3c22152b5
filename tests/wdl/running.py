"""Runs ``toilfn wdl`` for tests: in this process, which takes a tenth of the time, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from toilfn import cli


class Done(NamedTuple):
    """The messages of a run."""

    status: int
    stdout: str
    stderr: str


def run(words: list[str], folder: Path, *, inline: bool = True) -> Done:
    """Run ``toilfn wdl`` with arguments in a folder."""
    if not inline:
        command = [sys.executable, "-m", "toilfn", "wdl", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        return Done(done.returncode, done.stdout, done.stderr)
    return toilfn(["wdl", *words, "--cluster", "inline", "--no-progress"], folder)


def toilfn(words: list[str], folder: Path) -> Done:
    """Run ``toilfn`` in this process."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            status = cli.main(words)
    except SystemExit as exit:
        status = int(exit.code or 0)
    finally:
        os.chdir(before)
    return Done(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def served(pages: Mapping[str, str]) -> Iterator[str]:
    """Serve texts by their paths on this machine; gives the URL of them all."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            page = pages.get(self.path.lstrip("/"))
            self.send_response(404 if page is None else 200)
            content = (page or "").encode()
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
