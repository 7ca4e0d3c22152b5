"""Users of a server: how they are authenticated, and what they may do.

A user sends one of three credentials:

* a token of the server; the place has its hash
* a token (JWT) of an OpenID Connect provider, which joserfc checks with the provider's keys
* the id of a session, which a browser gets when its user logs in with a token; the place has its hash
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, build_opener

from toilfn.errors import InputError
from toilfn.server.records import Place
from toilfn.stores import MissingObjectError

__all__ = [
    "COOKIE", "LIFETIME", "LOCAL", "Access", "Claims", "DeniedError", "OIDCSettings", "Principal", "Provider",
    "RefusedTokenError", "Session", "Sessions", "Tokens", "host_of", "is_loopback", "looks_like_jwt", "session_of",
]  # fmt: skip


def is_loopback(host: str) -> bool:
    """Return whether a name or an address is that of this machine itself."""
    return host in ("localhost", "::1", "ip6-localhost") or host.startswith("127.") or host.endswith(".localhost")


def host_of(header: str) -> str:
    """Return the host in a header such as ``Host``, without its port; empty if it is not valid."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


_ALGORITHMS = [f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)]
"""Signatures with a public key. With "none" or HMAC, anyone who knows the public keys could forge a token."""
_KINDS = ("RSA", "EC")
_LEEWAY = 30
"""Seconds by which the clocks of the provider and of the server may differ."""
_LIFETIME = 3600.0
"""Seconds after which the keys are fetched again."""
_PAUSE = 10.0
"""Seconds between two attempts to fetch keys, so that many tokens with unknown keys do not cause many requests."""
_TIMEOUT = 5.0
_LARGEST = 1 << 20
_LONGEST_NAME = 256

_log = logging.getLogger("toilfn.server")


class OIDCSettings(NamedTuple):
    """A provider, and the meaning of its tokens.

    Attributes
    ----------
    issuer : str
        The provider's URL, as in the claim ``iss``.
    audience : str
        The name of this server at the provider; a token for another audience is refused.
    user_claim : str
        The claim with the user's name.
    roles_claim : str
        The claim with the user's roles. Dots separate the names of nested objects, as in ``realm_access.roles``.
    operator_role : str
        The role that makes a user an operator; empty if no user of the provider is an operator.
    """

    issuer: str
    audience: str
    user_claim: str = "sub"
    roles_claim: str = "roles"
    operator_role: str = ""


class Claims(NamedTuple):
    """The contents of a token that was checked."""

    user: str
    is_operator: bool
    expires: float
    """When the token expires, in seconds since the epoch."""


class RefusedTokenError(Exception):
    """A token is not valid for this server. The message says why, and does not contain the token."""


def looks_like_jwt(token: str) -> bool:
    """Return whether a credential has the form of a signed JWT; the server's own tokens contain no dots."""
    return token.count(".") == 2


