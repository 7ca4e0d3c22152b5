"""A small OpenID Connect provider: its configuration, its keys, which a test can replace, and tokens that it signs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

__all__ = ["Issuer", "issuing"]


class Issuer:
    """A provider on a port of this machine.

    Attributes
    ----------
    url : str
    keys : list
        Those that it publishes; the last one signs.
    asked : list of str
        The paths of all requests.
    name : str
        The issuer that its configuration names; by default its URL.
    """

    def __init__(self, port: int) -> None:
        self.url = self.name = f"http://127.0.0.1:{port}"
        self.keys = [RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})]
        self.asked: list[str] = []

    def rotate(self, name: str = "second") -> None:
        """Sign with a new key from now on, and publish it alone."""
        self.keys = [ECKey.generate_key("P-256", {"kid": name})]

    def answer(self, path: str) -> Any:
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.name, "jwks_uri": f"{self.url}/keys"}
        return KeySet(self.keys).as_dict(private=False) if path == "/keys" else None

    def token(self, key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Sign a token for ann; claims that are None are left out."""
        now = int(time.time())
        given = {"iss": self.url, "aud": "toilfn", "sub": "ann", "iat": now, "exp": now + 600} | claims
        key = key or self.keys[-1]
        default = {"alg": "RS256" if key.key_type == "RSA" else "ES256", "kid": key.kid}
        whole = {name: value for name, value in given.items() if value is not None}
        return jwt.encode(default | (header or {}), whole, key)


@contextmanager
def issuing() -> Iterator[Issuer]:
    """Run a provider."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = issuer.answer(self.path)
            body = json.dumps(found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = Issuer(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()
