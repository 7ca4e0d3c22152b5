"""Transfer bytes from and to URLs, which fsspec opens, and plain paths."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import glob
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from toilfn import confined
from toilfn.errors import CorruptObjectError, InputError
from toilfn.files.digests import digest_of_object, remember_object
from toilfn.moved import relocated
from toilfn.stores import Objects, refuse_missing_slashes
from toilfn.stores.digests import Hasher, algorithm_of
from toilfn.stores.files import copy_content
from toilfn.stores.limited import SLOWEST, NoAnswerError, limited
from toilfn.stores.references import Source

__all__ = [
    "absolute",
    "below",
    "copied_at_source",
    "copied_by_server",
    "fetch",
    "fingerprint",
    "holds",
    "local_path",
    "make_directory",
    "matching",
    "modified_time",
    "name_of",
    "open_filesystem",
    "read",
    "refuse_directory",
    "send",
    "send_together",
    "set_time",
    "shown",
    "source_of",
    "takes_many",
    "token",
    "within",
]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)|data:")
_EXTRAS = {"http": "http", "https": "http", "s3": "s3", "gs": "gcs", "gcs": "gcs"}
_CHUNK = 2**20

T = TypeVar("T")

_QUESTION = 60.0
"""Seconds within which a driver must answer, or a download make progress."""

_LISTING = 1800.0
"""Seconds for a listing: a bucket returns a thousand names at a time, and drivers report no progress."""

_TOLD = (
    FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, ImportError, ValueError,
    NotImplementedError, InputError, CorruptObjectError, MemoryError,
)  # fmt: skip
"""Exceptions that callers know how to handle."""

_TIMES = ("LastModified", "last_modified", "Last-Modified", "mtime", "modified", "updated", "date_time", "created")
"""Names that file systems use for the time of the last change; where files never change, that of their creation."""


def local_path(url: str | os.PathLike[str]) -> Path | None:
    """Return the path that a plain path or a ``file:`` URL stands for; None for any other URL.

    In a ``file:`` URL, ``%20`` and the like are decoded (RFC 8089); in a plain path nothing is.
    """
    text = os.fspath(url)
    if isinstance(url, os.PathLike):
        return Path(text)
    if text.startswith("file:"):
        return Path(unquote(re.sub(r"^file:(//(localhost(?=/))?)?", "", text), errors="surrogateescape"))
    return None if _SCHEME.match(text) else Path(text)


def absolute(url: str | os.PathLike[str]) -> str:
    """Return a URL that does not depend on the working directory, to which a plain path may be relative until here.

    Raises
    ------
    InputError
        If it is a URL in which slashes are missing, such as ``s3:bucket/x``.
    """
    if isinstance(url, str) and not url.startswith("file:"):
        refuse_missing_slashes(url)
    path = local_path(url)
    if path is None:
        return os.fspath(url)
    return relocated(str(path.absolute())) + ("/" if os.fspath(url).endswith("/") else "")


def shown(url: str | os.PathLike[str]) -> str:
    """Return a URL for messages, without user name, password and signed query."""
    if local_path(url) is not None:
        return os.fspath(url)
    if os.fspath(url).startswith("data:"):
        return os.fspath(url).partition(",")[0] + ",..."
    return re.sub(r"(?<=://)[^/@]*@", "", os.fspath(url)).partition("?")[0]


def name_of(url: str | os.PathLike[str]) -> str:
    """Return the file name at a URL's end, ``"file"`` if there is none."""
    path = local_path(url)
    if path is not None:
        return path.name or "file"
    inner = os.fspath(url).partition("::")[0]
    if inner.startswith("data:"):
        return "file"
    if inner.startswith(("http:", "https:")):
        inner = unquote(urlsplit(inner).path)
    return inner.rstrip("/").rpartition("/")[2] or "file"


def within(url: str, name: str) -> str:
    """Return the URL; or, if it is a directory that exists or ends with a slash, the place of a file `name` in it.

    Raises
    ------
    InputError
        If the name is not one for a file.
    """
    path = local_path(url)
    if url.endswith("/") or (path is not None and path.is_dir()):
        return below(url, confined.single(name), replaced=True)
    return url


