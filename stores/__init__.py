"""The job store: a log and blobs, in any place that fsspec can write to.

`FORMAT.md` beside this file says what is written where.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toilfn.errors import StoreError, StoreNotFoundError, ToilfnError
from toilfn.stores.blobs import BlobRef, new_blob_name
from toilfn.stores.files import FileObjects
from toilfn.stores.objects import MissingObjectError, Objects
from toilfn.stores.store import Meta, Store, make

if TYPE_CHECKING:
    from toilfn.stores.remote import FsspecObjects

__all__ = [
    "BlobRef",
    "MissingObjectError",
    "Objects",
    "Store",
    "is_local",
    "new_blob_name",
    "open_store",
    "temporary_store",
]

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)(?:://|::)")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


def open_store(
    url: str | os.PathLike[str], *, create: bool = True, workflow: str = "", **storage_options: Any
) -> Store:
    """Open a job store.

    Parameters
    ----------
    url : str or path
        A path, ``file://...``, or any URL that fsspec can write to.
    create : bool
        Whether to make the store if there is none.
    workflow : str
        What a new store is for; for people.
    **storage_options
        For fsspec's file system. For files: ``sync=False`` makes a new store whose writes outlive
        every death of a process but not a loss of power.

    Raises
    ------
    StoreNotFoundError
        If there is no store, and none is to be made.
    StoreFormatError
        If the store was made by a toilfn with another format.
    StoreError
        If the place cannot be used; says why and what to do.
    """
    if is_local(url):
        path = os.fspath(url).removeprefix("file://")
        return _open_directory(path, create, workflow, **storage_options)
    scheme = str(url).partition(":")[0]
    return _open_remote(str(url).rstrip("/"), scheme, create, workflow, storage_options)


def is_local(url: str | os.PathLike[str]) -> bool:
    """Say whether a store's URL is a path or a ``file://`` one."""
    scheme = _SCHEME.match(url) if isinstance(url, str) else None
    return scheme is None or scheme[0] == "file://"


def temporary_store(workflow: str = "") -> Store:
    """Make a store in a new directory under the system's temporary one.

    Parameters
    ----------
    workflow : str
        What it is for; for people.
    """
    return open_store(tempfile.mkdtemp(prefix="toilfn-"), workflow=workflow, sync=False)


def _open_directory(path: str, new: bool, workflow: str, *, sync: bool = True) -> Store:
    root = Path(path).expanduser().absolute()
    objects = FileObjects(root, sync=sync)
    if root.is_file():
        raise StoreError(f"{root} is a file, not a job store: nothing was touched. Choose a new or an empty directory.")
    meta = Meta.read(objects)
    if meta is None:
        if not new:
            raise _not_found(objects.url)
        _make_private(root)
        meta = make(objects, workflow, sync=sync)
    objects.sync = meta.sync
    return Store(objects, meta)


def _make_private(root: Path) -> None:
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreError(f"Cannot make the job store {root}: {error}") from error


def _open_remote(url: str, scheme: str, new: bool, workflow: str, options: dict[str, Any]) -> Store:
    if re.search(r"//[^/@:]*:[^/@]+@", url):
        raise StoreError(
            "A job store's URL is shown in messages and handed to batch systems, so it must not hold a password."
            " Put it into fsspec's configuration (~/.config/fsspec/conf.json) or the driver's own."
        )
    objects = _connect(url, scheme, options)
    meta = Meta.read(objects)
    if meta is None:
        if not new:
            raise _not_found(objects.url)
        meta = make(objects, workflow, sync=True)
    objects.set_conditional(meta.conditional)
    return Store(objects, meta)


def _connect(url: str, scheme: str, options: dict[str, Any]) -> FsspecObjects:
    from toilfn.stores.remote import FsspecObjects

    try:
        return FsspecObjects.connect(url, options)
    except ToilfnError:
        raise
    except ImportError as error:
        extra = f"pip install 'toilfn[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else str(error)
        raise StoreError(f"The job store {url} needs a driver for {scheme}://. To get it: {extra}") from error
    except Exception as error:
        known = "a path, file://, s3://, gs:// or another scheme of fsspec's"
        raise StoreError(f"Cannot open the job store {url} ({scheme}://): {error}. Use {known}.") from error


def _not_found(url: str) -> StoreNotFoundError:
    return StoreNotFoundError(f"There is no job store at {url}. Is it spelled as it was when the workflow was started?")
