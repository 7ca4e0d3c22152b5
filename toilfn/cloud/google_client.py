"""A client for Google's cloud: REST requests with default credentials, and errors with hints.

Google's own libraries for compute, containers, accounts and projects are four packages. These requests follow Google's
public discovery documents instead, and need only google-auth and requests, which gcsfs requires, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from toilfn.clusters.common.commands import SET_CLOCK, CredentialsError, UnavailableError, clock_hint
from toilfn.errors import ClusterError, InputError

if TYPE_CHECKING:
    import requests

__all__ = ["CAPACITY", "DISABLED", "Google", "GoogleRefusalError", "open_session", "refusal"]

_SERVICES = {
    "compute": "https://compute.googleapis.com/compute/v1",
    "container": "https://container.googleapis.com/v1",
    "iam": "https://iam.googleapis.com/v1",
    "projects": "https://cloudresourcemanager.googleapis.com/v1",
}
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TIMEOUT = (10, 180)
"""Timeouts for connecting and for a response, in seconds. A response about an operation can take two minutes."""

CAPACITY = (
    "ZONE_RESOURCE_POOL_EXHAUSTED", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "STOCKOUT", "UNSUPPORTED_OPERATION",
    "VM_MIN_COUNT_NOT_REACHED",
)  # fmt: skip
"""Error codes for a zone that does not have the machines at present."""
_QUOTA = ("quotaExceeded", "QUOTA_EXCEEDED", "limitExceeded", "LIMIT_EXCEEDED")
_THROTTLED = ("rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED", "RATE_LIMITED")
_TAKEN = ("alreadyExists", "ALREADY_EXISTS", "RESOURCE_ALREADY_EXISTS")
DISABLED = ("SERVICEDISABLED", "accessNotConfigured")


class GoogleRefusalError(ClusterError):
    """A service refused a request.

    Attributes
    ----------
    code : str
        Google's error code, such as ``"alreadyExists"`` or ``"ZONE_RESOURCE_POOL_EXHAUSTED"``.
    status : int
        The HTTP status; 0 for an operation that failed later.
    """

    def __init__(self, message: str, code: str, status: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.status = status


def open_session() -> tuple[requests.Session, str | None]:
    """Return a session that sends the default credentials, and the project of these credentials, if they have one.

    Raises
    ------
    CredentialsError
        If there are no credentials.
    """
    try:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError
        from google.auth.transport.requests import AuthorizedSession
    except ImportError as error:
        raise ClusterError(f"Google needs optional packages: {error}", hint="pip install 'toilfn[google]'") from error
    try:
        credentials, project = google.auth.default(scopes=[_SCOPE])
    except DefaultCredentialsError as error:
        raise CredentialsError(f"Google: {error}", hint=_CREDENTIALS) from None
    session: requests.Session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
    return session, project


_CREDENTIALS = (
    "provide Application Default Credentials: run `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS to the file of a service account"
)


class Google:
    """Sends requests to Google for one project.

    Parameters
    ----------
    project : str, optional
        The id of the project. Default: ``GOOGLE_CLOUD_PROJECT``, else the project of the credentials.
    """

    def __init__(self, project: str | None = None) -> None:
        self._project = project
        self._session: requests.Session | None = None

    @property
    def project(self) -> str:
        """The id of the project."""
        if self._project is None:
            self._project = os.environ.get("GOOGLE_CLOUD_PROJECT") or self._open()[1]
        if not self._project:
            raise InputError("no project of Google is set", hint="pass --project, or set GOOGLE_CLOUD_PROJECT")
        return self._project

    def _open(self) -> tuple[requests.Session, str | None]:
        session, project = open_session()
        self._session = session
        return session, project

    def ask(self, service: str, verb: str, path: str, body: dict[str, Any] | None = None, **query: Any) -> Any:
        """Send a request, without retries.

        Parameters
        ----------
        service : str
            ``"compute"``, ``"container"``, ``"iam"`` or ``"projects"``.
        verb, path : str
            The HTTP method, and the path after the version of the service.
        body : dict, optional
            The body, which is sent as JSON.
        query
            The query parameters.

        Raises
        ------
        UnavailableError
            If there is no answer, or a temporary failure, or the credentials were rejected.
        GoogleRefusalError
            If the service refuses the request. The error quotes its message.
        """
        import requests

        session = self._session or self._open()[0]
        url = f"{_SERVICES[service]}/{path}"
        try:
            answer = session.request(verb, url, params=query or None, json=body, timeout=_TIMEOUT)
        except requests.RequestException as error:
            raise UnavailableError(f"Google {service} does not respond: {error}", hint=clock_hint(error)) from None
        except Exception as error:
            raise _unauthenticated(error) from None
        if answer.ok:
            return answer.json()
        raise _refusal(service, answer)

    def pages(self, service: str, path: str, items: str, **query: Any) -> Iterator[Any]:
        """Yield the items of all pages of a list. An item of an aggregated list is a mapping of zones to items."""
        while True:
            answer = self.ask(service, "GET", path, **query)
            found = answer.get(items, [])
            yield from found.values() if isinstance(found, dict) else found
            if not answer.get("nextPageToken"):
                return
            query["pageToken"] = answer["nextPageToken"]


def _unauthenticated(error: Exception) -> Exception:
    """Convert an error that google-auth raised when it requested a token."""
    from google.auth.exceptions import GoogleAuthError, TransportError

    if isinstance(error, TransportError):
        return UnavailableError(f"Google does not respond: {error}", hint=clock_hint(error))
    if not isinstance(error, GoogleAuthError):
        return error
    is_clock = "reasonable timeframe" in str(error) or "short-lived" in str(error)
    return CredentialsError(f"Google: {error}", hint=SET_CLOCK if is_clock else _CREDENTIALS)


def _refusal(service: str, answer: requests.Response) -> ClusterError:
    try:
        said: dict[str, Any] = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        said = {"message": answer.text[:300]}
    reasons = [item.get("reason") for item in [*said.get("details", []), *said.get("errors", [])]]
    code = next((str(reason) for reason in reasons if reason), str(said.get("status", answer.status_code)))
    return refusal(f"Google {service} answered {answer.status_code}", code, said.get("message", ""), answer.status_code)


def refusal(subject: str, code: str, message: str, status: int = 0) -> ClusterError:
    """Build the error for a refused request or a failed operation, with a hint if one is known."""
    text = f"{subject} ({code}): {message}"
    if status == 401:
        return CredentialsError(text, hint=_CREDENTIALS)
    if status == 429 or status >= 500 or code in _THROTTLED:
        return UnavailableError(text)
    hint = None
    if code in _QUOTA:
        hint = "request a higher quota from Google for this project and region, or use fewer resources"
    elif code in DISABLED:
        hint = "enable this API in the project (gcloud services enable)"
    elif status == 403:
        hint = "grant this user the permission (see toilfn cluster policy --cloud google), or use other credentials"
    elif code in _TAKEN:
        hint = "another resource has this name: choose another name, or remove that resource if it is not needed"
    elif code in CAPACITY:
        hint = "add zones or machine types, or try again later"
    return GoogleRefusalError(text, code, status, hint)
