"""A client for JSON services over HTTP that distinguishes refusals from temporary outages."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.message import Message
from http.client import HTTPException
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

from toilfn.clusters.common.commands import CredentialsError, UnavailableError
from toilfn.errors import ClusterError, InputError

__all__ = ["JsonService", "RefusedError", "refusal"]

_AWAY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses of temporary failures."""


class Answer(Protocol):
    """The part of an HTTP response of the standard library that this module uses."""

    @property
    def headers(self) -> Message:
        """The header fields."""

    def read(self, n: int, /) -> bytes:
        """Read at most `n` bytes of the body."""


class RefusedError(ClusterError):
    """The service refused a request.

    Attributes
    ----------
    status : int
        The HTTP status.
    location : str
        The target of a redirect, else empty.
    """

    def __init__(self, message: str, status: int, location: str = "", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.location = location


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """Treats redirects as errors, so that credentials are never sent to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class JsonService:
    """A JSON service.

    Parameters
    ----------
    name : str
        The service's name in errors, such as ``"the TES server"``.
    url : str
        Base URL of all paths: http or https, without user and password.
    headers : callable, optional
        Returns headers to send with each request, such as credentials. They never appear in messages.
    hint : str, optional
        The hint for rejected credentials, for a service whose credentials can expire. Without it, a rejection is final.
    timeout : float, optional
        Seconds after which a request counts as unanswered.

    Raises
    ------
    InputError
        If the URL is invalid.
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
        """Send a GET request and return the JSON object; query parameters may be lists. Raises like `post`."""
        return self._ask("GET", f"{path}?{urlencode(query, doseq=True)}" if query else path, None)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        """Send a JSON object by a POST request, and return the object in the response; None if that is empty.

        Raises
        ------
        UnavailableError
            If there is no answer, or a temporary failure, or the credentials were rejected.
        RefusedError
            If the service refuses the request. The error quotes its message.
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
            raise UnavailableError(f"{self.name} at {self.url} does not respond: {reason}") from None

    def _read(self, path: str, text: bytes) -> Any:
        try:
            return json.loads(text) if text.strip() else None
        except ValueError:
            raise ClusterError(f"{self.name} returned invalid JSON for {path}: {text[:200]!r}") from None


def refusal(name: str, where: str, status: int, reason: str, answer: Answer, hint: str = "") -> ClusterError:
    """Build the error for an unsuccessful response.

    Returns
    -------
    ClusterError
        A `CredentialsError` if the credentials were rejected, an `UnavailableError` if the failure is temporary, else a
        `RefusedError`.
    """
    try:
        said = answer.read(2000).decode(errors="replace").strip()
    except (OSError, HTTPException):
        said = ""
    message = f"{name} at {where} answered {status} {reason}: {said}".rstrip(" .:")
    if status in _AWAY:
        return UnavailableError(message)
    advice = hint if hint and status in (401, 403) else None
    if advice and status == 401:
        return CredentialsError(message, hint=advice)
    return RefusedError(message, status, answer.headers.get("Location", ""), hint=advice)
