"""Tokens of an OpenID Connect provider: JWTs, which joserfc checks with the keys that the provider publishes."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, build_opener

from toilfn.errors import InputError
from toilfn.server.hosts import is_loopback

__all__ = ["Claims", "OIDCSettings", "Provider", "RefusedTokenError", "looks_like_jwt"]

_ALGORITHMS = [f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)]
"""Signatures with a public key. With "none" or HMAC, anyone who knows the public keys could forge a token."""
_KINDS = ("RSA", "EC")
_LEEWAY = 30
"""Seconds by which the clocks of the provider and of the server may differ."""
_LIFETIME = 3600.0
"""Seconds after which the keys are fetched again."""
_PAUSE = 10.0
"""Seconds between two attempts to fetch keys: tokens that name unknown keys must not become requests."""
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
        The name of this server at the provider; a token for others is refused.
    user_claim : str
        The claim with the user's name.
    roles_claim : str
        The claim with the user's roles; dots lead into objects, as in ``realm_access.roles``.
    operator_role : str
        The role of operators; empty if no user of the provider is one.
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
    """In seconds since the epoch."""


class RefusedTokenError(Exception):
    """A token that is not valid here; the message says why, without the token."""


def looks_like_jwt(token: str) -> bool:
    """Return whether a credential has the form of a signed JWT; the server's own tokens contain no dots."""
    return token.count(".") == 2


class Provider:
    """Checks the tokens of a provider. Its keys are fetched when they are first needed, and when a new one appears.

    Parameters
    ----------
    settings : OIDCSettings

    Raises
    ------
    InputError
        If the library is missing, or the issuer's URL is not one that can be trusted.
    """

    def __init__(self, settings: OIDCSettings) -> None:
        try:
            import joserfc  # noqa: F401 - looked for before the first request
        except ImportError:
            raise InputError(
                "tokens of an OpenID Connect provider need another package", hint="pip install 'toilfn[oidc]'"
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
        if wanted is None:  # a provider with one key need not name it
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
    """Yield the keys with which tokens may be signed; others, of kinds unknown here, do no harm."""
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    for each in keys:
        if each.get("kty") in _KINDS and each.get("use", "sig") == "sig":
            try:
                yield JWKRegistry.import_key(each)
            except (JoseError, ValueError) as error:
                _log.warning("a key of the provider cannot be read: %s", error)


def _at(claims: dict[str, Any], path: str) -> Any:
    """Return a claim by its name or, if there is none, by a path of names with dots."""
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
    """Follows no redirect, which might lead to a place that is not the provider's."""

    def redirect_request(self, *arguments: Any, **keywords: Any) -> None:
        """Return nothing, so that the redirect is an error."""


def _read(url: str) -> dict[str, Any]:
    with build_opener(_NoRedirects).open(url, timeout=_TIMEOUT) as answer:
        text = answer.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError(f"{url} is too large")
    return dict(json.loads(text))
