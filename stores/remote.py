"""Objects in any place fsspec can write to."""

from __future__ import annotations

import copy
import io
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from itertools import count
from typing import Any, BinaryIO, TypeVar, cast

import fsspec

from toilfn.errors import StoreError, ToilfnError
from toilfn.stores.blobs import WrappedStream
from toilfn.stores.limited import SLOWEST, NoAnswerError, limited
from toilfn.stores.objects import TEMPORARY, MissingObjectError, Objects, checked_name
from toilfn.stores.options import for_driver

__all__ = ["FsspecObjects", "reason"]

_T = TypeVar("_T")

_ATTEMPTS = 4
_PATIENCE = 15.0
"""Seconds after which an operation is not repeated; the driver's own retries are not counted."""

_SILENCE = 300.0
"""Seconds within which a driver must answer, its own retries included; the time for the transferred bytes is added."""

_random = random.Random()  # noqa: S311 - only spreads retries in time
"""A generator of our own, since the user may seed the global one."""

_MEMORY_LOCK = threading.RLock()
"""fsspec's memory file system checks and then writes in two steps, so its users in one process must take turns."""

_log = logging.getLogger("toilfn.stores")


class FsspecObjects(Objects):
    """Objects in an fsspec file system.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
        The file system.
    root : str
        The prefix, in the notation of the file system.
    url : str
        The prefix, as people write it.
    """

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str, url: str) -> None:
        self._opened = fs
        self._process = os.getpid()
        self._root = root.rstrip("/")
        self.url = url
        in_memory = fs.protocol == "memory"
        # `_do` holds the lock during a call, which may contain other calls, so it is reentrant. For the same reason,
        # `_limited` calls the memory file system in this thread: another thread would wait for the lock forever.
        self._lock: AbstractContextManager[object] = _MEMORY_LOCK if in_memory else nullcontext()
        self._in_memory = in_memory
        self.parallel = 1 if in_memory else 16

    @classmethod
    def connect(cls, url: str, options: dict[str, Any]) -> FsspecObjects:
        """Build an instance from a URL and the options of its file system, which may raise any error."""
        schemes = [part.partition("://")[0] for part in url.split("::")]
        drivers = [fsspec.get_filesystem_class(scheme) for scheme in schemes]
        # In a URL that chains file systems, the options of each are grouped under its scheme.
        nested = {name: value for name, value in options.items() if name in schemes and isinstance(value, Mapping)}
        plain = {name: value for name, value in options.items() if name not in nested}
        given = for_driver(plain, drivers, f"job store {url} (opened by fsspec)")
        for scheme, driver in zip(schemes, drivers, strict=True):
            if scheme in nested:
                given[scheme] = for_driver(nested[scheme], [driver], f"{scheme} in {url} (opened by fsspec)")
        fs, root = fsspec.url_to_fs(url, **given)
        return cls(fs, root, url)

    @property
    def _fs(self) -> fsspec.AbstractFileSystem:
        """The file system. A forked process builds a new one, since connections and threads stay with its parent."""
        if self._process != os.getpid():
            old = self._opened
            self._opened = type(old)(*old.storage_args, skip_instance_cache=True, **old.storage_options)
            self._process = os.getpid()
        return self._opened

    def try_out(self) -> None:
        """Test whether the place supports writing an object only if it does not exist."""
        self.conditional = self._do("write", "", self._is_conditional)

    def adopt(self, *, conditional: bool, sync: bool) -> None:
        """Take over the properties recorded when the store was created, and warn if it has no conditional writes."""
        super().adopt(conditional=conditional, sync=sync)
        if not conditional:
            _log.warning("%s has no conditional writes: only the lease keeps a second leader from writing", self.url)

    def below(self, folder: str) -> FsspecObjects:
        """Return the objects of a folder, through the same connections."""
        other = copy.copy(self)
        other._root, other.url = self._path(folder), f"{self.url}/{folder}"
        return other

    def folders(self) -> Iterator[str]:
        """Iterate over the names of the folders directly below the prefix."""
        for entry in self._do("list", "", self._entries):
            path = entry["name"].rstrip("/")
            if entry["type"] == "directory" and path != self._root.rstrip("/"):
                yield path.rpartition("/")[2]

    def total_size(self) -> int:
        """Return the size of all objects in bytes."""
        return self._do("list", "", lambda: sum(entry["size"] or 0 for entry in self._all_entries().values()))

    def get(self, name: str) -> bytes:
        """Read an object."""
        return self._do("read", name, lambda: self._read(self._path(name)), more=self._time_to_read(name))

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object."""
        if self.conditional:
            self._do("write", name, lambda: self._write(self._path(name), data), size=len(data))
        else:
            self._do(
                "write", name, lambda: self._write_aside(name, lambda path: self._write(path, data)), size=len(data)
            )

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one; exactly one of several writers gets True.

        False may also mean that this call wrote the object but the server's answer was lost.
        """
        if self.conditional:
            return self._put_conditionally(name, data)
        if self.exists(name):
            return False
        self.put(name, data)
        return True

    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        try:
            self.size(name)
        except MissingObjectError:
            return False
        return True

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        return self._do("read", name, lambda: self._head(self._path(name)))

    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the names with a prefix, in no particular order."""
        for path in self._find(prefix):
            name = path[len(self._root) :].lstrip("/")
            if name.startswith(prefix) and not name.rpartition("/")[2].startswith(TEMPORARY):
                yield name

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; missing ones are ignored."""
        with ThreadPoolExecutor(self.parallel) as pool:
            for _ in pool.map(self._delete, names):
                pass

    def upload(self, path: str | os.PathLike[str], name: str, *, move: bool = False) -> None:
        """Write or replace an object with a file's content; with `move`, the file is removed afterwards."""
        local, size = os.fspath(path), os.path.getsize(path)
        if self.conditional:
            self._do("write", name, lambda: self._send(local, self._path(name)), size=size)
        else:
            self._do(
                "write", name, lambda: self._write_aside(name, lambda target: self._send(local, target)), size=size
            )
        if move:
            os.unlink(local)

    def download(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write an object's content to a file, which is replaced."""
        more = self._time_to_read(name)
        self._do("read", name, lambda: self._fetch(self._path(name), os.fspath(path)), more=more)

    def open(self, name: str) -> BinaryIO:
        """Open an object for reading."""
        if self._in_memory:  # all streams of a file in memory share one position
            return io.BytesIO(self.get(name))
        stream = self._do("read", name, lambda: self._open(self._path(name)))
        return cast("BinaryIO", _Stream(stream, partial(self._do, "read", name)))

    def copy_out(self, name: str, system: Any, place: str) -> bool:
        """Have the server copy an object to a path of an fsspec file system; return False if that is another server."""
        server = self._server_of(self._fs)
        if server is None or type(system) is not type(self._fs) or self._server_of(system) != server:
            return False
        try:
            self._fs.cp_file(self._path(name), place)
        except Exception as error:  # for example, the store's credentials may not allow writing there
            _log.debug("%s: the server could not copy %s to %s: %s", self.url, name, place, reason(error))
            return False
        return True

    def _server_of(self, system: Any) -> str | None:
        """Identify the server of a file system; None if it cannot copy objects itself."""
        return None

    def sweep(self, age: float) -> int:
        """Delete half-written objects older than `age` seconds, or all of them for 0; return their number."""
        if self.conditional:
            return 0
        latest = time.time() - age if age > 0 else float("inf")
        old = [path for path in self._find("") if self._is_left_over(path, latest)]
        self.delete(path[len(self._root) + 1 :] for path in old)
        return len(old)

    def clear(self, folder: str) -> None:
        """Delete every object below a folder, and the folder itself if the place has folders."""
        self.delete(list(self.list(f"{folder}/")))
        with self._lock, suppress(Exception):  # object stores have no folders to remove
            self._limited(lambda: self._fs.rm(self._path(folder), recursive=True))

    def remove_root(self) -> None:
        """Remove the prefix itself, if it is a directory and empty."""
        with self._lock, suppress(Exception):  # object stores have no folders to remove
            self._limited(lambda: self._fs.rmdir(self._root))

    def is_empty(self) -> bool:
        """Return whether the prefix is empty, except for the temporary objects of a store that is being created."""
        found = self._do("list", "", self._top)
        return all(path.rpartition("/")[2].startswith(TEMPORARY) for path in found)

    # Methods that drivers override. Each makes one attempt, and raises the driver's own errors.

    def _can_create(self) -> bool:
        """Return whether the driver can create objects atomically: fsspec's default checks first and then writes."""
        method = getattr(self._fs.pipe_file, "__func__", None)
        return method is not fsspec.AbstractFileSystem.pipe_file

    def _read(self, path: str) -> bytes:
        data: bytes = self._fs.cat_file(path)
        return data

    def _write(self, path: str, data: bytes) -> None:
        self._fs.pipe_file(path, data)

    def _create(self, path: str, data: bytes) -> None:
        """Write an object if there is none; else raise FileExistsError."""
        self._fs.pipe_file(path, data, mode="create")

    def _head(self, path: str) -> int:
        self._fs.invalidate_cache()
        return int(self._fs.info(path)["size"])

    def _find(self, prefix: str) -> Iterable[str]:
        """List the paths whose names start with a prefix, and possibly others."""
        return self._do("list", prefix, lambda: self._find_below(self._path(prefix.rpartition("/")[0])))

    def _top(self) -> Sequence[str]:
        """List some or all entries directly below the prefix, including folders."""
        self._fs.invalidate_cache()
        try:
            return list(self._fs.ls(self._root, detail=False))
        except FileNotFoundError:
            return []

    def _entries(self) -> Sequence[dict[str, Any]]:
        """List the entries directly below the prefix, each with its type: file or directory."""
        self._fs.invalidate_cache()
        try:
            return list(self._fs.ls(self._root, detail=True))
        except FileNotFoundError:
            return []

    def _all_entries(self) -> dict[str, dict[str, Any]]:
        """Return the entries of all objects below the prefix, by path; an entry has the size."""
        self._fs.invalidate_cache()
        found: dict[str, dict[str, Any]] = self._fs.find(self._root, detail=True)
        return found

    def _send(self, local: str, path: str) -> None:
        self._fs.put_file(local, path)

    def _fetch(self, path: str, local: str) -> None:
        self._fs.get_file(path, local)

    def _open(self, path: str) -> BinaryIO:
        stream: BinaryIO = self._fs.open(path, "rb")
        return stream

    def _is_transient(self, error: Exception) -> bool:
        """Return whether an error is temporary, such as a network failure or an overloaded server."""
        return isinstance(error, (ConnectionError, TimeoutError))

    # Helpers

    def _is_conditional(self) -> bool:
        """Test whether conditional writes work: some drivers and servers ignore the condition, others refuse it."""
        if not self._can_create():
            return False
        path = self._path(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            return self._creates(path, b"first") and not self._creates(path, b"second")
        finally:
            with suppress(Exception):  # the test is done; garbage collection removes the object later
                self._fs.rm_file(path)

    def _creates(self, path: str, data: bytes) -> bool:
        """Try to create an object, and return whether the object then has this content, whatever the answer was."""
        try:
            self._create(path, data)
        except Exception as error:  # each driver raises a different error when the condition is not met
            if self._is_transient(error):
                raise
        try:
            return self._read(path) == data
        except FileNotFoundError:
            self._write(path, data)  # if the condition was not the cause, this raises the real error
            return False

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked_name(name, self.url)}" if name else self._root

    def _find_below(self, path: str) -> Sequence[str]:
        self._fs.invalidate_cache()
        try:
            return list(self._fs.find(path))
        except FileNotFoundError:
            return []

    def _delete(self, name: str) -> None:
        with suppress(MissingObjectError):
            self._do("delete", name, lambda: self._fs.rm_file(self._path(name)))

    def _put_conditionally(self, name: str, data: bytes) -> bool:
        for attempt in range(_ATTEMPTS):
            try:
                self._do("write", name, lambda: self._create(self._path(name), data), size=len(data))
                return True
            except FileExistsError:
                return False
            except StoreError as error:
                if isinstance(error.__cause__, NoAnswerError):
                    raise
                # S3-compatible servers refuse in different ways, and ask concurrent writers to try again.
                if self.exists(name):
                    return False
                if attempt == _ATTEMPTS - 1:
                    raise
                _pause(attempt)
        raise AssertionError("unreachable")

    def _write_aside(self, name: str, write: Callable[[str], object]) -> None:
        """Write to a temporary name and rename, for places where a half-written file would be visible."""
        folder = self._path(name).rpartition("/")[0]
        temporary = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}"
        self._fs.makedirs(folder, exist_ok=True)
        write(temporary)
        self._fs.mv(temporary, self._path(name))

    def _is_left_over(self, path: str, latest: float) -> bool:
        if not path.rpartition("/")[2].startswith(TEMPORARY):
            return False
        try:
            return latest == float("inf") or bool(self._fs.modified(path).timestamp() < latest)
        except (NotImplementedError, FileNotFoundError):
            return False

    def _time_to_read(self, name: str) -> Callable[[], float]:
        """Return a function that requests an object's size and returns the seconds that reading it may take."""
        return lambda: limited(_SILENCE, lambda: self._head(self._path(name))) / SLOWEST

    def _limited(self, call: Callable[[], _T], *, size: int = 0, more: Callable[[], float] | None = None) -> _T:
        """Call the driver with a time limit, which is longer if it transfers `size` bytes."""
        return call() if self._in_memory else limited(_SILENCE + size / SLOWEST, call, more=more)

    def _do(
        self, verb: str, name: str, call: Callable[[], _T], *, size: int = 0, more: Callable[[], float] | None = None
    ) -> _T:
        """Call the driver, repeat the call after temporary errors, and convert its errors into those of the store."""
        deadline = time.monotonic() + _PATIENCE
        for attempt in count():
            try:
                with self._lock:
                    return self._limited(call, size=size, more=more)
            except FileNotFoundError as error:
                raise self._not_found(name, error) from error
            except (FileExistsError, ToilfnError):
                raise
            except Exception as error:
                if attempt + 1 == _ATTEMPTS or time.monotonic() > deadline or not self._is_transient(error):
                    raise self._failed(verb, name, error) from error
            _pause(attempt)
        raise AssertionError("unreachable")

    def _failed(self, verb: str, name: str, error: Exception) -> StoreError:
        hint = "try again when the storage service responds" if isinstance(error, NoAnswerError) else self._hint(error)
        message = f"cannot {verb} {name or 'objects'} in {self.url}: {reason(error)}"
        return StoreError(message.rstrip("."), hint=hint or None)

    def _hint(self, error: Exception) -> str:
        """Return a hint for a driver's error; empty if its own message is enough."""
        return ""

    def _not_found(self, name: str, error: FileNotFoundError) -> StoreError:
        return MissingObjectError(f"object {name} not found in {self.url}")


class _Stream(WrappedStream):
    """A driver's stream of which each read has a time limit and is repeated after temporary errors.

    Parameters
    ----------
    stream : BinaryIO
        The driver's stream.
    do : callable
        Calls the driver, and converts its errors into those of the store.
    """

    def __init__(self, stream: BinaryIO, do: Callable[..., Any]) -> None:
        super().__init__(stream)
        self._do = do

    def take(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        data: bytes = self._do(lambda: self._stream.read(size), size=size)
        return data


def _pause(attempt: int) -> None:
    """Wait before the next attempt, longer each time, with jitter to spread processes that failed together."""
    time.sleep(_random.uniform(0.5, 1) * 0.2 * 2**attempt)


def reason(error: BaseException) -> str:
    """Return an error's message, or its type if it has none."""
    text = str(error)
    if text not in ("", "None"):
        return text
    return reason(error.__cause__) if error.__cause__ is not None else type(error).__name__