def fingerprint(url: str, *, inode: bool = False) -> str | None:
    """Return a token for the state of a URL's content, without reading it; None if it does not exist.

    A local file gives its size and modification time, with `inode` also which file it is; anything else what fsspec
    knows about it.

    Raises
    ------
    InputError
        If the URL is a directory, or cannot be reached at all.
    """
    path = local_path(url)
    try:
        if path is not None:
            status = path.stat()
            refuse_directory(url, path.is_dir())
            return f"{status.st_size}-{status.st_mtime_ns}" + (f"-{status.st_ino}" if inode else "")
        system, place = open_filesystem(url)
        info = system.info(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    refuse_directory(url, info.get("type") == "directory")
    return token(sorted(info.items()))


def source_of(url: str) -> Source | None:
    """Describe the object at a URL, so that it can be read where it is; return None if that is not safe.

    That is so if its server cannot identify its content, or if the URL holds secrets, which do not belong in a store.

    Raises
    ------
    InputError
        If there is nothing at the URL.
    """
    if shown(url) != url or "::" in url:
        return None
    try:
        return _in_time(url, _QUESTION, lambda: None, Source.look, url)
    except FileNotFoundError as error:
        raise InputError(f"cannot import {shown(url)}: file not found") from error


def fetch(url: str, target: Path) -> None:
    """Download a URL that is not local.

    Raises
    ------
    InputError
        If there is nothing at the URL, or a directory.
    """
    system, place = open_filesystem(url)
    try:
        system.get_file(place, str(target))
    except FileNotFoundError as error:
        raise InputError(f"cannot import {shown(url)}: file not found") from error
    refuse_directory(url, target.is_dir())
    with contextlib.suppress(OSError, InputError):  # some servers give a file and say nothing of it
        set_time(target, modified_time(system.info(place)))


def set_time(path: Path, modified: float | None) -> None:
    """Set the time of a downloaded file to that of its origin, in seconds since 1970, if that is known."""
    with contextlib.suppress(OverflowError, OSError):
        if modified is not None:
            os.utime(path, (modified, modified))


def modified_time(info: Mapping[str, Any]) -> float | None:
    """Return the time of the last change, in seconds since 1970, where the file system knows it."""
    told = next((info[name] for name in _TIMES if info.get(name)), None)
    with contextlib.suppress(ValueError, TypeError, OverflowError, OSError):  # what no calendar has
        return _seconds(told)
    return None


def _seconds(told: object) -> float | None:
    """Return the seconds since 1970 of a time, in any of the forms in which file systems give it."""
    if isinstance(told, dt.datetime):
        return told.timestamp()
    if isinstance(told, str):  # of a header of HTTP, or by ISO 8601
        known = email.utils.parsedate_to_datetime if "," in told else dt.datetime.fromisoformat
        return known(told.replace("Z", "+00:00")).timestamp()
    if isinstance(told, tuple):  # of a member of a zip archive
        return dt.datetime(*told).astimezone().timestamp()
    return float(told) if isinstance(told, (int, float)) else None


def matching(pattern: str) -> list[str]:
    """List the files that match a pattern, as URLs in order."""
    path = local_path(pattern)
    if path is not None:
        return sorted(name for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
    system, place = open_filesystem(pattern)
    found = system.glob(place, detail=True)
    return sorted(system.unstrip_protocol(name) for name, info in found.items() if info["type"] != "directory")


def below(url: str, path: str, *, replaced: bool = False) -> str:
    """Return the URL of a relative path in a directory.

    Raises
    ------
    InputError
        If the path leads out of the directory; see `toilfn.confined.inside`.
    """
    folder = local_path(url)
    if folder is not None:
        confined.inside(folder, path, replaced=replaced)
    return f"{url.rstrip('/')}/{confined.relative(path)}"


def make_directory(url: str) -> None:
    """Create a directory unless it exists; object stores have none and need none."""
    path = local_path(url)
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)


def send(source: Path, url: str, *, executable: bool = False, link: bool = False, modified: int | None = None) -> None:
    """Copy a local file to a URL or path, whole or not at all.

    Directories on the way to a local target are made. A local target gets the user's ordinary
    permissions, and `executable` adds the right to execute. With `link`, a local target is a hard
    link where that is possible. `modified` is the modification time to give a local copy, in nanoseconds.

    Raises
    ------
    OSError
        If the target cannot be written.
    """
    path = local_path(url)
    if path is None:
        system, place = open_filesystem(url)
        system.put_file(str(source), place)
    elif path.exists() and not path.is_file():
        with source.open("rb") as data, path.open("wb") as device:
            shutil.copyfileobj(data, device, _CHUNK)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path, 0o777 if executable else 0o666) as draft:
            if not (link and _linked(source, draft)):
                with source.open("rb") as content, draft.open("wb") as target:
                    copy_content(content, target)
                if modified is not None:
                    os.utime(draft, ns=(modified, modified))


