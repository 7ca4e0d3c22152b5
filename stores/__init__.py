"""The job store: a log and blobs, in any place that fsspec can write to.

`FORMAT.md` beside this file says what is written where.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toilfn.errors import InputError, StoreError, StoreNotFoundError, ToilfnError
from toilfn.stores import options
from toilfn.stores.blobs import BlobRef, new_blob_name
from toilfn.stores.files import FileObjects
from toilfn.stores.objects import MissingBucketError, MissingObjectError, Objects
from toilfn.stores.store import Meta, Store, make, remains

if TYPE_CHECKING:
    from toilfn.stores.remote import FsspecObjects

__all__ = [
    "BlobRef",
    "MissingObjectError",
    "Objects",
    "Store",
    "is_local",
    "new_blob_name",
    "open_remains",
    "open_store",
    "refuse_missing_slashes",
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
        How to reach it; `docs/stores.md` lists them, and what is not listed is for fsspec's file system. For files:
        ``sync=False`` makes a new store whose writes outlive every death of a process but not a loss of power.
        This process remembers them for the next time the store is opened without any.

    Raises
    ------
    StoreNotFoundError
        If there is no store, and none is to be made.
    StoreFormatError
        If the store was made by a toilfn with another format.
    StoreError
        If the place cannot be used; says why and what to do.
    """
    if not os.fspath(url):
        raise StoreError("the path or URL of the store is empty", hint="write '.' for the current directory")
    refuse_missing_slashes(url)
    if is_local(url):
        return _open(f"file://{_path(url)}", storage_options, create, workflow, _directory)
    place = str(url).rstrip("/")
    if re.search(r"//[^/@:]*:[^/@]+@", place):
        raise StoreError(
            "the store's URL must not contain a password: it is shown in messages and passed to batch systems",
            hint="put the password into fsspec's configuration (~/.config/fsspec/conf.json) or the driver's own",
        )
    return _open(place, storage_options, create, workflow, _connect)


def open_remains(url: str | os.PathLike[str], **storage_options: Any) -> Store | None:
    """Open what is left of a job store without its ``store.json``, to be removed; None if nothing there is of a store.

    Parameters
    ----------
    url, **storage_options
        As for `open_store`.
    """
    found: list[Objects] = []

    def connect(url: str, wanted: dict[str, Any]) -> Objects:
        found.append((_directory if is_local(url) else _connect)(url, wanted))
        return found[-1]

    place = str(url) if not is_local(url) else f"file://{_path(url)}"
    with suppress(StoreNotFoundError):
        return _open(place.rstrip("/"), storage_options, False, "", connect)
    wanted = options.resolved({**options.known(place.rstrip("/")), **storage_options})
    objects = _encrypted(found[-1], wanted.get("encryption_key"))
    meta = remains(objects)
    return None if meta is None else Store(objects, meta)


def refuse_missing_slashes(url: str | os.PathLike[str]) -> None:
    """Refuse ``s3:bucket/x``, which would be a directory of that name.

    Raises
    ------
    InputError
        If it looks like a URL in which slashes are missing.
    """
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):(?!//|:)/?(.*)", url) if isinstance(url, str) else None
    if match is None or match[1] == "data":
        return
    from fsspec.registry import known_implementations

    if match[1].lower() in known_implementations:
        raise InputError(
            f"{url} is not a URL: {match[1]}: must be followed by two slashes",
            hint=f"write {match[1]}://{match[2].lstrip('/')}, or ./{url} for a file or directory of that name",
        )


def is_local(url: str | os.PathLike[str]) -> bool:
    """Return whether a store's URL is a path or a ``file://`` one."""
    scheme = _SCHEME.match(url) if isinstance(url, str) else None
    return scheme is None or scheme[0] == "file://"


def _path(url: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.path.expanduser(os.fspath(url).removeprefix("file://")))


def temporary_store(workflow: str = "") -> Store:
    """Build a store in a new directory under the system's temporary one.

    Parameters
    ----------
    workflow : str
        What it is for; for people.
    """
    return open_store(tempfile.mkdtemp(prefix="toilfn-"), workflow=workflow, sync=False)


def _open(
    url: str,
    given: dict[str, Any],
    new: bool,
    workflow: str,
    connect: Callable[[str, dict[str, Any]], Objects],
) -> Store:
    options.remember(url, {name: value for name, value in given.items() if name != "sync"})  # the store remembers that
    wanted = options.resolved({**options.known(url), **given})
    key, makes_bucket = wanted.pop("encryption_key", None), wanted.pop("create_bucket", False)
    place = connect(url, wanted)
    objects = _encrypted(place, key)
    meta = None if new else Meta.told(objects.url)
    if meta is None:
        meta = _read_meta(place, objects, make_bucket=new and makes_bucket)
    if meta is None:
        if not new:
            raise _not_found(objects.url)
        place.prepare()
        meta = make(objects, workflow)
    place.adopt(conditional=meta.conditional, sync=meta.sync)
    return Store(_encrypted(place, key), meta)


def _encrypted(objects: Objects, key: object) -> Objects:
    if key is None:
        return objects
    try:
        from toilfn.stores.encrypted import EncryptedObjects
    except ImportError as error:
        raise StoreError(
            "the store option encryption_key needs an optional package", hint="pip install 'toilfn[encryption]'"
        ) from error
    return EncryptedObjects(objects, options.key_bytes("encryption_key", key))


def _read_meta(place: Objects, objects: Objects, *, make_bucket: bool) -> Meta | None:
    try:
        return Meta.read(objects)
    except MissingBucketError:
        if not make_bucket:
            raise
        place.make_bucket()
        return None


def _directory(url: str, wanted: dict[str, Any]) -> FileObjects:
    root = Path(url.removeprefix("file://"))
    sync = wanted.pop("sync", True)
    for name in sorted(wanted):
        raise options.refuse(name, ["sync"], f"job store {root} (a directory)")
    if root.is_file():
        raise StoreError(
            f"{root} is a file, not a job store; it was not changed", hint="choose a new or an empty directory"
        )
    return FileObjects(root, sync=sync)


def _connect(url: str, wanted: dict[str, Any]) -> FsspecObjects:
    scheme = url.partition(":")[0]
    try:
        return _driver(scheme).connect(url, wanted)
    except ToilfnError:
        raise
    except ImportError as error:
        extra = f"pip install 'toilfn[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else str(error)
        raise StoreError(f"job store {url}: no driver for {scheme}:// is installed", hint=extra) from error
    except Exception as error:
        known = "a path, file://, s3://, gs:// or another fsspec scheme"
        why = options.masked(str(error), wanted)
        cause = error if why == str(error) else None  # its traceback would show the secret
        raise StoreError(f"job store {url} ({scheme}://) cannot be opened: {why}", hint=f"use {known}") from cause


def _driver(scheme: str) -> type[FsspecObjects]:
    """Return the class for a scheme: drivers are imported when they are needed."""
    match _EXTRAS.get(scheme):
        case "s3":
            from toilfn.stores.s3 import S3Objects

            return S3Objects
        case "gcs":
            from toilfn.stores.gcs import GcsObjects

            return GcsObjects
        case _:
            from toilfn.stores.remote import FsspecObjects

            return FsspecObjects


def _not_found(url: str) -> StoreNotFoundError:
    return StoreNotFoundError(
        f"no job store at {url}", hint="check the spelling: it must be the one the workflow was started with"
    )
