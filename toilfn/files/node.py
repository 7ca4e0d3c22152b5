"""Keep a record of the files that runs leave on this machine, and remove them when no process of the run is left.

Each process that works for a store holds a shared lock on a file of this store for as long as it lives, however it
ends. A process that gets the lock alone knows that no other one uses the files of the run: copies of files, unpacked
code and container images. So no file of a living process is ever removed. The others are removed a day after the last
process has ended, so that a user who edits a script and runs it again finds files and images here. Files of a store
that no longer exists are removed at once.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from toilfn.errors import InputError, StoreNotFoundError, ToilfnError
from toilfn.files.scratch import base_dir, locked_alone, state_dir
from toilfn.stores import Store, is_local, open_store
from toilfn.stores.objects import META
from toilfn.units import parse_duration

__all__ = [
    "KEEP_VARIABLE", "attach", "begin", "clean", "code_dir", "leave", "note_image", "remove", "run_key",
]  # fmt: skip

KEEP_VARIABLE = "TOILFN_KEEP_ON_NODES"
"""The environment variable with the time for which a machine keeps what a run has left on it, such as ``7d``."""

_AGE = 24 * 3600.0
"""Seconds for which it is kept without that variable."""

_ID = 12
"""How many characters of a store's id are in the names of its jobs."""


@dataclass(frozen=True)
class _Run:
    """The record of a run on this machine.

    Attributes
    ----------
    url : str
        The URL of its store.
    id : str
        The id of its store, which the names of its jobs contain.
    base : str
        The directory in which its files are.
    keep : float or None
        The seconds for which its files are kept after its last process has left; None if the user did not choose.
    """

    url: str
    id: str
    base: str
    keep: float | None


_held: dict[tuple[int, Path], int] = {}
"""The descriptors with this process's locks, by process and folder: a forked child has locks of its own."""
_mutex = threading.Lock()


def run_key(url: str) -> str:
    """Return the name that folders of a store have on this machine."""
    return hashlib.blake2b(url.encode(errors="surrogateescape"), digest_size=12).hexdigest()


def code_dir(url: str) -> Path:
    """Return the folder for the unpacked code of a store's runs."""
    return base_dir() / "code" / run_key(url)


def attach(store: Store) -> None:
    """Note that this process reads files of a store on this machine, until the process ends or calls `leave`.

    Raises
    ------
    InputError
        If the environment variable is not a time.
    """
    folder = _folder(store.url)
    if _hold(folder) and _read(folder) is None:  # else the record of a run is there, with its user's choice
        _write(folder, _record(store, os.environ))


def begin(store: Store, environ: Mapping[str, str] = os.environ) -> None:
    """Attach this process, which works on the run of a store: as one of its workers, or as its leader.

    Parameters
    ----------
    store : Store
    environ : mapping, optional
        The environment of the workers on this machine; by default that of this process.

    Raises
    ------
    InputError
        If the environment variable is not a time.
    """
    record = _record(store, environ)
    folder = _folder(store.url, environ)
    _hold(folder)
    _write(folder, record)


def _folder(url: str, environ: Mapping[str, str] = os.environ) -> Path:
    return state_dir(environ) / "runs" / run_key(url)


def _record(store: Store, environ: Mapping[str, str]) -> _Run:
    given = environ.get(KEEP_VARIABLE)
    try:
        keep = parse_duration(given) if given else None
    except ValueError as error:
        raise InputError(f"{KEEP_VARIABLE}: {error}") from None
    return _Run(store.url, store.id, str(base_dir(environ)), keep)


def _own() -> list[Path]:
    """Return the folders whose locks this process holds."""
    return [folder for process, folder in list(_held) if process == os.getpid()]


def _hold(folder: Path) -> bool:
    """Take the lock of a run; return whether this process did not have it."""
    with _mutex:
        if (os.getpid(), folder) in _held:
            return False
        if not _own():
            atexit.register(_leave_at_exit, os.getpid())
        _held[os.getpid(), folder] = _lock_shared(folder)
        return True


def _lock_shared(folder: Path) -> int:
    """Return a descriptor with a shared lock on the file in a folder, which another process may be removing."""
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue
        with suppress(OSError):  # file systems without locks
            fcntl.flock(fd, fcntl.LOCK_SH)
        if os.fstat(fd).st_nlink:
            os.utime(fd)
            return fd
        os.close(fd)


def _write(folder: Path, run: _Run) -> None:
    if _read(folder) != run:
        draft = folder / f".run-{os.getpid()}-{threading.get_ident()}"
        draft.write_text(json.dumps(asdict(run)))
        draft.replace(folder / "run")


