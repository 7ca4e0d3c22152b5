"""The options of stores: who gave them, what they refer to, and which of them are secrets.

Options are given once, to `toilfn.stores.open_store` or by the setting ``store_options``. This process
remembers them for the store's URL, and a leader hands them to its workers in an environment variable.
"""

from __future__ import annotations

import base64
import inspect
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from toilfn.errors import StoreError

__all__ = ["VARIABLE", "for_driver", "hand_over", "key_bytes", "known", "masked", "refuse", "remember", "resolved"]

VARIABLE = "TOILFN_STORE_OPTIONS"
"""The environment variable by which a leader tells workers how to open its store: JSON, options by URL."""

_SECRET = re.compile(r"(^|[_.])(key|secret|token|passw(or)?d|passphrase|credentials?|connection_string)$", re.I)
"""Names of options whose values are secrets."""

_REFERENCE = re.compile(r"(env|file):(.+)", re.DOTALL)

_KEY_SIZE = 32

_KEYS = ("encryption_key", "sse_key")
"""Options that are keys of 32 bytes."""

_PREFIX = "fs."
"""Comes before the name of an option that is handed to the driver as it is."""

_OURS = ("encryption_key", "create_bucket")
"""Options of every store, or of every bucket."""

_EVERY_DRIVER = ("use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache", "batch_size")
"""What all of fsspec's file systems take, though their signatures do not say so."""

_remembered: dict[str, dict[str, Any]] = {}


def remember(url: str, options: Mapping[str, Any]) -> None:
    """Note how a store was opened, for whoever opens it in this process without saying how."""
    if options:
        _remembered[url] = dict(options)


def known(url: str) -> dict[str, Any]:
    """Return the options that were told for a store: by an earlier `remember`, else by the leader of this worker."""
    if url in _remembered:
        return dict(_remembered[url])
    try:
        return dict(json.loads(os.environ.get(VARIABLE) or "{}").get(url, {}))
    except (ValueError, AttributeError, TypeError):
        raise StoreError(f"environment variable {VARIABLE}: not a JSON object that maps URLs to options") from None


def resolved(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace references to secrets by what they refer to.

    ``env:NAME`` stands for the value of an environment variable and ``file:PATH`` for the content of a file,
    on the machine where the store is opened. A file of exactly 32 bytes is a key as it is, and stays bytes: Toil's
    ``--sseKey`` and ``openssl rand 32`` write such files.

    Raises
    ------
    StoreError
        If there is no such variable or file; the message names the option.
    """
    return {name: _read(name, value) for name, value in options.items()}


def for_driver(
    given: Mapping[str, Any], drivers: Iterable[type], place: str, *, ours: Iterable[str] = ()
) -> dict[str, Any]:
    """Check the names of options, and return the options with those for the driver under its own names.

    Drivers take any keyword in silence. So a name must be in a driver's signature, or start with ``fs.``, which says
    that the driver knows it although its signature does not.

    Parameters
    ----------
    given : mapping
        Options, references to secrets replaced.
    drivers : iterable of type
        The file systems that they may be for.
    place : str
        What has these options, for the message.
    ours : iterable of str
        Names that toilfn itself understands there.

    Raises
    ------
    StoreError
        If a name is unknown; suggests the nearest one.
    """
    names = {*ours, *_EVERY_DRIVER, *(name for driver in drivers for name in _parameters(driver))}
    for name in given:
        if name not in names and not name.startswith(_PREFIX):
            raise refuse(name, names, place, f"; if the driver has an option of this name, write {_PREFIX}{name}")
    return {name.removeprefix(_PREFIX): value for name, value in given.items()}


def refuse(name: str, names: Iterable[str], place: str, advice: str = "") -> StoreError:
    """Build the error for an option that a place does not have."""
    near = get_close_matches(name, [*names, *_OURS], n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return StoreError(f"{place} has no option {name}{meant or advice}")


def _parameters(driver: type) -> Iterator[str]:
    """Iterate over the names that a class and those that it extends give to arguments of their constructors."""
    for cls in driver.__mro__[:-1]:
        for name, parameter in inspect.signature(vars(cls).get("__init__", object)).parameters.items():
            if name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                yield name


def hand_over(url: str, *, private: bool) -> dict[str, str]:
    """Return the environment variables with which a worker can open a store that was opened here.

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
                f"store option {name}: it is a secret and would be visible in this cluster's job scripts",
                hint=f"give {name}=file:PATH or {name}=env:NAME, which each worker reads on its own machine, or"
                " leave it to the driver's configuration there",
            )
    return {VARIABLE: json.dumps({url: options})}


def masked(text: str, options: Mapping[str, Any]) -> str:
    """Replace the values of secret options in a driver's error, which may quote a request with all that was sent."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            text = masked(text, value)
        elif value and _is_secret(name, value):
            text = text.replace(str(value), f"<{name}>")
            if isinstance(value, bytes):
                text = text.replace(value.decode("latin-1"), f"<{name}>")
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
        return os.environ[place] if kind == "env" else _content(name, Path(place).expanduser())
    except KeyError:
        raise StoreError(f"store option {name}={value}: the environment variable is not set") from None
    except (OSError, ValueError) as error:
        raise StoreError(f"store option {name}={value}: the file cannot be read: {error}") from error


def _content(name: str, path: Path) -> str | bytes:
    """Read a secret from a file: text without the newline at its end, or a key as it is."""
    content = path.read_bytes()
    if name in _KEYS and len(key := content.removesuffix(b"\n") if len(content) > _KEY_SIZE else content) == _KEY_SIZE:
        return key
    return content.decode().strip()


def key_bytes(option: str, text: object) -> bytes:
    """Read a key of 256 bits, written in base64, in hexadecimal digits, or as 32 bytes.

    Raises
    ------
    StoreError
        If it is not a key; the message does not show it.
    """
    if isinstance(text, bytes) and len(text) == _KEY_SIZE:
        return text
    if isinstance(text, str):
        for read in (bytes.fromhex, base64.b64decode):
            with suppress(ValueError):
                if len(key := read(text)) == _KEY_SIZE:
                    return key
    raise StoreError(
        f"store option {option}: not a key of 32 bytes",
        hint="give the key in base64 or as 64 hexadecimal digits, or as file:PATH the name of a file with"
        " such a text or the 32 bytes themselves; `openssl rand -base64 32` makes one",
    )
