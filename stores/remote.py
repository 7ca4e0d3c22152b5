"""Objects in any place that fsspec can write to."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, BinaryIO

import fsspec

from toilfn.errors import StoreError, ToilfnError
from toilfn.stores.objects import TEMPORARY, MissingObjectError, Objects

__all__ = ["FsspecObjects", "is_conditional"]

_ATTEMPTS = 3
_MEMORY_LOCK = threading.RLock()
"""fsspec's memory file system looks and then writes, so its users in one process must take turns."""

_log = logging.getLogger("toilfn.stores")


class FsspecObjects(Objects):
    """Objects in a file system of fsspec's.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
        The file system.
    root : str
        The prefix, as the file system writes it.
    url : str
        The prefix, as people write it.
    """

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str, url: str) -> None:
        self._fs = fs
        self._root = root.rstrip("/")
        self.url = url
        in_memory = fs.protocol == "memory"
        self._lock: AbstractContextManager[object] = _MEMORY_LOCK if in_memory else nullcontext()
        self._in_memory = in_memory
        self.parallel = 1 if in_memory else 16

    @classmethod
    def connect(cls, url: str, options: dict[str, Any]) -> FsspecObjects:
        """Make one from a URL and the options of its file system, which may raise any error."""
        fs, root = fsspec.url_to_fs(url, **options)
        return cls(fs, root, url)

    def try_out(self) -> None:
        """Find out whether the place can write an object only if there is none."""
        with self._translated("write", ""):
            self.set_conditional(is_conditional(self._fs, self._root))

    def set_conditional(self, conditional: bool) -> None:
        """Take note of what was found out when the store was made."""
        if not conditional:
            _log.warning("%s has no conditional writes: only the lease keeps a second leader from writing", self.url)
        self.conditional = conditional

    def get(self, name: str) -> bytes:
        """Read an object."""
        with self._translated("read", name):
            data: bytes = self._fs.cat_file(self._path(name))
            return data

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object."""
        with self._translated("write", name):
            if self.conditional:
                self._fs.pipe_file(self._path(name), data)
            else:
                self._write_aside(name, lambda path: self._fs.pipe_file(path, data))

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one: of several writers one gets True.

        False may also mean that this very call wrote it and the answer was lost on its way.
        """
        if self.conditional:
            return self._put_conditionally(name, data)
        if self.exists(name):
            return False
        self.put(name, data)
        return True

    def exists(self, name: str) -> bool:
        """Say whether there is an object of this name."""
        try:
            self.size(name)
        except MissingObjectError:
            return False
        return True

    def size(self, name: str) -> int:
        """Give an object's size in bytes."""
        with self._translated("read", name):
            self._fs.invalidate_cache()
            return int(self._fs.info(self._path(name))["size"])

    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the names that start so, in no particular order."""
        with self._translated("list", prefix):
            self._fs.invalidate_cache()
            found = self._find(self._path(prefix.rpartition("/")[0]))
        for path in found:
            name = path[len(self._root) :].lstrip("/")
            if name.startswith(prefix) and not name.rpartition("/")[2].startswith(TEMPORARY):
                yield name

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone are no error."""
        with ThreadPoolExecutor(self.parallel) as pool:
            for _ in pool.map(self._delete, names):
                pass

    def upload(self, path: str | os.PathLike[str], name: str, *, move: bool = False) -> None:
        """Write or replace an object with a file's content; with `move`, the file is given away."""
        local = os.fspath(path)
        with self._translated("write", name):
            if self.conditional:
                self._fs.put_file(local, self._path(name))
            else:
                self._write_aside(name, lambda target: self._fs.put_file(local, target))
            if move:
                os.unlink(local)

    def download(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write an object's content to a file, which is replaced."""
        with self._translated("read", name):
            self._fs.get_file(self._path(name), os.fspath(path))

    def open(self, name: str) -> BinaryIO:
        """Open an object for reading."""
        if self._in_memory:  # all that open one of its files share a position
            return io.BytesIO(self.get(name))
        with self._translated("read", name):
            stream: BinaryIO = self._fs.open(self._path(name), "rb")
            return stream

    def sweep(self, age: float) -> int:
        """Delete what writers left half-written more than `age` seconds ago, and say how many."""
        if self.conditional:
            return 0
        with self._translated("list", ""):
            self._fs.invalidate_cache()
            old = [path for path in self._find(self._root) if self._is_left_over(path, time.time() - age)]
        self.delete(path[len(self._root) + 1 :] for path in old)
        return len(old)

    def clear(self, folder: str) -> None:
        """Delete every object below a folder, and the folder where such a thing exists."""
        self.delete(list(self.list(f"{folder}/")))
        with self._lock, suppress(Exception):  # object stores have no folders to remove
            self._fs.rm(self._path(folder), recursive=True)

    def remove_root(self) -> None:
        """Remove the prefix itself, if it is a directory and empty."""
        with self._lock, suppress(Exception):  # object stores have no folders to remove
            self._fs.rmdir(self._root)

    def is_empty(self) -> bool:
        """Say whether there is nothing under the prefix but what a store that is just being made leaves."""
        with self._translated("list", ""):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._root, detail=False)
            except FileNotFoundError:
                return True
            return all(path.rpartition("/")[2].startswith(TEMPORARY) for path in found)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _find(self, path: str) -> Sequence[str]:
        try:
            return list(self._fs.find(path))
        except FileNotFoundError:
            return []

    def _delete(self, name: str) -> None:
        with suppress(MissingObjectError), self._translated("delete", name):
            self._fs.rm_file(self._path(name))

    def _put_conditionally(self, name: str, data: bytes) -> bool:
        for attempt in range(_ATTEMPTS):
            try:
                with self._translated("write", name):
                    self._fs.pipe_file(self._path(name), data, mode="create")
                return True
            except FileExistsError:
                return False
            except StoreError:
                # S3's lookalikes differ in how they refuse, and ask a writer that met another one to try again.
                if self.exists(name):
                    return False
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")

    def _write_aside(self, name: str, write: Callable[[str], object]) -> None:
        """Write under another name and rename, for places where a half-written file could be seen."""
        folder = self._path(name).rpartition("/")[0]
        temporary = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}"
        self._fs.makedirs(folder, exist_ok=True)
        write(temporary)
        self._fs.mv(temporary, self._path(name))

    def _is_left_over(self, path: str, latest: float) -> bool:
        if not path.rpartition("/")[2].startswith(TEMPORARY):
            return False
        try:
            return bool(self._fs.modified(path).timestamp() < latest)
        except (NotImplementedError, FileNotFoundError):
            return False

    @contextmanager
    def _translated(self, verb: str, name: str) -> Iterator[None]:
        """Take the memory file system's lock, and tell errors of any driver in the store's own terms."""
        try:
            with self._lock:
                yield
        except FileNotFoundError as error:
            raise MissingObjectError(f"There is no object {name} in {self.url}.") from error
        except (FileExistsError, ToilfnError):
            raise
        except Exception as error:
            raise StoreError(f"Cannot {verb} {name or 'objects'} in {self.url}: {reason(error)}") from error


def is_conditional(fs: fsspec.AbstractFileSystem, root: str) -> bool:
    """Try whether a file system writes a file only if there is none, by one request.

    fsspec's default looks first and writes then, which two writers can do at the same time; some
    servers ignore the condition.
    """
    method = getattr(fs.pipe_file, "__func__", None)
    if method is fsspec.AbstractFileSystem.pipe_file:
        return False
    path = f"{root.rstrip('/')}/{TEMPORARY}{uuid.uuid4().hex}"
    with _MEMORY_LOCK:
        try:
            return _refuses_second(fs, path)
        finally:
            with suppress(Exception):  # what matters is known; garbage collection takes the rest
                fs.rm_file(path)


def _refuses_second(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    try:
        fs.pipe_file(path, b"first", mode="create")
    except Exception:
        fs.pipe_file(path, b"first")  # raises what is really wrong, if it was not the mode
        return False
    with suppress(Exception):  # the refusal, whatever the driver calls it
        fs.pipe_file(path, b"second", mode="create")
    return bool(fs.cat_file(path) == b"first")


def reason(error: BaseException) -> str:
    """Give an error's text, or its type where it has none."""
    return str(error) or type(error).__name__
