"""A stand-in for the metadata that clouds show inside each machine: strict about the form of requests."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Metadata(http.server.ThreadingHTTPServer):
    """The metadata addresses of both clouds; `take_away` announces an interruption."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.is_taken = False
        self.tokens: list[str] = []
        self.questions = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take_away(self) -> None:
        """Announce the end of the machine."""
        self.is_taken = True

    def withdraw(self) -> None:
        """Withdraw the announcement."""
        self.is_taken = False

    def expire_tokens(self) -> None:
        """Refuse all tokens issued so far."""
        self.tokens.clear()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Metadata

    def log_message(self, *_: object) -> None: ...

    def do_PUT(self) -> None:
        lifetime = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not lifetime.isdigit() or not 1 <= int(lifetime) <= 21600:
            return self._answer(400, "Bad Request")
        self.server.tokens.append(f"token-{self.server.questions}")
        return self._answer(200, self.server.tokens[-1])

    def do_GET(self) -> None:
        self.server.questions += 1
        if self.path == "/latest/meta-data/spot/instance-action":
            if self.headers.get("X-aws-ec2-metadata-token") not in self.server.tokens:
                return self._answer(401, "Unauthorized")
            if not self.server.is_taken:
                return self._answer(404, "Not Found")
            return self._answer(200, json.dumps({"action": "terminate", "time": "2026-11-30T12:00:00Z"}))
        if self.path == "/computeMetadata/v1/instance/preempted":
            if self.headers.get("Metadata-Flavor") != "Google":
                return self._answer(403, "Missing Metadata-Flavor:Google header.")
            return self._answer(200, "TRUE" if self.server.is_taken else "FALSE")
        return self._answer(404, "Not Found")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@contextmanager
def metadata() -> Iterator[Metadata]:
    """Yield a stand-in that answers."""
    server = Metadata()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
