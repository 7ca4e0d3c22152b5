"""A server that forwards HTTP requests to another one; subclasses alter them."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "content-length"}


class Request(NamedTuple):
    """A request of a client."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes


class Answer(NamedTuple):
    """The answer to a client."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    cut: int | None = None
    """Close the connection after this number of bytes of the body, if given; -1 for before the answer begins."""


class Relay(ThreadingHTTPServer):
    """A relay on loopback. Requests and answers are kept whole in memory.

    Parameters
    ----------
    upstream : int
        The port of the server behind.
    port : int
        Where to listen; 0 for any.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: int, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.upstream = upstream

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, request: Request) -> Answer:
        """Return the answer to a client."""
        return self.ask(request)

    def ask(self, request: Request) -> Answer:
        """Send a request to the server behind the relay."""
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                if name.lower() not in HOP_BY_HOP and name.lower() != "expect":
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body)
            found = connection.getresponse()
            headers = [(name, value) for name, value in found.getheaders() if name.lower() not in HOP_BY_HOP]
            length = found.getheader("Content-Length")
            body = found.read()
            if request.method == "HEAD" and length is not None:
                headers.append(("Content-Length", length))
            return Answer(found.status, headers, body)
        finally:
            connection.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[Relay]:
        """Serve in a thread of this process."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def handle_error(self, *about: object) -> None:
        """Print nothing about clients that close the connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            traceback.print_exc()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Relay

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        request = Request(self.command, self.path, list(self.headers.items()), self._body())
        self._tell(request, self.server.answer(request))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _tell(self, request: Request, answer: Answer) -> None:
        if answer.cut == -1:
            self._hang_up()
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if request.method != "HEAD":
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if request.method != "HEAD":
            self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])
        if answer.cut is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
