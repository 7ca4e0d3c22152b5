"""A directory through which several users of a machine share the files of their caches.

Nothing in it is believed. The owner of a file can alter it at any time, also after its content was checked, so a file
of this directory is never linked: its content is copied into the user's own cache (by sharing blocks where the file
system can), and the digest of the copy must be the one that was requested.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from toilfn.files.room import note_shared
from toilfn.model.records import BlobRef
from toilfn.stores import Store
from toilfn.stores.digests import Hasher, algorithm_of, checksum_of
from toilfn.stores.files import clone

__all__ = ["SHARED_VARIABLE", "offer", "take"]

SHARED_VARIABLE = "TOILFN_CACHE_SHARED"
"""The environment variable with the directory that users share."""

_LEAST = 2**20
"""Bytes of a file that is worth sharing."""

_CHUNK = 2**20

_WEAK = ("xxh3",)
"""Algorithms for which another content with the same digest can be made on purpose."""

_log = logging.getLogger("toilfn.files")


def offer(store: Store, ref: BlobRef, entry: Path) -> None:
    """Let other users have a file of this user's cache: by a hard link, which goes with the file."""
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
