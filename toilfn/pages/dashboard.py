"""``toilfn dashboard STORE``: a live page of a run, served to browsers on this machine only."""

from __future__ import annotations

import argparse
import secrets
import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from toilfn.cli.common import add_store, add_store_options, open_named
from toilfn.errors import InputError, ToilfnError
from toilfn.pages.routes import RunPages, statics
from toilfn.pages.run import RunView

__all__ = ["command", "configure", "make_app"]

_HEADERS = (
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"), (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = (
        "The page can be opened only by its URL, which contains a secret, since other users may share this machine."
    )
    add_store(parser)
    add_store_options(parser)
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: any free port)")
    parser.add_argument("--no-browser", action="store_true", help="only print the URL; do not open a browser")


def command(options: argparse.Namespace) -> int:
    """Serve the page until the command is interrupted.

    Raises
    ------
    InputError
        If an optional package is not installed, or the port cannot be used.
    """
    try:
        import uvicorn
    except ImportError:
        raise InputError("a dashboard needs more packages", hint="pip install 'toilfn[server]'") from None
    store = open_named(options)  # first, so that a wrong name is an error of the command, not of the page
    listening = _listen(options.port)
    port = listening.getsockname()[1]
    secret = secrets.token_urlsafe(24)
    url = f"http://127.0.0.1:{port}/?token={secret}"
    print(f"the page of {store.url}: {url}\npress Ctrl+C to stop", flush=True)
    if not options.no_browser:
        webbrowser.open(url)
    view = RunView(partial(open_named, options))
    threading.Thread(target=_read_ahead, args=(view,), daemon=True).start()
    app = make_app(view, secret, f"toilfn-{port}")
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, server_header=False,
                                           timeout_graceful_shutdown=1))  # fmt: skip
    server.run(sockets=[listening])
    return 0


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        raise InputError(
            f"port {port} cannot be used: {error}", hint="leave --port out, or choose another one"
        ) from None
    return listening


def _read_ahead(view: RunView) -> None:
    """Read the log while the browser starts. Errors are ignored: the page reads the log again, and shows them."""
    with suppress(ToilfnError):
        view.refresh()


def make_app(view: RunView, secret: str, cookie: str) -> Any:
    """Build the ASGI application.

    Parameters
    ----------
    view : RunView
        The run.
    secret : str
        The secret that the URL of the first request must contain. The answer sets a cookie with it.
    cookie : str
        The cookie's name.
    """
    from starlette.applications import Starlette

    pages = RunPages(lambda _: view, lambda _: "", "/static", "/", kill=lambda _: view.store.set_flag("kill"))
    return _Guard(Starlette(routes=[*statics(""), *pages.routes("")]), secret, cookie)


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]


class _Guard:
    """Refuses requests without the secret, and those whose Host header is not this machine (DNS rebinding)."""

    def __init__(self, app: Any, secret: str, cookie: str) -> None:
        self._app = app
        self._secret = secret
        self._cookie = cookie

    async def __call__(
        self, scope: Scope, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Check a request, and pass it on to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = urlsplit(f"//{headers.get('host', '')}").hostname
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if host not in ("127.0.0.1", "localhost"):
            await self._answer(send, 403, b"this page answers to requests to this machine only\n")
        elif scope["path"] == "/" and secrets.compare_digest(given.encode(), self._secret.encode()):
            cookie = f"{self._cookie}={self._secret}; HttpOnly; SameSite=Strict; Path=/"
            await self._answer(send, 303, b"", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
        elif not self._knows(headers.get("cookie", "")):
            await self._answer(send, 401, b"open the page by the URL that 'toilfn dashboard' has printed\n")
        else:
            await self._app(scope, receive, partial(_with_headers, send))

    def _knows(self, cookies: str) -> bool:
        pairs = (each.strip().partition("=") for each in cookies.split(";"))
        return any(
            name == self._cookie and secrets.compare_digest(value.encode(), self._secret.encode())
            for name, _, value in pairs
        )

    async def _answer(
        self, send: Callable[[Message], Awaitable[None]], status: int, body: bytes,
        more: list[tuple[bytes, bytes]] | None = None,
    ) -> None:  # fmt: skip
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"), *(more or [])]
        await _with_headers(send, {"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _with_headers(send: Callable[[Message], Awaitable[None]], message: Message) -> None:
    if message["type"] == "http.response.start":
        message["headers"] = [*message["headers"], *_HEADERS]
    await send(message)
