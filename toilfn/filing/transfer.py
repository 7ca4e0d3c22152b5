"""Bytes from and to URLs: whatever fsspec opens, and plain paths."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from toilfn.errors import InputError

__all__ = ["absolute", "fetch", "fingerprint", "holds", "local_path", "name_of", "send", "shown", "within"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_CHUNK = 2**20


def local_path(url: str | os.PathLike[str]) -> Path | None:
    """Give the path that a plain path or a ``file:`` URL stands for; None for any other URL.

    In a ``file:`` URL, ``%20`` and the like are decoded (RFC 8089); in a plain path nothing is.
    """
    text = os.fspath(url)
    if isinstance(url, os.PathLike):
        return Path(text)
    if text.startswith("file:"):
        return Path(unquote(re.sub(r"^file:(//(localhost(?=/))?)?", "", text)))
    return None if _SCHEME.match(text) else Path(text)


def absolute(url: str | os.PathLike[str]) -> str:
    """Make a URL independent of the working directory; a plain path may stay relative to it until here."""
    path = local_path(url)
    if path is None:
        return os.fspath(url)
    return str(path.absolute()) + ("/" if os.fspath(url).endswith("/") else "")


def shown(url: str | os.PathLike[str]) -> str:
    """Give a URL for messages: without what a user name, a password or a signed query may tell."""
    if local_path(url) is not None:
        return os.fspath(url)
    return re.sub(r"(?<=://)[^/@]*@", "", os.fspath(url)).partition("?")[0]


def name_of(url: str | os.PathLike[str]) -> str:
    """Give the file name at a URL's end, ``"file"`` if there is none."""
    path = local_path(url)
    if path is not None:
        return path.name or "file"
    inner = os.fspath(url).partition("::")[0]
    if inner.startswith(("http:", "https:")):
        inner = unquote(urlsplit(inner).path)
    return inner.rstrip("/").rpartition("/")[2] or "file"


def within(url: str, name: str) -> str:
    """Give the URL, or the place of `name` in it if it is a directory: one that exists, or ends with a slash."""
    path = local_path(url)
    if url.endswith("/"):
        return url + name
    return str(path / name) if path is not None and path.is_dir() else url


def fingerprint(url: str) -> str | None:
    """Tell one state of a URL's content from another without reading it; None if there is nothing.

    A local file gives its size and modification time, anything else what fsspec knows of it.

    Raises
    ------
    InputError
        If the URL is a directory, or cannot be reached at all.
    """
    path = local_path(url)
    try:
        if path is not None:
            status = path.stat()
            _refuse_directory(url, path.is_dir())
            return f"{status.st_size}-{status.st_mtime_ns}"
        system, place = _open_filesystem(url)
        info = system.info(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    _refuse_directory(url, info.get("type") == "directory")
    return hashlib.blake2b(repr(sorted(info.items())).encode(), digest_size=16).hexdigest()


def fetch(url: str, target: Path) -> None:
    """Download a URL that is not local.

    Raises
    ------
    InputError
        If there is nothing at the URL, or a directory.
    """
    system, place = _open_filesystem(url)
    try:
        system.get_file(place, str(target))
    except FileNotFoundError as error:
        raise InputError(f"cannot import {shown(url)}: there is no such file") from error
    _refuse_directory(url, target.is_dir())


def send(source: Path, url: str, *, executable: bool = False) -> None:
    """Copy a local file to a URL or path, whole or not at all.

    Directories on the way to a local target are made. A local target gets the user's ordinary
    permissions, and `executable` adds the right to execute.

    Raises
    ------
    OSError
        If the target cannot be written.
    """
    path = local_path(url)
    if path is None:
        system, place = _open_filesystem(url)
        system.put_file(str(source), place)
    elif path.exists() and not path.is_file():
        with source.open("rb") as data, path.open("wb") as device:
            shutil.copyfileobj(data, device, _CHUNK)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path, 0o777 if executable else 0o666) as draft:
            shutil.copyfile(source, draft)


def holds(url: str, size: int, checksum: str) -> bool:
    """Say whether a URL has this content already (size in bytes, BLAKE2b-16 in hexadecimal), by reading it."""
    system, place = _open_filesystem(url)
    try:
        if system.info(place)["size"] != size:
            return False
        digest = hashlib.blake2b(digest_size=16)
        with system.open(place, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return False
    return digest.hexdigest() == checksum


@contextlib.contextmanager
def _replacing(path: Path, mode: int) -> Iterator[Path]:
    """Give a file beside `path` that takes its place when the block ends well."""
    draft = path.with_name(f".toilfn-{secrets.token_hex(8)}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    try:
        yield draft
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _open_filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    path = local_path(url)
    try:
        if path is not None:
            return fsspec.filesystem("file"), str(path)
        system, place = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"cannot open {shown(url)}: {error}") from error
    return system, place


def _refuse_directory(url: str, is_directory: bool) -> None:
    if is_directory:
        raise InputError(f"{shown(url)} is a directory: import or export its files one by one")