def _read(folder: Path) -> _Run | None:
    try:
        return _Run(**json.loads((folder / "run").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def note_image(command: Sequence[str], *, pulled: bool) -> None:
    """Note an image that the runs of this process use.

    Parameters
    ----------
    command : sequence of str
        Removes it.
    pulled : bool
        Whether it was pulled now; a run that has pulled the image before may hand it over.
    """
    for folder in _own():
        with suppress(FileNotFoundError):  # a program that cleans temporary directories has removed the folder
            _add_image(folder, command, pulled=pulled)


def _add_image(folder: Path, command: Sequence[str], *, pulled: bool) -> None:
    with (folder / "images").open("a") as file:
        file.write(json.dumps([pulled, list(command)]) + "\n")


def _images(folder: Path) -> dict[tuple[str, ...], bool]:
    """Return the commands that remove a run's images, and whether the run has pulled each."""
    images: dict[tuple[str, ...], bool] = {}
    with suppress(FileNotFoundError):
        for line in (folder / "images").read_text().splitlines():
            pulled, command = json.loads(line)
            images[tuple(command)] = pulled or images.get(tuple(command), False)
    return images


def leave() -> None:
    """Release this process's locks, and remove the files that are due and that no other process uses."""
    left = [folder for folder in _own() if _release(folder)]
    for folder in left:
        _remove_due(folder, _due)


def _leave_at_exit(process: int) -> None:
    if process == os.getpid():  # not in a fork of it
        with suppress(OSError, ToilfnError):
            leave()


def _release(folder: Path) -> bool:
    """Release the lock of a run; return whether this process had it."""
    with _mutex:
        fd = _held.pop((os.getpid(), folder), None)
    if fd is not None:
        with suppress(OSError):  # its tasks may have closed all descriptors that they could find
            os.utime(fd)
            os.close(fd)
    return fd is not None


def clean(queued: Collection[str] | None = None, *, most: int | None = None) -> None:
    """Remove the files that runs have left here, if their last process has ended and their time has passed.

    Parameters
    ----------
    queued : collection of str, optional
        The names of all jobs that are queued, where a batch system knows them: what a run has left is then removed at
        once if none of them is the run's.
    most : int, optional
        The number of runs to look at, chosen at random; by default all. A worker that starts must not take longer
        with each run that this machine has seen in the last day.
    """

    def due(folder: Path, run: _Run) -> _Due:
        if queued is None or run.keep is not None:
            return _due(folder, run)
        has_left = not any(run.id[:_ID] in name for name in queued)
        return _Due(files=has_left, images=has_left)

    runs = state_dir() / "runs"
    folders = list(runs.iterdir()) if runs.is_dir() else []
    if most is not None and len(folders) > most:
        folders = random.Random().sample(folders, most)  # noqa: S311 - not a secret
    for folder in folders:
        _remove_due(folder, due)


def remove(url: str, *, images: bool = True) -> bool:
    """Remove the files that the runs of a store have left here; return False if a process still uses them.

    Parameters
    ----------
    url : str
        The store's URL.
    images : bool, optional
        Whether to remove container images, too. Those of a store that was only made for one run are left to the next
        run of the script.
    """
    folders = {_folder(url), *(folder for folder in _own() if folder.name == run_key(url))}
    for folder in folders:
        _release(folder)
    due = _Due(files=True, images=images)
    left = [folder for folder in folders if folder.is_dir() and not _remove_due(folder, lambda folder, run: due)]
    return not left


class _Due(NamedTuple):
    """Which kinds of a run's files can be removed."""

    files: bool
    images: bool


def _remove_due(folder: Path, due: Callable[[Path, _Run], _Due]) -> bool:
    """Remove the due files of a run that no process uses; return whether any were removed."""
    with locked_alone(folder / "lock") as is_alone:
        if not is_alone:
            return False
        run = _read(folder)
        parts = _Due(files=True, images=True) if run is None else due(folder, run)
        if parts.files:
            _remove_files(base_dir() if run is None else Path(run.base), folder.name)
        if parts.images:
            _remove_images(folder)
        if parts.images or (parts.files and not _images(folder)):
            _remove_record(folder)
        return parts.files


def _due(folder: Path, run: _Run) -> _Due:
    try:
        age = time.time() - (folder / "lock").stat().st_mtime
    except FileNotFoundError:
        return _Due(files=False, images=False)
    is_old = age >= (_AGE if run.keep is None else run.keep)
    return _Due(files=is_old or (run.keep is None and is_local(run.url) and _is_gone(run.url)), images=is_old)


def _is_gone(url: str) -> bool:
    """Return whether the directory of a store is gone."""
    if os.path.exists(os.path.join(url.removeprefix("file://"), META)):  # to open the store takes twenty times as long
        return False
    try:
        open_store(url, create=False)
    except StoreNotFoundError:
        return True
    except (ToilfnError, OSError):
        return False
    return False


def _remove_images(folder: Path) -> None:
    """Remove the images that a run has pulled; one that another run uses, too, is handed over to that run."""
    others = {other: _images(other) for other in folder.parent.iterdir() if other != folder}
    for command, pulled in _images(folder).items():
        heir = next((other for other, images in others.items() if command in images), None)
        if pulled and heir is not None:
            with suppress(OSError):  # it has just been removed
                _add_image(heir, command, pulled=True)
        elif pulled:
            with suppress(OSError):  # the engine is no longer installed
                subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def _remove_files(base: Path, name: str) -> None:
    for kind in ("files", "code"):
        shutil.rmtree(base / kind / name, ignore_errors=True)


def _remove_record(folder: Path) -> None:
    """Remove the record, the file of the lock last: a process that waits for the lock sees that the file has gone."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "lock"):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # another process makes a new one
        folder.rmdir()
