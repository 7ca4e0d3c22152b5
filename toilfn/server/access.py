"""Users of a server: tokens, kept as hashes, and what each user may do."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from typing import Any, NamedTuple

from toilfn.errors import InputError
from toilfn.server.oidc import Provider, RefusedTokenError, looks_like_jwt
from toilfn.server.records import Place
from toilfn.server.sessions import Session, Sessions
from toilfn.stores import MissingObjectError

__all__ = ["LOCAL", "Access", "DeniedError", "Principal", "Tokens"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_FRESH = 5.0
"""Seconds for which tokens are remembered: one that is removed is refused after so long."""


class Principal(NamedTuple):
    """A user who sends a request."""

    name: str
    is_operator: bool
    """Whether all runs may be seen and cancelled."""

    def may_see(self, owner: str) -> bool:
        """Return whether a run of this owner may be seen."""
        return self.is_operator or self.name == owner


LOCAL = Principal("local", True)
"""The user of a server on this machine that has no tokens."""


class DeniedError(Exception):
    """A request without a credential, or with one that is not known."""


class Tokens:
    """The tokens of a place: ``tokens/NAME`` holds a hash, and whether the user is an operator.

    Parameters
    ----------
    place : Place
    """

    def __init__(self, place: Place) -> None:
        self._objects = place.store.objects

    def add(self, name: str, *, is_operator: bool = False) -> str:
        """Create a token for a user, in the place of an older one, and return it: it is written nowhere.

        Raises
        ------
        InputError
            If the name cannot be a user's.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot be the name of a user: use up to 64 letters, digits, and . _ @ -")
        token = secrets.token_urlsafe(32)
        content = {"hash": _hash(token), "operator": is_operator, "created": time.time()}
        self._objects.put(f"tokens/{name}", json.dumps(content).encode())
        return token

    def remove(self, name: str) -> None:
        """Remove a user's token.

        Raises
        ------
        InputError
            If there is none.
        """
        if not _NAME.fullmatch(name) or not self._objects.exists(f"tokens/{name}"):
            raise InputError(f"no token belongs to {name!r}; toilfn server token list shows the names")
        self._objects.delete([f"tokens/{name}"])

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the records of the users' tokens, by name."""
        found = {}
        for path in sorted(self._objects.list("tokens/")):
            try:
                found[path.removeprefix("tokens/")] = dict(json.loads(self._objects.get(path)))
            except MissingObjectError:
                continue  # it was removed just now
        return found


class Access:
    """Finds out who sends a request.

    Parameters
    ----------
    tokens : Tokens
    sessions : Sessions
    provider : Provider, optional
        Whose JWTs are accepted, too.
    """

    def __init__(self, tokens: Tokens, sessions: Sessions, provider: Provider | None = None) -> None:
        self._tokens = tokens
        self._provider = provider
        self._sessions = sessions
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, Any]] = {}
        self._read = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether no user has a token, so that none is needed; only a server on loopback may be so."""
        return self._provider is None and not self._current()

    def may_wait(self, authorization: str | None) -> bool:
        """Return whether a credential may be checked by asking a provider for its keys."""
        return self._provider is not None and authorization is not None and looks_like_jwt(authorization)

    def principal(self, authorization: str | None, session: str = "") -> Principal:
        """Return who sends a request.

        Parameters
        ----------
        authorization : str or None
            The header of this name.
        session : str
            The id of a browser's session, which counts without that header.

        Raises
        ------
        DeniedError
            If a credential is missing or wrong.
        """
        known = self._current()
        if self.is_open:
            return LOCAL
        if not authorization and session:
            return self._of_session(session, known)
        if not authorization:
            raise DeniedError("a token is needed: send the header 'Authorization: Bearer TOKEN'")
        scheme, _, credential = authorization.strip().partition(" ")
        user, token = _user_and_token(scheme.lower(), credential.strip())
        if self._provider is not None and looks_like_jwt(token):
            return self._of_provider(self._provider, user, token)
        digest = _hash(token)
        for name, content in known.items():
            if hmac.compare_digest(content["hash"], digest) and user in (None, name):
                return Principal(name, bool(content["operator"]))
        raise DeniedError("unknown token; ask the operator for another one")

    def _of_provider(self, provider: Provider, user: str | None, token: str) -> Principal:
        try:
            claims = provider.check(token)
        except RefusedTokenError as error:
            raise DeniedError(str(error)) from None
        if user not in (None, claims.user):
            raise DeniedError("the token belongs to another user")
        return Principal(claims.user, claims.is_operator)

    def _of_session(self, id: str, known: dict[str, dict[str, Any]]) -> Principal:
        found = self._sessions.find(id)
        if found is not None and found.issuer:
            if self._provider is not None and self._provider.settings.issuer == found.issuer:
                return Principal(found.user, found.is_operator)
            raise DeniedError("the session has expired; log in again")
        token = known.get(found.user) if found else None
        if found is None or token is None or not hmac.compare_digest(token["hash"], found.token_hash):
            raise DeniedError("the session has expired; log in again")
        return Principal(found.user, bool(token["operator"]))

    def log_in(self, token: str) -> str:
        """Open a session for the user of a token, and return its id.

        Raises
        ------
        DeniedError
            If the token is not known.
        """
        token = token.strip()
        principal = self.principal(f"Bearer {token}")
        if self._provider is None or not looks_like_jwt(token):
            return self._sessions.open(Session(principal.name, _hash(token)))
        issuer, until = self._provider.settings.issuer, self._provider.check(token).expires
        return self._sessions.open(Session(principal.name, _hash(token), issuer, principal.is_operator, until))

    def log_out(self, session: str) -> None:
        """End a session."""
        self._sessions.close(session)

    def _current(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            if time.monotonic() - self._read > _FRESH:
                self._known, self._read = self._tokens.read(), time.monotonic()
            return self._known


def _user_and_token(scheme: str, credential: str) -> tuple[str | None, str]:
    if scheme == "bearer":
        return None, credential
    if scheme == "basic":
        try:
            user, colon, token = base64.b64decode(credential, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if colon:
            return user, token
        raise DeniedError("the Basic credential cannot be read")
    raise DeniedError("give the token as a Bearer credential, or as the password of a Basic one")


def _hash(token: str) -> str:
    """Return a hash; tokens are random and long, so that a slow one would add nothing."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
