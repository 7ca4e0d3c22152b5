"""Helpers for the requests of the server's own pages: the user who sends one, and the fields of small forms."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from toilfn.errors import InputError
from toilfn.server.access import LOCAL, Principal

__all__ = ["fields_of", "user_of"]

_LONGEST_FORM = 1 << 20


def user_of(request: Any) -> Principal:
    """Return the user who sends a request."""
    principal: Principal = getattr(request.state, "principal", LOCAL)
    return principal


async def fields_of(request: Any) -> dict[str, str]:
    """Read the fields of a small form.

    Raises
    ------
    InputError
        If the request's body is too large, or is not a form.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _LONGEST_FORM:
            raise InputError(f"the form is larger than {_LONGEST_FORM} bytes")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=1000))
    except ValueError as error:
        raise InputError(f"the form cannot be read: {error}") from None
