"""The options of stores: who gave them, what they refer to, and which of them are secrets.

Options are given once, to `toilfn.stores.open_store` or by the setting ``store_options``. This process
remembers them for the store's URL, and a leader hands them to its workers in an environment variable.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from toilfn.errors import StoreError

__all__ = ["VARIABLE", "hand_over", "key_bytes", "known", "masked", "remember", "resolved"]

VARIABLE = "TOILFN_STORE_OPTIONS"
"""The environment variable by which a leader tells workers how to open its store: JSON, options by URL."""

_SECRET = re.compile(r"(^|_)(key|secret|token|passw(or)?d|passphrase|credentials?|connection_string)$", re.I)
"""Names of options whose values are secrets."""

_REFERENCE = re.compile(r"(env|file):(.+)", re.DOTALL)

_KEY_SIZE = 32

_remembered: dict[str, dict[str, Any]] = {}


def remember(url: str, options: Mapping[str, Any]) -> None:
    """Note how a store was opened, for whoever opens it in this process without saying how."""
    if options:
        _remembered[url] = dict(options)


def known(url: str) -> dict[str, Any]:
    """Give the options that were told for a store: by an earlier `remember`, else by the leader of this worker."""
    if url in _remembered:
        return dict(_remembered[url])
    try:
        return dict(json.loads(os.environ.get(VARIABLE) or "{}").get(url, {}))
    except (ValueError, AttributeError, TypeError):
        raise StoreError(f"The environment variable {VARIABLE} is no JSON object of options by URL.") from None


def resolved(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace references to secrets by what they refer to.

    ``env:NAME`` stands for the value of an environment variable and ``file:PATH`` for the content of a file,
    on the machine where the store is opened.

    Raises
    ------
    StoreError
        If there is no such variable or file; the message names the option.
    """
    return {name: _read(name, value) for name, value in options.items()}


def hand_over(url: str, *, private: bool) -> dict[str, str]:
    """Give the environment variables with which a worker can open a store that was opened here.

    Parameters
    ----------
    url : str
        The store's.
    private : bool
        Whether nobody but the user can see a worker's variables: they are not written to job scripts.

    Raises
    ------
    StoreError
        If a secret would have to be written to a job script; says how to avoid that.
    """
    options = known(url)
    if not options:
        return {}
    for name, value in options.items():
        if not private and _is_secret(name, value):
            raise StoreError(
                f"The store option {name} is a secret, and this cluster's jobs would show it in their scripts. Give"
                f" {name}=file:PATH or {name}=env:NAME, which each worker reads where it runs, or leave it to the"
                " driver's own configuration there."
            )
    return {VARIABLE: json.dumps({url: options})}


def masked(text: str, options: Mapping[str, Any]) -> str:
    """Replace the values of secret options in a driver's error, which may quote a request with all that was sent."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            text = masked(text, value)
        elif value and _is_secret(name, value):
            text = text.replace(str(value), f"<{name}>")
    return text


def _is_secret(name: str, value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_is_secret(inner, part) for inner, part in value.items())
    return bool(_SECRET.search(name)) and not (isinstance(value, str) and _REFERENCE.fullmatch(value))


def _read(name: str, value: Any) -> Any:
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    kind, place = match.groups()
    try:
        return os.environ[place] if kind == "env" else Path(place).expanduser().read_text().strip()
    except KeyError:
        raise StoreError(
            f"The store option {name}={value} names an environment variable that is not set here."
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(f"The store option {name}={value} names a file that cannot be read: {error}") from error


def key_bytes(option: str, text: object) -> bytes:
    """Read a key of 256 bits, written in base64 or in hexadecimal digits.

    Raises
    ------
    StoreError
        If it is none; the message does not show it.
    """
    if isinstance(text, str):
        for read in (bytes.fromhex, base64.b64decode):
            with suppress(ValueError):
                if len(key := read(text)) == _KEY_SIZE:
                    return key
    raise StoreError(
        f"The store option {option} must be a key of 32 bytes, in base64 or in 64 hexadecimal digits:"
        " openssl rand -base64 32 makes one."
    )
