"""The middleware around all handlers: it checks the user and the origin, logs changes, and answers for failures."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote, urlsplit

from toilfn.server.access import Access, DeniedError, host_of, is_loopback, session_of
from toilfn.server.answers import error, json_bytes
from toilfn.server.metrics import Traffic

__all__ = ["Guard"]

_log = logging.getLogger("toilfn.server")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox")
_SAFE = ("GET", "HEAD", "OPTIONS")
_METHODS = (*_SAFE, "POST")


class Guard:
    """An ASGI middleware that checks requests before it passes them to an application.

    Parameters
    ----------
    app : ASGI application
    access : Access
    public : collection of str
        Paths that need no credential.
    origins : collection of str
        Origins of other sites whose pages may send requests (those that CORS allows). These may not use the server's
        own pages.
    pages : str
        The path of the server's pages, without a slash at the end.
    traffic : Traffic
        Counts the requests.
    """

    def __init__(
        self, app: Any, access: Access, public: frozenset[str], origins: frozenset[str], pages: str, traffic: Traffic
    ) -> None:  # fmt: skip
        self._traffic = traffic
        self._app = app
        self._pages = pages
        self._access = access
        self._public = public
        self._origins = origins

    async def __call__(
        self, scope: Scope, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = str(scope["path"])
        scope["path"] = path.rstrip("/") or "/"
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        answer = _Answer(send)
        try:
            # Only a request for a provider's keys can take long. All other checks are fast enough for the event loop.
            if self._access.may_wait(headers.get("authorization")):
                refused = await asyncio.to_thread(self._refusal, scope, headers)
            else:
                refused = self._refusal(scope, headers)
            if refused is None:
                await self._app(scope, receive, answer.send)
            else:
                await answer.json(*refused)
        except Exception:
            _log.exception("%s %s failed", scope["method"], path)
            if answer.is_begun and not answer.is_over:
                raise  # so that the connection is closed, and the client notices that the response is incomplete
            if not answer.is_begun:
                await answer.json(500, "internal error; see the server's log", {})
        finally:
            self._traffic.add(scope["method"] if scope["method"] in _METHODS else "other", answer.status, answer.waited)
            self._audit(scope, answer.status)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, dict[str, str]] | None:
        """Return status, message and headers of the response that refuses a request; None if the request is allowed."""
        own, session = headers.get("host", ""), session_of(headers.get("cookie", ""))
        if self._access.is_open and not is_loopback(host_of(own)):
            return 403, "this server has no tokens, so it only answers requests that are addressed to this machine", {}
        origin = headers.get("origin")
        is_foreign = headers.get("sec-fetch-site") == "cross-site" if origin is None else urlsplit(origin).netloc != own
        if scope["method"] not in _SAFE and is_foreign and origin not in self._origins:
            return 403, "this request was sent by a page of another site", {}
        # A browser adds the session's cookie also to requests that another site's page sends. So a change by a session
        # is accepted only if the browser's headers say that one of our pages sent it.
        by_page = self._is_page(scope["path"]) or (session and "authorization" not in headers)
        if scope["method"] not in _SAFE and by_page and not _is_own(headers):
            return 403, "this request was not sent by a page of this server", {}
        try:
            principal = self._access.principal(headers.get("authorization"), session)
            scope.setdefault("state", {}).update(principal=principal, session=session)
        except DeniedError as denied:
            if (scope["path"] in self._public or self._is_for_all(scope["path"])) and "authorization" not in headers:
                return None
            if self._is_page(scope["path"]) and "text/html" in headers.get("accept", "") and scope["method"] == "GET":
                wanted = quote(f"{scope['path']}?{scope['query_string'].decode('latin-1')}".rstrip("?"))
                return 303, str(denied), {"location": f"{self._pages}/login?next={wanted}"}
            return 401, str(denied), {"www-authenticate": 'Bearer realm="toilfn", Basic realm="toilfn"'}
        return None

    def _is_page(self, path: str) -> bool:
        return path == self._pages or path.startswith(f"{self._pages}/")

    def _is_for_all(self, path: str) -> bool:
        return path == f"{self._pages}/login" or path.startswith(f"{self._pages}/static/")

    def _audit(self, scope: Scope, status: int) -> None:
        """Log the user of every request that changes something, or tries to."""
        if scope["method"] in _SAFE:
            return
        principal = scope.get("state", {}).get("principal")
        client = (scope.get("client") or ("?",))[0]
        _log.info(
            "audit user=%s client=%s method=%s path=%r status=%d%s",
            principal.name if principal else "-", client, scope["method"], scope["path"], status,
            "".join(f" {name}={value}" for name, value in scope.get("state", {}).get("audit", {}).items()),
        )  # fmt: skip


def _is_own(headers: dict[str, str]) -> bool:
    """Return whether the browser's headers say that one of this server's pages sent a request."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") == "same-origin"
    return urlsplit(origin).netloc == headers.get("host", "")


class _Answer:
    """Sends a response, and adds the headers that every response must have."""

    def __init__(self, send: Callable[[Message], Awaitable[None]]) -> None:
        self._send = send
        self.is_begun = self.is_over = False
        self.status = 0
        self.waited = 0.0
        self._began = time.monotonic()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_begun, self.status = True, message["status"]
            self.waited = time.monotonic() - self._began
            given = {name.lower() for name, _ in message["headers"]}
            more = [each for each in (*_HEADERS, _POLICY) if each[0] not in given]
            message["headers"] = [*message["headers"], *more]
        elif message["type"] == "http.response.body":
            self.is_over = not message.get("more_body", False)
        await self._send(message)

    async def json(self, status: int, text: str, headers: dict[str, str]) -> None:
        body = json_bytes(error(status, text))
        given = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        raw = [(name.encode(), value.encode()) for name, value in given.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})