def takes_many(url: str) -> bool:
    """Return whether the driver of a URL that is not local uploads many files at the same time by itself."""
    return local_path(url) is None and bool(open_filesystem(url)[0].inner.async_impl)


def send_together(files: Sequence[tuple[Path, str]]) -> None:
    """Upload local files to URLs of one file system for which `takes_many` is true, each whole or not at all."""
    system, _ = open_filesystem(files[0][1])
    system.put([str(source) for source, _ in files], [system.inner._strip_protocol(url) for _, url in files])


def copied_at_source(source: Source, url: str) -> bool:
    """Let the server of an object copy it to a URL on the same server; return False if it cannot.

    Raises
    ------
    CorruptObjectError
        If the object is gone or has changed.
    """
    if local_path(url) is not None:
        return False
    limit = _QUESTION + source.size / SLOWEST
    return _in_time(url, limit, lambda: None, source.copied_by_server, url)


def copied_by_server(objects: Objects, name: str, url: str, size: int) -> bool:
    """Let a store's server copy an object to a URL on the same server; return False if it cannot."""
    if local_path(url) is not None:
        return False
    system, place = open_filesystem(url)
    if not isinstance(system, _Driver):
        return False
    limit = _QUESTION + size / SLOWEST
    return _in_time(url, limit, lambda: None, objects.copy_out, name, system.inner, place)


def read(url: str) -> bytes:
    """Return the content of a URL, all of it in memory.

    Raises
    ------
    FileNotFoundError
        x    InputError
        If the place cannot be reached, or stops answering.
    """
    content = bytearray()
    _read_through(url, content.extend)
    return bytes(content)


