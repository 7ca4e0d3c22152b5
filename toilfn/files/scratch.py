"""Temporary directories and deferred calls of this process, and of processes that died.

Each process has one directory, with a lock on a file in it for as long as the process lives. A
directory without a lock was left by a dead process: the next worker makes the calls that were
deferred there, and removes it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from toilfn.errors import ToilfnError

__all__ = [
    "CODE_VARIABLE",
    "Deferred",
    "OwnDirectory",
    "Scratch",
    "absolute_places",
    "base_dir",
    "locked_alone",
    "state_dir",
    "sweep",
]

CODE_VARIABLE = "TOILFN_CODE"
"""The environment variable that names the blob with the user's own modules: ``name:size:digest``."""

_PLACES = (
    "TOILFN_WORK_DIR", "TOILFN_COORDINATION_DIR", "TOILFN_CACHE_SHARED", "TOILFN_IMAGES", "TOILFN_CONDA",
    "TMPDIR", "TEMP", "TMP",
)  # fmt: skip
"""Environment variables that name folders for all tasks of a process."""

_LOCK = ".lock"
_NEW = ".new-"
_MAKING = 60.0
"""Seconds: a directory that has not been renamed by then was left by a dead process."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Deferred:
    """A call to make later, and the file that keeps it in case this process dies."""

    function: Callable[..., object]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    file: Path | None = None
    is_over: bool = False

    def run(self) -> None:
        """Call the function, at most once, and log its exception."""
        if self.is_over:
            return
        try:
            self.function(*self.args, **self.kwargs)
        except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit):
            _logger.exception("the deferred function %r raised an exception", self.function)
        self.cancel()

    def cancel(self) -> None:
        """Cancel the call."""
        self.is_over = True
        if self.file is not None:
            with suppress(OSError):
                self.file.unlink()


class OwnDirectory:
    """An empty directory that an attempt may fill, open so that a worker enters it quickly.

    Most tasks leave it empty, and the next attempt can use it, too: creating and removing one takes longer than such a
    task. Its time of change is set to 0: any other one shows that something was put in or taken out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        os.utime(path, ns=(0, 0))
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._mode = os.fstat(self.fd).st_mode

    def is_untouched(self) -> bool:
        """Return whether nothing was ever put into it, and its mode is unchanged."""
        try:
            found = os.fstat(self.fd)
        except OSError:  # the task has closed all descriptors that it could find
            return False
        return found.st_mtime_ns == 0 and found.st_mode == self._mode and found.st_nlink > 0

    def close(self) -> None:
        """Close the descriptor; the directory stays."""
        with suppress(OSError):
            os.close(self.fd)


