"""The node's cache: verified, read-only local copies of blobs, shared by all tasks of a user on this machine.

Each store has a directory in it. An entry is a copy, or a symbolic link to the store's own object where that is on the
same file system; its content was checked against its digest when the entry was made. A file of the user that was linked
into the store needs no entry: its state is checked. A task gets hard links to entries in its own temporary directory,
or copies where hard links are impossible. The links count as its use, and disappear with that directory.

`offer` and `take` share files with other users in a common directory. Nothing in it is trusted, since the owner of a
file can alter it at any time: a file is copied into the user's own cache, and then the digest of the copy is checked.
"""

from __future__ import annotations

import atexit
import errno
import functools
import logging
import mmap
import os
import secrets
import shutil
import stat
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from toilfn.files.digests import check_once
from toilfn.files.node import attach, run_key
from toilfn.files.room import cache_dir, draft_dir, filling, note_shared, reserve
from toilfn.files.scratch import Scratch
from toilfn.model.records import BlobRef
from toilfn.stores import Store
from toilfn.stores.digests import Hasher, algorithm_of, checksum_of
from toilfn.stores.files import clone, copy_content

__all__ = ["SHARED_VARIABLE", "borrowed", "mapped", "offer", "place", "process_dir", "set_modified", "take"]

SHARED_VARIABLE = "TOILFN_CACHE_SHARED"
"""The environment variable with the directory that users share."""

_LEAST = 2**20
"""Bytes of a file that is worth sharing."""

_CHUNK = 2**20

_WEAK = ("xxh3",)
"""Algorithms for which another content with the same digest can be made on purpose."""

_log = logging.getLogger("toilfn.files")


def offer(store: Store, ref: BlobRef, entry: Path) -> None:
    """Let other users have a file of this user's cache, by a hard link that is removed with the file."""
    place = _place(store, ref)
    if place is None:
        return
    note_shared(place.parent)
    try:
        os.link(entry, place)
    except FileExistsError:
        pass
    except OSError as error:  # another file system, or this user may not write there
        _log.debug("%s is not shared: %s", entry, error)


def take(store: Store, ref: BlobRef, target: Path) -> bool:
    """Copy a file that another user shares to `target`; return False if there is none with the right content."""
    place = _place(store, ref)
    if place is None:
        return False
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe must not hold this up
    except OSError:
        return False
    with open(descriptor, "rb") as source:
        found = os.fstat(source.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_size == ref.size and _copied(source, ref, target):
            return True
    _log.warning("%s does not have the content that its name says; fetching it from %s", place, store.url)
    target.unlink(missing_ok=True)
    return False


def _copied(source: BinaryIO, ref: BlobRef, target: Path) -> bool:
    """Copy at most as many bytes as there should be; return whether the copy has the right digest."""
    hasher = Hasher(algorithm_of(ref.digest))
    with target.open("xb+") as copy:
        is_cloned = clone(source, copy)
        reader = copy if is_cloned else source
        while hasher.size < ref.size and (chunk := reader.read(min(_CHUNK, ref.size - hasher.size))):
            hasher.update(chunk)
            if not is_cloned:
                copy.write(chunk)
    return hasher.digest() == ref.digest and target.stat().st_size == ref.size


def _place(store: Store, ref: BlobRef) -> Path | None:
    """Return where a file is shared; None if it is not shared."""
    given = os.environ.get(SHARED_VARIABLE)
    if not given or ref.size < _LEAST or ref.is_marked or ref.is_reference or store.objects.is_private:
        return None
    if algorithm_of(ref.digest) in _WEAK:
        return None
    directory = Path(given)
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
    return directory / checksum_of(ref.digest).replace(":", "-")


_SECOND = 10**9


def place(
    store: Store,
    ref: BlobRef,
    target: Path,
    *,
    executable: bool = False,
    mutable: bool = False,
    modified: int | None = None,
) -> None:
    """Put a blob's content at a path, and create missing directories.

    Parameters
    ----------
    store : Store
        Where the blob is.
    ref : BlobRef
        Which one.
    target : Path
        Gets a hard link to the cache's copy; a copy where the file system has none, or the cache no room.
    executable : bool
        Whether the file must be executable.
    mutable : bool
        Make a private copy, which may be changed.
    modified : int, optional
        The modification time to give the file, in nanoseconds since 1970.

    Raises
    ------
    CorruptObjectError
        If the blob is missing or its content is not what was stored.
    FileExistsError
        If there is something at the target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    while True:
        content = _content(store, ref, executable, modified)
        if content is None:
            store.fetch_blob(ref, target)
            target.chmod(_mode(executable, mutable))
            set_modified(target, modified)
            return
        try:
            if mutable:
                _copy(content, target, _mode(executable, mutable))
                set_modified(target, modified)
            else:
                _link(content, target, modified)
            return
        except FileNotFoundError:
            if content.exists():
                raise
            # It was evicted just now, so try again.


@contextmanager
def borrowed(store: Store, ref: BlobRef, *, executable: bool = False, modified: int | None = None) -> Iterator[Path]:
    """Return a local file with a blob's content for as long as the block runs; it must not be changed."""
    directory = process_dir()
    try:
        place(store, ref, directory / "content", executable=executable, modified=modified)
        yield directory / "content"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def process_dir() -> Path:
    """Create a directory that stays until this process ends, however it ends."""
    return _scratch(os.getpid()).new_dir()


_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0)
"""Most arrays are never written to: the system need not keep memory for copies of all pages."""


