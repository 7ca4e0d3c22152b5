"""The options of stores: where they come from, which refer to a variable or a file, and which are secrets.

Options are passed once, to `toilfn.stores.open_store` or by the setting ``store_options``. This process
remembers them by the store's URL, and a leader passes them to its workers in an environment variable.
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

__all__ = [
    "VARIABLE",
    "for_driver",
    "key_bytes",
    "known",
    "masked",
    "refuse",
    "remember",
    "resolved",
    "worker_variables",
]

VARIABLE = "TOILFN_STORE_OPTIONS"
"""The environment variable in which a leader passes store options to its workers: JSON, options by URL."""

_SECRET = re.compile(r"(^|[_.])(key|secret|token|passw(or)?d|passphrase|credentials?|connection_string)$", re.I)
"""Names of options whose values are secrets."""

_REFERENCE = re.compile(r"(env|file):(.+)", re.DOTALL)

_KEY_SIZE = 32

_KEYS = ("encryption_key", "sse_key")
"""Options whose values are keys of 32 bytes."""

_PREFIX = "fs."
"""The prefix of an option that is passed to the driver without checking its name."""

_OURS = ("encryption_key", "create_bucket")
"""Options that every store, or every bucket, accepts."""

_EVERY_DRIVER = ("use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache", "batch_size")
"""Options that all fsspec file systems accept although their signatures do not show them."""

_remembered: dict[str, dict[str, Any]] = {}


def remember(url: str, options: Mapping[str, Any]) -> None:
    """Remember the options of a store, for later calls in this process that open it without options."""
    if options:
        _remembered[url] = dict(options)


def known(url: str) -> dict[str, Any]:
    """Return a store's options: those passed to `remember`, else those that this worker got from its leader."""
    if url in _remembered:
        return dict(_remembered[url])
    try:
        return dict(json.loads(os.environ.get(VARIABLE) or "{}").get(url, {}))
    except (ValueError, AttributeError, TypeError):
        raise StoreError(f"environment variable {VARIABLE}: not a JSON object that maps URLs to options") from None


def resolved(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace references to secrets by their values.

    ``env:NAME`` stands for the value of an environment variable and ``file:PATH`` for the content of a file,
    both on the machine that opens the store. A file of exactly 32 bytes is a raw key, and its value stays bytes:
    ``openssl rand 32`` writes such files, and Toil's ``--sseKey`` reads them.

    Raises
    ------
    StoreError
        If the variable or the file does not exist. The message names the option.
    """
    return {name: _read(name, value) for name, value in options.items()}


def for_driver(
    given: Mapping[str, Any], drivers: Iterable[type], place: str, *, ours: Iterable[str] = ()
) -> dict[str, Any]:
    """Check the names of options, and return the options under the driver's own names.

    Drivers silently accept any keyword. So a name must appear in a driver's signature, or start with ``fs.``, which
    says that the driver knows the option although its signature does not show it.

    Parameters
    ----------
    given : mapping
        Options whose references to secrets have been resolved.
    drivers : iterable of type
        The file systems that may receive them.
    place : str
        A description of the place, for the message.
    ours : iterable of str
        Names that toilfn itself handles.

    Raises
    ------
    StoreError
        If a name is unknown. The message suggests the nearest one.
    """
    names = {*ours, *_EVERY_DRIVER, *(name for driver in drivers for name in _parameters(driver))}
    for name in given:
        if name not in names and not name.startswith(_PREFIX):
            raise refuse(name, names, place, f"; if the driver has an option of this name, write {_PREFIX}{name}")
    return {name.removeprefix(_PREFIX): value for name, value in given.items()}


def refuse(name: str, names: Iterable[str], place: str, advice: str = "") -> StoreError:
    """Build the error for an unknown option."""
    near = get_close_matches(name, [*names, *_OURS], n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return StoreError(f"{place} has no option {name}{meant or advice}")


def _parameters(driver: type) -> Iterator[str]:
    """Iterate over the names of the constructor's arguments of a class and its base classes."""
    for cls in driver.__mro__[:-1]:
        for name, parameter in inspect.signature(vars(cls).get("__init__", object)).parameters.items():
            if name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                yield name


def worker_variables(url: str, *, private: bool) -> dict[str, str]:
    """Return the environment variables that a worker needs to open a store that this process has opened.

    Parameters
    ----------
    url : str
        The store's URL.
    private : bool
        Whether only the user can see the variables of a worker, because they are not written to job scripts.

    Raises
    ------
    StoreError
        If a secret would have to be written to a job script. The hint says how to avoid that.
    """
    options = known(url)
    if not options:
        return {}
    for name, value in options.items():
        if not private and _is_secret(name, value):
            raise StoreError(
                f"store option {name} is a secret and would be visible in this cluster's job scripts",
                hint=f"pass {name}=file:PATH or {name}=env:NAME, which each worker reads on its own machine, or"
                " set it in the driver's configuration there",
            )
    return {VARIABLE: json.dumps({url: options})}


def masked(text: str, options: Mapping[str, Any]) -> str:
    """Replace the values of secret options in a driver's error message, which may quote a whole request."""
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
    """Read a secret from a file: text without its final newline, or a raw key."""
    content = path.read_bytes()
    if name in _KEYS and len(key := content.removesuffix(b"\n") if len(content) > _KEY_SIZE else content) == _KEY_SIZE:
        return key
    return content.decode().strip()


def key_bytes(option: str, text: object) -> bytes:
    """Decode a key of 256 bits, given in base64, in hexadecimal digits, or as 32 bytes.

    Raises
    ------
    StoreError
        If it is not such a key. The message does not show the value.
    """
    if isinstance(text, bytes) and len(text) == _KEY_SIZE:
        return text
    if isinstance(text, str):
        for read in (bytes.fromhex, base64.b64decode):
            with suppress(ValueError):
                if len(key := read(text)) == _KEY_SIZE:
                    return key
    raise StoreError(
        f"store option {option} is not a key of 32 bytes",
        hint="pass the key in base64 or as 64 hexadecimal digits, or pass file:PATH for a file that contains"
        " such a text or the 32 bytes themselves; `openssl rand -base64 32` generates a key",
    )