class Provider:
    """Checks the tokens of a provider.

    The provider's keys are fetched when they are first needed, and again when a token names an unknown key.

    Parameters
    ----------
    settings : OIDCSettings

    Raises
    ------
    InputError
        If joserfc is not installed, or the issuer is not an https URL (or http on this machine).
    """

    def __init__(self, settings: OIDCSettings) -> None:
        try:
            import joserfc  # noqa: F401 - looked for before the first request
        except ImportError:
            raise InputError(
                "tokens of an OpenID Connect provider need the package joserfc", hint="pip install 'toilfn[oidc]'"
            ) from None
        _check_url(settings.issuer)
        self.settings = settings
        self._lock = threading.Lock()
        self._keys: list[Any] = []
        self._fetched = self._tried = float("-inf")

    def check(self, token: str) -> Claims:
        """Return the claims of a token.

        Raises
        ------
        RefusedTokenError
            If the token was not signed by the provider, has expired, or is for another service.
        """
        from joserfc import jws, jwt
        from joserfc.errors import JoseError

        given = self.settings
        rules = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY, iss={"essential": True, "value": given.issuer},
            aud={"essential": True, "value": given.audience}, exp={"essential": True},
        )  # fmt: skip
        try:
            header = jws.extract_compact(token.encode()).headers()
            decoded = jwt.decode(token, self._key(header), algorithms=_ALGORITHMS)
            rules.validate(decoded.claims)
        except (JoseError, ValueError, TypeError) as error:
            raise RefusedTokenError(f"the token is refused: {error}") from None
        return self._claims(decoded.claims)

    def _claims(self, claims: dict[str, Any]) -> Claims:
        given = self.settings
        user = claims.get(given.user_claim)
        if not isinstance(user, str) or not user.isprintable() or not 0 < len(user) <= _LONGEST_NAME:
            raise RefusedTokenError(f"the token is refused: its claim {given.user_claim!r} is not a user's name")
        roles = _at(claims, given.roles_claim)
        has_role = given.operator_role in (roles if isinstance(roles, list) else str(roles or "").split())
        return Claims(user, bool(given.operator_role) and has_role, float(claims["exp"]))

    def _key(self, header: dict[str, Any]) -> Any:
        """Return the key that a token's header names, from the keys that the provider currently publishes."""
        wanted = header.get("kid")
        with self._lock:
            found = self._named(wanted)
            is_old = time.monotonic() - self._fetched > _LIFETIME
            if (found is None or is_old) and time.monotonic() - self._tried > _PAUSE:
                self._fetch()
                found = self._named(wanted)
        if found is None:
            raise ValueError("it was not signed with a key of the provider")
        return found

    def _named(self, wanted: object) -> Any:
        if wanted is None:  # a provider with a single key may omit its id
            return self._keys[0] if len(self._keys) == 1 else None
        return next((key for key in self._keys if key.kid == wanted), None)

    def _fetch(self) -> None:
        self._tried = time.monotonic()
        try:
            url = f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration"
            found = _read(url)
            if found.get("issuer") != self.settings.issuer:
                raise ValueError(f"{url} describes the issuer {found.get('issuer')!r}")
            _check_url(str(found["jwks_uri"]))
            self._keys = list(_usable(_read(str(found["jwks_uri"]))["keys"]))
            self._fetched = time.monotonic()
        except (OSError, ValueError, KeyError, TypeError, InputError) as error:
            _log.warning("cannot read the keys of %s: %s", self.settings.issuer, error)


def _usable(keys: Iterable[dict[str, Any]]) -> Iterable[Any]:
    """Yield the keys with which tokens may be signed. Keys of unknown kinds are skipped, since others may be usable."""
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    for each in keys:
        if each.get("kty") in _KINDS and each.get("use", "sig") == "sig":
            try:
                yield JWKRegistry.import_key(each)
            except (JoseError, ValueError) as error:
                _log.warning("a key of the provider cannot be read: %s", error)


def _at(claims: dict[str, Any], path: str) -> Any:
    """Return a claim by its name, or, if no claim has that name, by a path of names separated by dots."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or not is_loopback(parts.hostname or ""):
        raise InputError(f"{url!r} cannot be an issuer of tokens", hint="give an https URL, as in its claim iss")


class _NoRedirects(HTTPRedirectHandler):
    """Refuses redirects, since a redirect could lead to a server that is not the provider's."""

    def redirect_request(self, *arguments: Any, **keywords: Any) -> None:
        """Return None, so that urllib treats the redirect as an error."""


def _read(url: str) -> dict[str, Any]:
    with build_opener(_NoRedirects).open(url, timeout=_TIMEOUT) as answer:
        text = answer.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError(f"{url} is too large")
    return dict(json.loads(text))


COOKIE = "toilfn-session"
LIFETIME = 12 * 3600
"""Seconds after which a session ends, so that the user must log in again."""
_FRESH = 5.0
"""Seconds for which tokens and sessions are cached, and so the time until a removed one is refused by all servers."""
_MOST = 10_000
"""Maximum number of sessions in the cache."""


class Session(NamedTuple):
    """A browser's session."""

    user: str
    token_hash: str
    """The hash of the token that opened the session. The session ends when that token is removed or replaced."""
    issuer: str = ""
    """The issuer of that token if it was a JWT of a provider, else empty."""
    is_operator: bool = False
    """Whether the provider's token said that the user is an operator."""
    until: float = float("inf")
    """When that token expires, in seconds since the epoch."""


