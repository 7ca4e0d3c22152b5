"""Large buffers of values: each has a file of the store, which all readers on a machine map into memory.

So an array is in memory once, however many tasks of a machine read it. The mapping is private: what a task writes to
its array is copied page by page, and no other process sees it.
"""

from __future__ import annotations

import mmap
import os
import shutil
import weakref
from pathlib import Path

from toilfn.errors import StoreError
from toilfn.files.cache import place, process_dir
from toilfn.files.file import holder
from toilfn.model.records import BlobRef

__all__ = ["mapped"]

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0)
"""Most arrays are never written to: the system need not keep memory for copies of all pages."""


def mapped(ref: BlobRef, *, writable: bool) -> memoryview:
    """Map a buffer of the store whose payload is read here.

    The node's cache holds its file for as long as the buffer lives. It is verified once on each machine.

    Parameters
    ----------
    ref : BlobRef
    writable : bool
        Whether the buffer can be written to, which changes only this process's copy.

    Raises
    ------
    CorruptObjectError
        If the blob is missing or its content is not what was stored.
    """
    store = holder()
    if store is None:
        raise StoreError(f"{ref.name}: a large value can only be read with its store")
    directory = process_dir()
    place(store, ref, directory / "buffer")
    with (directory / "buffer").open("rb") as file:
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        found = mmap.mmap(file.fileno(), ref.size, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=access)
    # The link is the file's use in the cache. When this process ends, its whole directory goes.
    weakref.finalize(found, _release, directory, os.getpid()).atexit = False
    return memoryview(found)


def _release(directory: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that a task forked
        shutil.rmtree(directory, ignore_errors=True)
