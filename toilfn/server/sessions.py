"""Sessions of browsers: a user logs in by a token for some hours. The browser gets an id, the place its hash."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from typing import Any, NamedTuple

from toilfn.server.records import Place
from toilfn.stores import MissingObjectError

__all__ = ["COOKIE", "LIFETIME", "Session", "Sessions", "session_of"]

COOKIE = "toilfn-session"
LIFETIME = 12 * 3600
"""Seconds after which a user logs in again."""
_FRESH = 5.0
"""Seconds for which what the place says is remembered."""
_MOST = 10_000
"""Sessions that are remembered."""


class Session(NamedTuple):
    """A session that was found."""

    user: str
    token_hash: str
    """Of the token that opened it: the session ends when the token is removed or replaced."""
    issuer: str = ""
    """Of that token, if it was a JWT of a provider."""
    is_operator: bool = False
    """Whether the provider said that the user is one."""
    until: float = float("inf")
    """The end of that token, in seconds since the epoch."""


class Sessions:
    """The sessions of a place: ``sessions/HASH``. Servers that share the place share them.

    Parameters
    ----------
    place : Place
    """

    def __init__(self, place: Place) -> None:
        self._objects = place.store.objects
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, dict[str, Any] | None]] = {}

    def open(self, session: Session) -> str:
        """Write down a session, and return its id."""
        id = secrets.token_urlsafe(32)
        content = {**session._asdict(), "until": min(session.until, time.time() + LIFETIME)}
        self._objects.put(_name(id), json.dumps(content).encode())
        return id

    def find(self, id: str) -> Session | None:
        """Return a session that has not ended; None if there is none of this id."""
        name, now = _name(id), time.monotonic()
        with self._lock:
            moment, content = self._known.get(name, (float("-inf"), None))
        if now - moment > _FRESH:
            content = self._read(name)
            with self._lock:
                if len(self._known) >= _MOST:
                    self._known.clear()
                self._known[name] = now, content
        if content is None or content["until"] < time.time():
            return None
        return Session(**content)

    def close(self, id: str) -> None:
        """End a session."""
        name = _name(id)
        self._objects.delete([name])
        with self._lock:
            self._known.pop(name, None)

    def sweep(self) -> None:
        """Remove the sessions that are over."""
        for name in list(self._objects.list("sessions/")):
            content = self._read(name)
            if content is not None and content["until"] < time.time():
                self._objects.delete([name])

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._objects.get(name)))
        except MissingObjectError:
            return None


def _name(id: str) -> str:
    return f"sessions/{hashlib.sha256(id.encode(errors='replace')).hexdigest()}"


def session_of(cookies: str) -> str:
    """Return the id of the session that a request's cookies name; empty if they name none."""
    pairs = (each.strip().partition("=") for each in cookies.split(";"))
    return next((value for name, _, value in pairs if name == COOKIE), "")
