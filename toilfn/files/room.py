"""Keep the node's cache within its size limit: remove old files to make room for new ones.

All processes of a user on this machine share one directory. Locks keep them in step: one for the
count of bytes in use, and one of many for each file that is being brought in. The system gives up
the locks of a process that dies. On a file system without locks, a file may be
brought in twice or the limit be exceeded, but no task loses its files, since each has links or copies of its own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from toilfn.errors import InputError
from toilfn.files.scratch import base_dir, state_dir
from toilfn.units import parse_duration, parse_size

__all__ = [
    "AGE_VARIABLE", "LIMIT_VARIABLE", "CacheEntry", "cache_dir", "cached_files", "draft_dir", "filling", "limit",
    "note_shared", "reserve", "trim",
]  # fmt: skip

LIMIT_VARIABLE = "TOILFN_CACHE_SIZE"
"""The environment variable with the most bytes that the cache may take, such as ``100G``; 0 for no cache."""

AGE_VARIABLE = "TOILFN_CACHE_AGE"
"""The environment variable with the time after which an unused copy is removed, such as ``10d``."""

_AGE = "30d"
_INTERVAL = 3600.0
"""Seconds between two searches for copies that are too old."""

_SHARE = 5  # without a limit from the user, one part in five of the disk
_LOCKS = 256


class CacheEntry(NamedTuple):
    """A copy of a file in the cache."""

    used: int
    """When it was used last, in nanoseconds since 1970."""
    size: int
    path: Path
    is_free: bool
    """Whether no running attempt has a link to it."""
    shared: Path | None = None
    """The link by which other users can read it."""

    def remove(self) -> None:
        """Remove the file, also from where it is shared."""
        for path in (self.path, self.shared):
            if path is not None:
                path.unlink(missing_ok=True)


def cache_dir() -> Path:
    """Return the directory of the cache; each store has one in it."""
    directory = base_dir() / "files"
    directory.mkdir(exist_ok=True)
    return directory


def _state() -> Path:
    """Return the directory of the locks and counts that keep the processes in step."""
    directory = state_dir() / "files"
    directory.mkdir(exist_ok=True)
    return directory


def limit() -> int:
    """Return the most bytes that the cache may take.

    Raises
    ------
    InputError
        If the environment variable is not a size.
    """
    given = os.environ.get(LIMIT_VARIABLE)
    return parse_size(given) if given else shutil.disk_usage(cache_dir()).total // _SHARE


def longest() -> float:
    """Return the seconds without use after which a copy is removed.

    Raises
    ------
    InputError
        If the environment variable is not a time.
    """
    given = os.environ.get(AGE_VARIABLE) or _AGE
    try:
        return parse_duration(given)
    except ValueError as error:
        raise InputError(f"{AGE_VARIABLE}: {error}") from None


@contextmanager
def filling(entry: Path) -> Iterator[None]:
    """Keep other processes and threads from filling the same entry."""
    with _locked(_lock_of(entry.name)):
        yield


def draft_dir(entry: Path, size: int) -> Path:
    """Create the directory for a new entry of so many bytes, which count from now on."""
    return entry.with_name(f".{size}.{entry.name}")


def reserve(size: int) -> bool:
    """Make room for a number of bytes by removing the least recently used files; return False if that fails.

    A file that running attempts hold links to is not removed.
    """
    ledger = _state() / "used"
    with _locked(ledger):
        used = _read(ledger) if _is_recent(longest()) else _remove(0, time.time() - longest())[1]
        room = min(limit(), used + shutil.disk_usage(cache_dir()).free)
        if used + size > room:
            used = _evict(room - size)
        if used + size > room:
            return False
        ledger.write_text(str(used + size))
        return True


def _read(ledger: Path) -> int:
    """Read how many bytes are in use: never too few, since failed and forgotten copies still count."""
    text = ledger.read_text()
    return int(text) if text.isdigit() else _evict(limit())


def _is_recent(age: float) -> bool:
    """Return whether old copies were removed a short time ago; if not, the caller must remove them."""
    marker = _state() / "aged"
    with suppress(FileNotFoundError):
        if time.time() - marker.stat().st_mtime < min(_INTERVAL, age):
            return True
    marker.touch()
    return False


def _evict(most: int) -> int:
    """Remove unused files until at most so many bytes are left; return how many bytes are left."""
    drafts, entries = _scan()
    used = drafts + sum(entry.size for entry in entries)
    for entry in sorted(entries):
        if used <= most:
            break
        if entry.is_free:
            entry.remove()
            used -= entry.size
    return used


def cached_files() -> list[CacheEntry]:
    """List the cache's own copies of files."""
    return _scan()[1]