class Sessions:
    """The sessions of a place, in its objects ``sessions/HASH``. Servers that share the place share its sessions.

    Parameters
    ----------
    place : Place
    """

    def __init__(self, place: Place) -> None:
        self._objects = place.store.objects
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, dict[str, Any] | None]] = {}

    def open(self, session: Session) -> str:
        """Save a session, and return its id. Only the hash of the id is saved."""
        id = secrets.token_urlsafe(32)
        content = {**session._asdict(), "until": min(session.until, time.time() + LIFETIME)}
        self._objects.put(_name(id), json.dumps(content).encode())
        return id

    def find(self, id: str) -> Session | None:
        """Return the session with an id; None if there is none, or it has ended."""
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
        """Remove the sessions that have ended."""
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
    """Return the session's id from a request's cookies; empty if there is none."""
    pairs = (each.strip().partition("=") for each in cookies.split(";"))
    return next((value for name, _, value in pairs if name == COOKIE), "")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Principal(NamedTuple):
    """A user who sends a request."""

    name: str
    is_operator: bool
    """Whether the user may see and cancel the runs of all users."""

    def may_see(self, owner: str) -> bool:
        """Return whether the user may see the runs of an owner."""
        return self.is_operator or self.name == owner


LOCAL = Principal("local", True)
"""The user of all requests to a server without tokens, which listens only on this machine."""


class DeniedError(Exception):
    """A request has no credential, or an unknown one."""


class Tokens:
    """The tokens of a place. The object ``tokens/NAME`` has the token's hash, and whether the user is an operator.

    Parameters
    ----------
    place : Place
    """

    def __init__(self, place: Place) -> None:
        self._objects = place.store.objects

    def add(self, name: str, *, is_operator: bool = False) -> str:
        """Create a token for a user, replacing an older one, and return it. Only its hash is saved.

        Raises
        ------
        InputError
            If the name is not valid.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} is not a valid user name", hint="use up to 64 letters, digits, and . _ @ -")
        token = secrets.token_urlsafe(32)
        content = {"hash": _hash(token), "operator": is_operator, "created": time.time()}
        self._objects.put(f"tokens/{name}", json.dumps(content).encode())
        return token

    def remove(self, name: str) -> None:
        """Remove a user's token.

        Raises
        ------
        InputError
            If the user has no token.
        """
        if not _NAME.fullmatch(name) or not self._objects.exists(f"tokens/{name}"):
            raise InputError(f"user {name!r} has no token", hint="toilfn server token list shows the users")
        self._objects.delete([f"tokens/{name}"])

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the records of the users' tokens, by name."""
        found = {}
        for path in sorted(self._objects.list("tokens/")):
            try:
                found[path.removeprefix("tokens/")] = dict(json.loads(self._objects.get(path)))
            except MissingObjectError:
                continue  # the token was removed after the list was read
        return found


class Access:
    """Authenticates requests.

    Parameters
    ----------
    tokens : Tokens
    sessions : Sessions
    provider : Provider, optional
        A provider whose JWTs are accepted, too.
    """

    def __init__(self, tokens: Tokens, sessions: Sessions, provider: Provider | None = None) -> None:
        self._tokens = tokens
        self._provider = provider
        self._sessions = sessions
        self._lock = threading.Lock()
        """Guards the cached tokens: handlers run in several threads."""
        self._known: dict[str, dict[str, Any]] = {}
        self._read = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether the server needs no tokens, because no user has one. Only a server on loopback may be open."""
        return self._provider is None and not self._current()

    def may_wait(self, authorization: str | None) -> bool:
        """Return whether checking a credential may have to wait for the keys of the provider."""
        return self._provider is not None and authorization is not None and looks_like_jwt(authorization)

    def principal(self, authorization: str | None, session: str = "") -> Principal:
        """Return the user who sends a request.

        Parameters
        ----------
        authorization : str or None
            The header ``Authorization``.
        session : str
            The id of a browser's session, which is used only without that header.

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
            raise DeniedError("the request has no token; send the header 'Authorization: Bearer TOKEN'")
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
            If the token is unknown.
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
    raise DeniedError("send the token as a Bearer credential, or as the password of a Basic credential")


def _hash(token: str) -> str:
    """Return a token's hash. Tokens are long and random, so a slow hash function would not make them safer."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
