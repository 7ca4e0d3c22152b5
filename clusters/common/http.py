"""Asking services over HTTP that speak JSON, and telling a refusal from a service that is briefly away."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.message import Message
from http.client import HTTPException
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

from toilfn.clusters.common.commands import AwayError, CredentialsError
from toilfn.errors import ClusterError, InputError

__all__ = ["JsonService", "RefusedError", "refusal"]

_AWAY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that say: try again later."""


class Answer(Protocol):
    """The part of the standard library's response that is used here."""

    @property
    def headers(self) -> Message:
        """The header fields."""

    def read(self, n: int, /) -> bytes:
        """Read at most `n` bytes of the body."""


class RefusedError(ClusterError):
    """The service answered, and will not do it.

    Attributes
    ----------
    status : int
        The HTTP status.
    location : str
        Where a redirection leads, else empty.
    """

    def __init__(self, message: str, status: int, location: str = "", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.location = location


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """A redirection is an error: credentials never follow it to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class JsonService:
    """One service.

    Parameters
    ----------
    name : str
        What to call it in errors, such as ``"the TES server"``.
    url : str
        Base of all paths; http or https, without user and password.
    headers : callable, optional
        Returns what is sent with each request, such as credentials. They are in no message.
    hint : str, optional
        What to do when the service does not accept the credentials; without it, they are not expected to expire.
    timeout : float, optional
        Seconds after which a request counts as not answered.

    Raises
    ------
    InputError
        If the URL is of another kind.
    """

    def __init__(
        self,
        name: str,
        url: str,
        headers: Callable[[], Mapping[str, str]] = dict,
        hint: str = "",
        timeout: float = 20.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            where = url if "@" not in url else "the URL with a user name in it"
            raise InputError(
                f"invalid URL for {name}: {where}",
                hint="write http://HOST:PORT or https://HOST, without user, password or query",
            )
        self.name = name
        self.url = url.rstrip("/")
        self._headers = headers
        self._hint = hint
        self._timeout = timeout
        self._opener = urllib.request.build_opener(_NoRedirection)

    def get(self, path: str, **query: Any) -> Any:
        """Ask; the parameters are `post`'s, those of the query may be lists."""
        return self._ask("GET", f"{path}?{urlencode(query, doseq=True)}" if query else path, None)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        """Send an object and return the one that comes back; None when nothing does.

        Raises
        ------
        AwayError
            If there is no answer, or one that says to try again later, perhaps with other credentials.
        RefusedError
            If the service will not do it; carries its own words.
        """
        return self._ask("POST", path, body, headers)

    def _ask(self, method: str, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        given = {"Accept": "application/json", **self._headers()}
        all_headers = {**given, **({"Content-Type": "application/json"} if data else {}), **(headers or {})}
        request = urllib.request.Request(self.url + path, data, all_headers, method=method)  # noqa: S310 - checked above
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return self._read(path, response.read())
        except urllib.error.HTTPError as error:
            with error:
                raise refusal(self.name, self.url + path, error.code, error.reason, error, self._hint) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise AwayError(f"{self.name} at {self.url} does not respond: {reason}") from None

    def _read(self, path: str, text: bytes) -> Any:
        try:
            return json.loads(text) if text.strip() else None
        except ValueError:
            raise ClusterError(f"{self.name} returned invalid JSON for {path}: {text[:200]!r}") from None


def refusal(name: str, where: str, status: int, reason: str, answer: Answer, hint: str = "") -> ClusterError:
    """Judge an answer that is not a success.

    Returns
    -------
    ClusterError
        A `CredentialsError` if the service does not accept the credentials, an `AwayError` if it may do later what it
        does not do now, else a `RefusedError`.
    """
    try:
        said = answer.read(2000).decode(errors="replace").strip()
    except (OSError, HTTPException):
        said = ""
    message = f"{name} at {where} answered {status} {reason}: {said}".rstrip(" .:")
    if status in _AWAY:
        return AwayError(message)
    advice = hint if hint and status in (401, 403) else None
    if advice and status == 401:
        return CredentialsError(message, hint=advice)
    return RefusedError(message, status, answer.headers.get("Location", ""), hint=advice)