def mapped(store: Store, ref: BlobRef, *, writable: bool) -> memoryview:
    """Map a large buffer of a value, such as an array, into memory.

    So an array is in memory once, however many tasks of a machine read it. The mapping is private: what a task writes
    to its array is copied page by page, and no other process sees it. The cache holds the file for as long as the
    buffer lives. It is verified once on each machine.

    Parameters
    ----------
    store : Store
    ref : BlobRef
    writable : bool
        Whether the buffer can be written to, which changes only this process's copy.

    Raises
    ------
    CorruptObjectError
        If the blob is missing or its content is not what was stored.
    """
    directory = process_dir()
    place(store, ref, directory / "buffer")
    with (directory / "buffer").open("rb") as file:
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        found = mmap.mmap(file.fileno(), ref.size, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=access)
    # The link is the file's use in the cache. When this process ends, its whole directory goes.
    weakref.finalize(found, _remove_link, directory, os.getpid()).atexit = False
    return memoryview(found)


def _remove_link(directory: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that a task forked
        shutil.rmtree(directory, ignore_errors=True)


@functools.cache
def _scratch(process: int) -> Scratch:
    scratch = Scratch()
    atexit.register(lambda: scratch.close() if os.getpid() == process else None)  # not in a fork
    return scratch


def _directory(store: Store) -> Path:
    attach(store)
    directory = cache_dir() / run_key(store.url)
    directory.mkdir(exist_ok=True)
    return directory


def _content(store: Store, ref: BlobRef, executable: bool, modified: int | None) -> Path | None:
    """Return the verified file of an entry, and create it if necessary; None if there is no room for it."""
    entry = _directory(store) / (ref.name.replace("/", "-") + ("-x" if executable else ""))
    linked = store.linked_file(ref)
    if linked is not None and _can_be_linked(linked, entry.parent):
        return linked.resolve()
    if not _is_verified(entry, ref, modified):
        origin = store.local_file(ref)
        if origin is not None and _is_linkable(origin, entry.parent, executable, modified):
            _link_entry(entry, origin, ref, store.url)
        elif not _copy_entry(entry, store, ref, executable, modified):
            return None
    return entry.resolve()


def set_modified(path: Path, modified: int | None) -> None:
    """Set when a file was last written to, where that is known."""
    if modified is not None:
        os.utime(path, ns=(time.time_ns(), modified))


def _has_time(found: int, modified: int | None) -> bool:
    """Return whether a file's time is the one that was set; some file systems keep whole seconds only."""
    if modified is None:
        return not found % _SECOND
    return any(found == modified - modified % unit for unit in (1, 100, 1000, 10**6, _SECOND, 2 * _SECOND))


def _is_verified(entry: Path, ref: BlobRef, modified: int | None) -> bool:
    try:
        made, content = entry.lstat(), entry.stat()
        if content.st_size != ref.size:
            return False
        if stat.S_ISLNK(made.st_mode):
            return made.st_mtime_ns >= content.st_mtime_ns
        if not _has_time(content.st_mtime_ns, modified):  # someone wrote to it
            return False
        os.utime(entry, ns=(time.time_ns(), content.st_mtime_ns))  # the last use
    except FileNotFoundError:
        return False
    return True


def _is_linkable(origin: Path, directory: Path, executable: bool, modified: int | None) -> bool:
    """Return whether links to the store's own object are as good as a copy: same file system, same rights and time."""
    status = origin.stat()
    same_rights = not status.st_mode & 0o222 and bool(status.st_mode & 0o111) == executable
    same_time = modified is None or _has_time(status.st_mtime_ns, modified)
    return same_rights and same_time and status.st_dev == directory.stat().st_dev


def _can_be_linked(source: Path, directory: Path) -> bool:
    """Return whether a directory can have hard links to a file: not every file system, nor every file, allows them."""
    trial = directory / f".0.{secrets.token_hex(8)}"
    try:
        os.link(source.resolve(), trial)
    except OSError:
        return False
    trial.unlink()
    return True


def _link_entry(entry: Path, origin: Path, ref: BlobRef, where: str) -> None:
    draft = entry.with_name(f".0.{secrets.token_hex(8)}")
    try:
        check_once(ref, origin, where)
        draft.symlink_to(origin)
        draft.replace(entry)
    finally:
        draft.unlink(missing_ok=True)


def _copy_entry(entry: Path, store: Store, ref: BlobRef, executable: bool, modified: int | None) -> bool:
    """Copy a blob from the store, unless another process does so now; False if there is no room."""
    with filling(entry):
        if _is_verified(entry, ref, modified):
            return True
        if not reserve(ref.size):
            return False
        draft = draft_dir(entry, ref.size)
        draft.mkdir(exist_ok=True)
        try:
            if not take(store, ref, draft / "content"):
                store.fetch_blob(ref, draft / "content")
            (draft / "content").chmod(_mode(executable, False))
            set_modified(draft / "content", time.time_ns() // _SECOND * _SECOND if modified is None else modified)
            (draft / "content").replace(entry)
            offer(store, ref, entry)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return True


def _mode(executable: bool, mutable: bool) -> int:
    return (0o555 if executable else 0o444) | (stat.S_IWUSR if mutable else 0)


def _link(content: Path, target: Path, modified: int | None) -> None:
    try:
        os.link(content, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:
        _copy(content, target, stat.S_IMODE(content.stat().st_mode))
        set_modified(target, modified)


def _copy(content: Path, target: Path, mode: int) -> None:
    with (
        content.open("rb") as source,
        open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as copy,
    ):
        copy_content(source, copy)
    target.chmod(mode)