def _read_through(url: str, take: Callable[[bytes], object]) -> None:
    """Read a URL piece by piece; a driver that stops in the middle is not waited for."""
    system, place = open_filesystem(url)
    taken = 0

    def read_all() -> None:
        nonlocal taken
        with system.open(place, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                take(chunk)
                taken += len(chunk)

    _in_time(url, _QUESTION, lambda: taken, read_all)


def holds(url: str, size: int, digest: bytes) -> bool:
    """Return whether a URL has the content with this size in bytes and this digest already, by reading it."""
    system, place = open_filesystem(url)
    try:
        if system.info(place)["size"] != size:
            return False
        source = source_of(url) if local_path(url) is None else None
        algorithm = algorithm_of(digest)
        known = None if source is None else digest_of_object(source, algorithm)
        if known is None:
            hasher = Hasher(algorithm)
            _read_through(url, hasher.update)
            known = hasher.digest()
            if source is not None and source == source_of(url):  # the same object as before
                remember_object(source, known)
    except (OSError, InputError):
        return False
    return known == digest


def _linked(source: Path, draft: Path) -> bool:
    """Replace a draft by a hard link with the draft's permissions; False if the file system cannot."""
    mode = stat.S_IMODE(draft.stat().st_mode)
    other = draft.with_name(f"{draft.name}-link")
    try:
        os.link(source, other)
    except OSError:
        return False
    other.chmod(mode)
    other.replace(draft)
    return True


@contextlib.contextmanager
def _replacing(path: Path, mode: int) -> Iterator[Path]:
    """Return a file beside `path` that takes its place when the block ends well."""
    draft = path.with_name(f".toilfn-{secrets.token_hex(8)}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    try:
        yield draft
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and its own name for the URL.

    Raises
    ------
    InputError
        If its driver is missing, or the URL is not valid.
    """
    import fsspec

    path = local_path(url)
    try:
        if path is not None:
            return fsspec.filesystem("file"), str(path)
        if url.startswith("data:"):  # its path is the whole URL
            return fsspec.filesystem("data"), url
        system, place = _in_time(url, _QUESTION, lambda: None, fsspec.core.url_to_fs, url)
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(url.partition(":")[0]) if isinstance(error, ImportError) else None
        advice = f". Install toilfn[{extra}]" if extra else ""
        raise InputError(f"cannot open {shown(url)}: {error}{advice}") from error
    return _Driver(system, url), place


class _Driver:
    """An fsspec file system whose calls have a time limit each, and whose errors name the URL."""

    def __init__(self, system: Any, url: str) -> None:
        self._system = system
        self._url = url

    @property
    def inner(self) -> Any:
        """The file system itself."""
        return self._system

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._system, name)
        if name == "unstrip_protocol":  # asks no server
            return function
        limit = _LISTING if name in ("find", "glob") else _QUESTION
        return lambda *args, **named: _in_time(self._url, limit, lambda: None, function, *args, **named)

    def get_file(self, place: str, target: str) -> None:
        """Download a file."""
        self._get(self._system.get_file, place, [target])

    def get(self, places: list[str], targets: list[str]) -> None:
        """Download files."""
        self._get(self._system.get, places, targets)

    def put_file(self, source: str, place: str) -> None:
        """Upload a file; drivers do not say how far they are."""
        limit = _QUESTION + os.path.getsize(source) / SLOWEST
        _in_time(self._url, limit, lambda: None, self._system.put_file, source, place)

    def put(self, sources: list[str], places: list[str]) -> None:
        """Upload files; a callback counts those that are done."""
        import fsspec

        done = fsspec.callbacks.Callback()
        limit = _QUESTION + max(map(os.path.getsize, sources)) / SLOWEST
        _in_time(self._url, limit, lambda: done.value, self._system.put, sources, places, callback=done)

    def _get(self, function: Callable[..., Any], places: Any, targets: list[str]) -> None:
        def received() -> object:
            return [os.path.getsize(target) for target in targets if os.path.exists(target)]

        wanted = targets if isinstance(places, list) else targets[0]
        _in_time(self._url, _QUESTION, received, function, places, wanted)


def _in_time(
    url: str, limit: float, progress: Callable[[], object], function: Callable[..., T], *args: Any, **named: Any
) -> T:
    """Call a driver, which may have no limit of time of its own.

    Parameters
    ----------
    url : str
        The subject of the call.
    limit : float
        Seconds that it may take without progress.
    progress : callable
        Returns something else for as long as there is progress.
    function : callable
    *args, **named
        Its arguments.

    Raises
    ------
    InputError
        If there is no answer in time, or the driver raises an error that is not about what there is.
    """
    try:
        return limited(limit, partial(function, *args, **named), progress=progress)
    except NoAnswerError as error:
        raise InputError(f"{shown(url)}: {error}; try again when the storage service responds") from None
    except _TOLD:
        raise
    except Exception as error:
        raise InputError(f"cannot reach {shown(url)}: {type(error).__name__}: {error}") from error


def token(value: object) -> str:
    """Return a short text that differs for values that print differently."""
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()


def refuse_directory(url: str | os.PathLike[str], is_directory: bool) -> None:
    """Raise `InputError` if there is a directory in the place of a file."""
    if is_directory:
        raise InputError(f"{shown(url)} is a directory", hint="use toilfn.import_directory")