class Scratch:
    """The directory of one process; it is created when it is first needed.

    Parameters
    ----------
    base : Path, optional
        The folder of all these directories of this user; see `base_dir`.
    """

    def __init__(self, base: Path | None = None) -> None:
        self._base = base
        self._root: Path | None = None
        self._lock = -1
        self._count = 0
        self._spare: OwnDirectory | None = None

    def new_dir(self) -> Path:
        """Create an empty directory that only this user can read."""
        return Path(tempfile.mkdtemp(prefix="task-", dir=self._made()))

    def own_dir(self) -> OwnDirectory:
        """Return an empty directory in which an attempt starts; pass it to `take_back` if it stays untouched."""
        spare, self._spare = self._spare, None
        return OwnDirectory(self.new_dir()) if spare is None else spare

    def take_back(self, directory: OwnDirectory) -> None:
        """Keep an unused directory for the next attempt."""
        self._spare = directory

    def remove_dir(self, directory: Path) -> None:
        """Remove a directory with its content, including write-protected files."""
        _remove(directory)

    def keep_dir(self, directory: Path, name: str) -> Path:
        """Move a directory aside, for people to look at, and return its new place."""
        aside = (self._base or base_dir()) / "kept"
        aside.mkdir(mode=0o700, exist_ok=True)
        plain = re.sub(r"[^\w.-]", "_", name)
        place = Path(tempfile.mkdtemp(prefix=f"{plain}-", dir=aside))
        place.rmdir()
        shutil.move(directory, place)  # which copies where "kept" is a mount of its own
        return place

    def defer(self, function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Deferred:
        """Keep a call; if it can be pickled, keep it on disk, too."""
        deferred = Deferred(function, args, kwargs)
        try:
            data = pickle.dumps((sys.path, cloudpickle.dumps(deferred)))
        except Exception as error:
            _logger.warning(
                "%r cannot be pickled (%s): it will not be called if this process is killed", function, error
            )
            return deferred
        self._count += 1
        deferred.file = self._made() / f"{self._count:08}.deferred"
        deferred.file.write_bytes(data)
        return deferred

    def close(self) -> None:
        """Run the calls that an attempt could not run because it had to end, and remove the directory."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        if self._root is not None:
            _run_deferred(self._root)
            _remove(self._root)
            _lock_of(self._root).unlink(missing_ok=True)
            os.close(self._lock)
            self._root = None

    def _made(self) -> Path:
        if self._root is None:
            base = self._base or base_dir()
            unlocked = Path(tempfile.mkdtemp(prefix=_NEW, dir=base))
            root = base / f"{os.getpid()}{unlocked.name.removeprefix(_NEW.rstrip('-'))}"
            lock = _lock_of(root)
            self._lock = os.open(unlocked / _LOCK if lock.parent == root else lock, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._root = unlocked.rename(root)
        return self._root


def absolute_places() -> dict[str, str]:
    """Return the variables of this process that name folders by relative paths, with absolute paths.

    Tasks run in directories of their own, where a relative path would mean another folder.
    """
    named = {name: place for name in _PLACES if (place := os.environ.get(name)) and not os.path.isabs(place)}
    return {name: os.path.abspath(place) for name, place in named.items()}


def base_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory that this user's workers share: in ``TOILFN_WORK_DIR``, else in the system's temporary one.

    Workers with a common coordination directory have a folder of their own in it, since others may use the same work
    directory.

    Parameters
    ----------
    environ : mapping, optional
        The environment of the workers; by default that of this process.

    Raises
    ------
    ToilfnError
        If another user has made it.
    """
    base = _private(Path(environ.get("TOILFN_WORK_DIR") or tempfile.gettempdir()), "TOILFN_WORK_DIR")
    if "TOILFN_COORDINATION_DIR" in environ:
        base /= _token(state_dir(environ))
        base.mkdir(mode=0o700, exist_ok=True)
    return base


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory for locks: in ``TOILFN_COORDINATION_DIR``, else the one of `base_dir`.

    Parameters
    ----------
    environ : mapping, optional
        The environment of the workers; by default that of this process.

    Raises
    ------
    ToilfnError
        If another user has made it.
    """
    parent = environ.get("TOILFN_COORDINATION_DIR")
    return _private(Path(parent), "TOILFN_COORDINATION_DIR") if parent else base_dir(environ)


def _private(parent: Path, variable: str) -> Path:
    """Make this user's own directory in one that others may use too."""
    base = parent.absolute() / f"toilfn-{os.getuid()}"
    with suppress(FileExistsError):
        base.mkdir(mode=0o700, parents=True)
    info = base.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o022:
        raise ToilfnError(
            f"{base} must be a directory that belongs to you and that no one else can open",
            hint=f"remove it, or set {variable}",
        )
    return base


def _token(directory: Path) -> str:
    """Return the name that all workers with one coordination directory have in common."""
    file = directory / "name"
    if not file.exists():
        draft = directory / f".name-{os.getpid()}"
        draft.write_text(uuid.uuid4().hex)
        with suppress(FileExistsError):
            os.link(draft, file)
        draft.unlink()
    return file.read_text()


def _lock_of(root: Path) -> Path:
    """Return the file whose lock shows that the process of a directory is alive."""
    if "TOILFN_COORDINATION_DIR" in os.environ:
        return state_dir() / f"{root.name}.lock"
    return root / _LOCK


def sweep(base: Path | None = None) -> None:
    """Run the deferred calls of processes that died, and remove their directories."""
    for root in (base or base_dir()).iterdir():
        if _is_being_made(root):
            continue
        with locked_alone(_lock_of(root)) as is_dead:
            if is_dead:
                _run_deferred(root)
                _remove(root)
                _lock_of(root).unlink(missing_ok=True)


def _is_being_made(root: Path) -> bool:
    """Return whether a directory is so new that its process may not have locked it yet."""
    try:
        return root.name.startswith(_NEW) and time.time() - root.stat().st_mtime < _MAKING
    except FileNotFoundError:
        return True


@contextmanager
def locked_alone(file: Path) -> Iterator[bool]:
    """Try to lock a file; return whether no other process holds its lock, because those that did have ended."""
    try:
        fd = os.open(file, os.O_RDWR)
    except OSError:  # it is being made or removed
        yield False
        return
    try:
        yield _try_lock(fd)
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # also on file systems without locks, where no process can know it
        return False
    return os.fstat(fd).st_nlink > 0


def _run_deferred(root: Path) -> None:
    for file in sorted(root.glob("*.deferred"), reverse=True):
        try:
            path, data = pickle.loads(file.read_bytes())
            sys.path += [entry for entry in path if entry not in sys.path]
            deferred = pickle.loads(data)
        except Exception:
            _logger.exception("could not make a deferred call of a process that died: %s", file)
        else:
            deferred.run()


def _remove(directory: Path) -> None:
    """Remove a directory as far as this user can: files that a container created as another user may stay."""
    shutil.rmtree(directory, ignore_errors=True)
    if not directory.exists():
        return
    with suppress(OSError):
        directory.chmod(0o700)
    for parent, names, _ in os.walk(directory):
        for path in (Path(parent, name) for name in names):
            with suppress(OSError):
                if not path.is_symlink():
                    path.chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)