def trim(most: int, before: float) -> list[CacheEntry]:
    """Remove copies that were not used since `before`, in seconds since 1970, until at most `most` bytes are left.

    A file that running attempts hold links to is not removed. Returns those that were.
    """
    ledger = _state() / "used"
    with _locked(ledger):
        removed, used = _remove(most, before)
        ledger.write_text(str(used))
    return removed


def _remove(most: int, before: float) -> tuple[list[CacheEntry], int]:
    """Trim the cache as `trim` describes; return also how many bytes are left."""
    removed = []
    drafts, entries = _scan()
    used = drafts + sum(entry.size for entry in entries)
    for entry in sorted(entries):
        if used > most and entry.is_free and entry.used <= before * 1e9:
            entry.remove()
            used -= entry.size
            removed.append(entry)
    return removed, used


def _scan() -> tuple[int, list[CacheEntry]]:
    """List the cache's own copies, add up those that are being written, and remove parts that dead processes left."""
    drafts, entries = 0, []
    shared = _shared_files()
    for path in cache_dir().glob("*/*"):
        if path.name.startswith("."):
            drafts += _size_of_draft(path)
            continue
        with suppress(FileNotFoundError):
            status = path.lstat()
            if not path.is_symlink() and path.parent.name != "locks":
                twin = shared.pop((status.st_dev, status.st_ino), None)
                is_free = status.st_nlink == (1 if twin is None else 2)
                entries.append(CacheEntry(status.st_atime_ns, status.st_size, path, is_free, twin))
    for path in shared.values():  # some outlive the cache of their store
        with suppress(FileNotFoundError):
            status = path.lstat()
            if status.st_nlink == 1:  # else it is in another cache of this user
                entries.append(CacheEntry(status.st_atime_ns, status.st_size, path, is_free=True))
    return drafts, entries


def note_shared(directory: Path) -> None:
    """Note a directory in which files of this cache are shared, so that they can be removed there, too."""
    with _locked(_state() / "shared"):
        if str(directory.absolute()) not in _shared_dirs():
            with (_state() / "shared").open("a") as file:
                file.write(f"{directory.absolute()}\n")


def _shared_dirs() -> list[str]:
    with suppress(FileNotFoundError):
        return (_state() / "shared").read_text().splitlines()
    return []


def _shared_files() -> dict[tuple[int, int], Path]:
    """Return this user's files in the shared directories, by device and inode."""
    found = {}
    for directory in _shared_dirs():
        with suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if status.st_uid == os.getuid() and stat.S_ISREG(status.st_mode):
                    found[status.st_dev, status.st_ino] = Path(entry.path)
    return found


def _size_of_draft(draft: Path) -> int:
    _, size, name = draft.name.split(".", 2)
    with _lock_of(name).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # someone fills it
            return int(size)
        shutil.rmtree(draft, ignore_errors=True)
        return 0


def _lock_of(name: str) -> Path:
    locks = _state() / "locks"
    locks.mkdir(exist_ok=True)
    return locks / str(zlib.crc32(name.encode()) % _LOCKS)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("ab") as lock:
        with suppress(OSError):  # file systems without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
