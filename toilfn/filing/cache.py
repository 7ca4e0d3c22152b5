"""The node's cache: verified, read-only local copies of blobs, shared by all tasks of a user on this machine.

One directory for each store. An entry is a copy, or a symbolic link to the store's own object
where that is on the same file system; either way its content was checked against its digest
when the entry was made. Entries appear by renaming, so processes need no lock.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from pathlib import Path

from toilfn.records import BlobRef
from toilfn.stores import Store
from toilfn.stores.blobs import check, hash_file
from toilfn.work.scratch import base_dir

__all__ = ["forget", "local_content", "place"]


def local_content(store: Store, ref: BlobRef, *, executable: bool = False) -> Path:
    """Give a local read-only file with a blob's content.

    Parameters
    ----------
    store : Store
        Where the blob is.
    ref : BlobRef
        Which one.
    executable : bool
        Whether the file must be one that can be executed.

    Returns
    -------
    Path
        Not to be changed, moved or removed. `place` makes links to it.

    Raises
    ------
    CorruptObjectError
        If the blob is missing or its content is not what was stored.
    """
    entry = _directory(store.url) / (ref.name.replace("/", "-") + ("-x" if executable else ""))
    if not _is_verified(entry, ref):
        _fill(entry, store, ref, executable)
    return entry.resolve()


def place(content: Path, target: Path, *, mutable: bool = False, symlink: bool = False) -> None:
    """Put what `local_content` gave at another path.

    Parameters
    ----------
    content, target : Path
        From and to; directories on the way to the target are made.
    mutable : bool
        Make a private copy, which may be changed.
    symlink : bool
        Make a symbolic link. Otherwise it is a hard link, or a copy where the file system has none.

    Raises
    ------
    FileExistsError
        If there is something at the target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if mutable:
        _copy(content, target, writable=True)
    elif symlink:
        target.symlink_to(content)
    else:
        try:
            os.link(content, target)
        except FileExistsError:
            raise
        except OSError:
            _copy(content, target, writable=False)


def forget(url: str) -> None:
    """Remove this node's cache of a store."""
    shutil.rmtree(_directory(url), ignore_errors=True)


def _directory(url: str) -> Path:
    directory = base_dir() / "files" / hashlib.blake2b(url.encode(), digest_size=12).hexdigest()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _is_verified(entry: Path, ref: BlobRef) -> bool:
    try:
        made, content = entry.lstat(), entry.stat()
    except FileNotFoundError:
        return False
    return content.st_size == ref.size and made.st_mtime_ns >= content.st_mtime_ns


def _fill(entry: Path, store: Store, ref: BlobRef, executable: bool) -> None:
    draft = entry.with_name(f".{secrets.token_hex(8)}")
    origin = store.objects.local_path(ref.name)
    try:
        if origin is not None and _is_linkable(origin, entry.parent, executable):
            check(ref, *hash_file(origin), store.url)
            draft.symlink_to(origin)
        else:
            store.fetch_blob(ref, draft)
            draft.chmod(0o555 if executable else 0o444)
        draft.replace(entry)
    finally:
        draft.unlink(missing_ok=True)


def _is_linkable(origin: Path, directory: Path, executable: bool) -> bool:
    """Say whether links to the store's own object are as good as a copy: same file system, same rights."""
    status = origin.stat()
    same_rights = not status.st_mode & 0o222 and bool(status.st_mode & 0o111) == executable
    return same_rights and status.st_dev == directory.stat().st_dev


def _copy(content: Path, target: Path, *, writable: bool) -> None:
    mode = stat.S_IMODE(content.stat().st_mode) | (stat.S_IWUSR if writable else 0)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    shutil.copyfile(content, target)
    target.chmod(mode)
