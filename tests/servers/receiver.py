"""A server that keeps the requests that it is sent, as a collector of traces or of lineage would."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Received(NamedTuple):
    """A request that a client sent."""

    path: str
    headers: dict[str, str]
    """The headers, by their names in lower case."""
    body: bytes


class Receiver(ThreadingHTTPServer):
    """A server that listens on loopback and answers every POST with the same status.

    Attributes
    ----------
    status : int
    location : str
        Where redirects lead.
    received : list of Received
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.location = ""
        self.received: list[Received] = []

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.received.append(Received(self.path, headers, body))
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.received.append(Received(self.path, dict(self.headers), b""))
        self.send_error(405)

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """Run such a server until the end of the block."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
