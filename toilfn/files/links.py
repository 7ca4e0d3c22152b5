"""Links between a store in a directory and other files of this machine, for imports and exports without a copy."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from toilfn.files.digests import hash_once
from toilfn.files.transfer import local_path
from toilfn.model.records import BlobRef
from toilfn.stores import Store
from toilfn.stores.blobs import linked_ref
from toilfn.stores.files import clone

__all__ = ["leave_link", "link_blob"]


def link_blob(store: Store, path: Path, name: str, *, link: str, algorithm: str | None) -> BlobRef | None:
    """Put a link to a local file into a store; None if that is not possible.

    Parameters
    ----------
    store : Store
        Where to.
    path : Path
        The file.
    name : str
        A new blob's.
    link : {"hard", "symlink", "reference", "reflink"}
        The kind of link; a reference to a local file is a symbolic link, a reflink a copy that shares its blocks.
    algorithm : str or None
        Compute the content's digest by this algorithm. Otherwise the file is known by its size, time and inode.
    """
    if local_path(store.url) is None:
        return None
    store.objects.put(name, b"")
    entry = store.objects.local_path(name)
    try:
        if entry is None:  # an encrypted object cannot be read as a file
            raise OSError(errno.EOPNOTSUPP, "not a file")
        _replace_by_link(entry, path.resolve(), link)
    except OSError as error:
        store.objects.delete([name])
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return None
    if algorithm is not None:
        return BlobRef(name, *hash_once(entry, algorithm))
    return linked_ref(name, entry, any_inode=link not in ("symlink", "reference"))


def leave_link(entry: Path, target: str) -> None:
    """Replace a store's own object by a symbolic link to the exported file, if that is on this machine."""
    path = local_path(target)
    if path is not None and path.is_file() and not entry.is_symlink():
        _replace_by_link(entry, path, "symlink")


def _replace_by_link(entry: Path, path: Path, link: str) -> None:
    draft = entry.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        if link in ("symlink", "reference"):
            draft.symlink_to(path)
        elif link == "hard":
            os.link(path, draft)
        else:
            _share_blocks(path, draft)
        draft.replace(entry)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(entry.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _share_blocks(path: Path, draft: Path) -> None:
    """Create a separate file, for reading, that shares all blocks of another one.

    Raises
    ------
    OSError
        If the file system cannot share blocks, or the files are on two file systems.
    """
    with path.open("rb") as source, draft.open("xb") as target:
        if not clone(source, target):
            raise OSError(errno.EOPNOTSUPP, "no reflinks")
        found = os.fstat(source.fileno())
        os.utime(target.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
        os.fchmod(target.fileno(), 0o555 if found.st_mode & 0o111 else 0o444)
        os.fsync(target.fileno())
