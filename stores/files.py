"""Objects as files in a directory, on any POSIX file system."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from toilfn.errors import StoreError, StoreNotFoundError
from toilfn.stores.digests import DEFAULT, Hasher, hash_file
from toilfn.stores.faults import fault
from toilfn.stores.objects import TEMPORARY, MissingObjectError, Objects, checked_name

__all__ = ["FileObjects", "clone", "copy_content"]

_FICLONE = 0x40049409
"""The Linux ioctl that makes a file share its blocks with another one (btrfs, XFS, ...)."""

_LARGE = 2**30
"""Bytes to copy by one system call."""

_PIECE = 2**23
"""The number of bytes to copy at a time; for a smaller file, starting a thread would take longer than it saves."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
"""Errors of file systems without hard links."""

_LOCK = f"{TEMPORARY}lock"
"""The lock file that the writer of a new object holds on file systems without hard links."""

_log = logging.getLogger("toilfn.stores")


class FileObjects(Objects):
    """Objects as files in a directory.

    A new object is written to a temporary file, which is then hard-linked to its name: only one writer can do that.
    An object is replaced by a rename. Directories are accessible to the user only.

    Parameters
    ----------
    root : path
        The directory. `prepare` creates it.
    sync : bool
        Whether a write returns only when it would survive a power failure.
    """

    def __init__(self, root: str | os.PathLike[str], *, sync: bool = True) -> None:
        self._root = os.path.abspath(root)
        self.url = f"file://{self._root}"
        self.sync = sync

    def prepare(self) -> None:
        """Create the directory, accessible to the user only."""
        try:
            os.makedirs(os.path.dirname(self._root), exist_ok=True)
            with suppress(FileExistsError):
                os.mkdir(self._root, 0o700)
            os.stat(self._root)
        except FileNotFoundError as error:
            link = os.path.realpath(self._root)
            why = f"it is a link to {link}, which does not exist"
            raise StoreError(f"job store {self._root} cannot be created: {why}") from error
        except OSError as error:
            raise StoreError(f"job store {self._root} cannot be created: {error}") from error
        except UnicodeEncodeError as error:
            raise _unencodable(self._root, error) from None

    def below(self, folder: str) -> FileObjects:
        """Return the objects of a folder."""
        return FileObjects(self._path(folder), sync=self.sync)

    def folders(self) -> Iterator[str]:
        """Iterate over the names of the folders directly below the directory that may be read."""
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError), os.scandir(self._root) as entries:
            yield from (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def total_size(self) -> int:
        """Return the size of all files in bytes; those that vanish meanwhile do not count."""
        total = 0
        for path in _walk(self._root):
            with suppress(FileNotFoundError):
                total += os.lstat(path).st_size
        return total

    def get(self, name: str) -> bytes:
        """Read an object."""
        with self._translated("read", name), open(self._path(name), "rb", buffering=0) as file:
            return file.read()

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object."""
        with self._translated("write", name):
            temporary = self._write_temporary(name, data)
            fault("objects.temporary")
            self._replace(temporary, self._path(name))

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one; exactly one of several writers gets True."""
        with self._translated("write", name):
            temporary = self._write_temporary(name, data)
            fault("objects.temporary")
            try:
                return self._link_new(temporary, self._path(name))
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)

    def put_buffer(self, name: str, data: memoryview) -> None:
        """Write an object from memory unless there is one; its file is read-only, for readers that map it."""
        with self._translated("write", name):
            temporary = self._write_temporary(name, data)
            os.chmod(temporary, 0o444)
            fault("objects.temporary")
            try:
                self._link_new(temporary, self._path(name))
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)

    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        return os.path.isfile(self._path(name))

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        with self._translated("read", name):
            return os.stat(self._path(name)).st_size

    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the names with a prefix, in no particular order."""
        folder = prefix.rpartition("/")[0]
        with self._translated("list", prefix):
            for path in _walk(self._path(folder)):
                name = path[len(self._root) + 1 :]
                if name.startswith(prefix) and not os.path.basename(name).startswith(TEMPORARY):
                    yield name

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; missing ones are ignored."""
        for name in names:
            with self._translated("delete", name), suppress(FileNotFoundError):
                os.unlink(self._path(name))
            fault("objects.deleted")

    def upload(self, path: str | os.PathLike[str], name: str, *, move: bool = False) -> None:
        """Write or replace an object with a file's content; with `move`, the file is removed or renamed into the store.

        The object is executable if the file is. It is read-only, since there may be hard links to it elsewhere.
        """
        with self._translated("write", name):
            if move and self._prepare_rename(path, name):
                fault("objects.temporary")
                if self._renamed(path, self._path(name)):
                    return
            temporary = self._copy_in(path, name)
            fault("objects.temporary")
            self._replace(temporary, self._path(name))
            if move:
                os.unlink(path)

    def upload_hashed(
        self, path: str | os.PathLike[str], name: str, algorithm: str = DEFAULT, *, move: bool = False
    ) -> tuple[int, bytes]:
        """Upload a file, and return the size and the digest of the content that was written."""
        with self._translated("write", name):
            if move and self._prepare_rename(path, name, flush=False):
                found = self._hash_and_flush(path, algorithm)
                fault("objects.temporary")
                if self._renamed(path, self._path(name)):
                    return found
            hasher = Hasher(algorithm)
            temporary = self._copy_in(path, name, hasher)
            fault("objects.temporary")
            self._replace(temporary, self._path(name))
            if move:
                os.unlink(path)
            return hasher.size, hasher.digest()

    def upload_shared(self, path: str | os.PathLike[str], name: str, algorithm: str = DEFAULT) -> tuple[int, bytes]:
        """Create an object that is a hard link to a file, or a copy of it; return its size and digest."""
        with self._translated("write", name):
            if self._prepare_rename(path, name, flush=False):
                found = self._hash_and_flush(path, algorithm)
                temporary = self._link_in(path, name)
                if temporary is not None:
                    fault("objects.temporary")
                    self._replace(temporary, self._path(name))
                    return found
        return self.upload_hashed(path, name, algorithm)

    def download(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write an object's content to a file, which is replaced."""
        with self._translated("read", name), open(self._path(name), "rb") as source, open(path, "wb") as target:
            copy_content(source, target)

    def open(self, name: str) -> BinaryIO:
        """Open an object for reading."""
        with self._translated("read", name):
            return open(self._path(name), "rb", buffering=0)

    def local_path(self, name: str) -> Path | None:
        """Return the path of the object's file, which must not be changed."""
        return Path(self._path(name)) if self.exists(name) else None

    def link_target(self, name: str) -> str | None:
        """Return the target of an object that is a symbolic link, even if the target no longer exists."""
        path = self._path(name)
        return os.readlink(path) if os.path.islink(path) else None

    def sweep(self, age: float) -> int:
        """Delete half-written objects older than `age` seconds, or all of them for 0; return their number."""
        latest = time.time() - age if age > 0 else float("inf")  # the file server's clock may be ahead
        drafts = (path for path in _walk(self._root) if os.path.basename(path).startswith(TEMPORARY))
        # Keep the lock file: a process may hold it, and one that locked a new file instead would not wait.
        old = [path for path in drafts if path != self._path(_LOCK) and _modified(path) <= latest]
        for path in old:
            with suppress(FileNotFoundError):
                os.unlink(path)
        return len(old)

    def clear(self, folder: str) -> None:
        """Delete every object below a folder, and the folder."""
        with self._translated("delete", folder), suppress(FileNotFoundError):
            shutil.rmtree(self._path(folder))

    def remove_root(self) -> None:
        """Remove the directory if it is empty; a symbolic link to a directory stays."""
        with suppress(OSError):
            with suppress(FileNotFoundError):
                os.unlink(self._path(_LOCK))
            os.rmdir(self._root)

    def is_empty(self) -> bool:
        """Return whether the directory is empty, except for the temporary files of a store that is being created."""
        with self._translated("list", ""):
            return all(name.startswith(TEMPORARY) for name in os.listdir(self._root))

    def _path(self, name: str) -> str:
        return os.path.join(self._root, checked_name(name, self.url))

    @contextmanager
    def _translated(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if error.filename is not None and os.fspath(error.filename) != self._path(name):
                raise StoreError(f"cannot {verb} {name} in {self.url}: {error}") from error
            raise MissingObjectError(f"object {name} not found in {self.url}") from error
        except OSError as error:
            raise StoreError(f"cannot {verb} {name} in {self.url}: {error}") from error
        except UnicodeEncodeError as error:
            raise _unencodable(self._root, error) from None

    def _write_temporary(self, name: str, data: bytes | memoryview) -> str:
        descriptor, path = self._make_temporary(name)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                _write_all(file.fileno(), data)
                self._flush(file.fileno())
        except BaseException:
            os.unlink(path)
            raise
        return path

    def _make_temporary(self, name: str) -> tuple[int, str]:
        folder = os.path.dirname(self._path(name))
        try:
            return tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
        except FileNotFoundError:
            self._make_folders(os.path.dirname(name))
            return tempfile.mkstemp(prefix=TEMPORARY, dir=folder)

    def _make_folders(self, folder: str) -> None:
        """Create a folder of the store and its parents, but never the store's directory: it may have been deleted."""
        if not os.path.isdir(self._root):
            raise StoreNotFoundError(f"job store {self.url} no longer exists: it was deleted or unmounted")
        path = self._root
        for part in folder.split("/"):
            parent, path = path, os.path.join(path, part)
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
                self._flush_folder(parent)

    def _link_new(self, temporary: str, path: str) -> bool:
        try:
            os.link(temporary, path)
        except FileExistsError:
            # Over NFS, the link may have been made by an earlier try of this very call whose answer was lost.
            if os.stat(temporary).st_nlink != 2:
                return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._rename_new(temporary, path)
        fault("objects.linked")
        self._flush_folder(os.path.dirname(path))
        return True

    def _rename_new(self, temporary: str, path: str) -> bool:
        """Create an object without hard links: check, then rename, under a lock that ends with its process."""
        self._warn_unconditional()
        with open(self._path(_LOCK), "ab") as lock:
            with suppress(OSError):  # without locks, too, only the lease keeps a second writer out
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.exists(path):
                return False
            self._replace(temporary, path)
            return True

    def _warn_unconditional(self) -> None:
        if self.conditional:
            _log.warning(
                "%s has no hard links: only the lease keeps leaders on other hosts from writing to it", self.url
            )
            self.conditional = False

    def _replace(self, temporary: str | os.PathLike[str], path: str) -> None:
        os.replace(temporary, path)
        fault("objects.replaced")
        self._flush_folder(os.path.dirname(path))

    def _renamed(self, path: str | os.PathLike[str], target: str) -> bool:
        """Rename a file into the store; return False if that is impossible, as between mounts of one file system."""
        try:
            self._replace(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
        return True

    def _prepare_rename(self, path: str | os.PathLike[str], name: str, *, flush: bool = True) -> bool:
        """Prepare a file for being renamed into the store; return False if it must be copied instead."""
        self._make_folders(os.path.dirname(name))
        found = os.lstat(path)
        same_device = found.st_dev == os.stat(os.path.dirname(self._path(name))).st_dev
        ours_alone = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid()
        if not (same_device and ours_alone):
            return False
        with open(path, "rb") as file:
            _make_read_only(file.fileno(), found.st_mode)
            if flush:
                self._flush(file.fileno())
        return True

    def _hash_and_flush(self, path: str | os.PathLike[str], algorithm: str) -> tuple[int, bytes]:
        """Return a file's size and digest, which are computed while its content goes to the disk."""
        with open(path, "rb") as file:
            if os.path.getsize(path) < _PIECE:
                self._flush(file.fileno())
                return hash_file(path, algorithm)
            with ThreadPoolExecutor(1) as pool:
                flushed = pool.submit(self._flush, file.fileno())
                found = hash_file(path, algorithm)
                flushed.result()
            return found

    def _link_in(self, path: str | os.PathLike[str], name: str) -> str | None:
        """Create a link to a file beside the object of a name; return None if there can be none."""
        temporary = os.path.join(os.path.dirname(self._path(name)), f"{TEMPORARY}{secrets.token_hex(8)}")
        try:
            os.link(path, temporary)
        except OSError as error:
            if error.errno not in (*_NO_LINKS, errno.EXDEV):
                raise
            return None
        return temporary

    def _copy_in(self, path: str | os.PathLike[str], name: str, hasher: Hasher | None = None) -> str:
        descriptor, temporary = self._make_temporary(name)
        try:
            with open(descriptor, "wb") as target, open(path, "rb") as source:
                if hasher is None:
                    copy_content(source, target)
                else:
                    _copy_hashed(source, target, hasher, sync=self.sync)
                target.flush()
                found = os.fstat(source.fileno())
                os.utime(target.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
                _make_read_only(target.fileno(), found.st_mode)
                self._flush(target.fileno())
        except BaseException:
            os.unlink(temporary)
            raise
        return temporary

    def _flush(self, descriptor: int) -> None:
        if self.sync:
            os.fsync(descriptor)

    def _flush_folder(self, path: str) -> None:
        if not self.sync:
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unencodable(path: str, error: UnicodeEncodeError) -> StoreError:
    return StoreError(
        f"path {path!a}: the locale's encoding {error.encoding} cannot represent {error.object[error.start]!a}",
        hint="set LC_ALL=C.UTF-8 or PYTHONUTF8=1",
    )


def _walk(folder: str) -> Iterator[str]:
    """Iterate over the files below a folder, which another process may be deleting."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            else:
                yield entry.path


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return float("inf")


def _make_read_only(descriptor: int, mode: int) -> None:
    os.fchmod(descriptor, 0o555 if mode & 0o111 else 0o444)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def copy_content(source: BinaryIO, target: BinaryIO) -> None:
    """Copy a file's content: by sharing its blocks if possible, else in the kernel, else through a buffer."""
    if not clone(source, target) and not _copied_by_the_kernel(source, target):
        shutil.copyfileobj(source, target, 2**20)


def _copy_hashed(source: BinaryIO, target: BinaryIO, hasher: Hasher, *, sync: bool) -> None:
    """Copy a file's content through a buffer, and compute its digest meanwhile.

    Threads write each piece of a large file, and with `sync` send what is written to the disk, during the computation.
    """
    if clone(source, target):
        while piece := source.read(_PIECE):
            hasher.update(piece)
        return
    if os.fstat(source.fileno()).st_size < _PIECE:
        while piece := source.read(_PIECE):
            hasher.update(piece)
            target.write(piece)
        return
    with ThreadPoolExecutor(2) as pool:
        flushed = None
        while piece := source.read(_PIECE):
            written = pool.submit(target.write, piece)
            hasher.update(piece)
            written.result()  # the next piece must not be written before this one
            if sync and (flushed is None or flushed.done()):
                if flushed is not None:
                    flushed.result()  # the system reports a write error only once, so none may be ignored
                flushed = pool.submit(os.fdatasync, target.fileno())
        if flushed is not None:
            flushed.result()


def clone(source: BinaryIO, target: BinaryIO) -> bool:
    """Share all blocks of a file with another one; return False if the file system cannot."""
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        return False
    return True


def _copied_by_the_kernel(source: BinaryIO, target: BinaryIO) -> bool:
    """Copy a file's content in the kernel, or on a file server that can; return False if nothing was copied."""
    copied = 0
    copy_file_range = getattr(os, "copy_file_range", None)  # Linux has it
    if copy_file_range is None:
        return False
    try:
        while count := copy_file_range(source.fileno(), target.fileno(), _LARGE):
            copied += count
    except OSError as error:  # unsupported between some file systems
        if copied or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        return False
    return copied > 0
