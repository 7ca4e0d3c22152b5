"""The job store: a log and blobs, in any place fsspec can write to.

`FORMAT.md`, in this directory, specifies the format of every object.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toilfn.errors import InputError, StoreError, StoreNotFoundError, ToilfnError
from toilfn.stores import options
from toilfn.stores.blobs import BlobRef, new_blob_name
from toilfn.stores.files import FileObjects
from toilfn.stores.objects import META, MissingBucketError, MissingObjectError, Objects
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
    "stores_below",
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
        A path, ``file://...``, or any URL fsspec can write to.
    create : bool
        Whether to create the store if there is none.
    workflow : str
        The name of the workflow, recorded in a new store for people to read.
    **storage_options
        How to reach the store. `docs/stores.md` lists the options; all others are passed to fsspec's file system.
        For a directory, ``sync=False`` creates a store whose writes survive a crash of the process but may be lost
        in a power failure. This process reuses the options when it opens the store again without any.

    Raises
    ------
    StoreNotFoundError
        If there is no store and `create` is false.
    StoreFormatError
        If the store was created by a version of toilfn with another format.
    StoreError
        If the place cannot be used. The message says why, and the hint what to do.
    """
    if not isinstance(url, str | os.PathLike):
        raise StoreError(f"{url!r} is not the path or URL of a store", hint="write a text, or pass a pathlib.Path")
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
    """Open the remains of a job store that has lost its ``store.json``, to remove them; return None if there are none.

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


def stores_below(url: str | os.PathLike[str], depth: int, **storage_options: Any) -> Iterator[str]:
    """Find the stores at a place and below it, and yield their URLs; folders of stores are not looked into.

    Parameters
    ----------
    url : str or path
        A directory, or a URL.
    depth : int
        The number of levels of folders below the place that are looked at.
    **storage_options
        As for `open_store`.

    Raises
    ------
    InputError
        If the directory does not exist.
    StoreError
        If the place cannot be read.
    """
    refuse_missing_slashes(url)
    local = is_local(url)
    if local and not os.path.exists(_path(url)):
        raise InputError(f"directory not found: {_path(url)}")
    place = f"file://{_path(url)}" if local else str(url).rstrip("/")
    wanted = options.resolved({**options.known(place), **storage_options})
    for name in ("encryption_key", "create_bucket"):
        wanted.pop(name, None)
    stack: list[tuple[Objects, int]] = [((_directory if local else _connect)(place, wanted), 0)]
    while stack:
        objects, level = stack.pop()
        if objects.exists(META):
            yield objects.url
        elif level < depth:
            stack += [(objects.below(name), level + 1) for name in sorted(objects.folders(), reverse=True)]


def refuse_missing_slashes(url: str | os.PathLike[str]) -> None:
    """Refuse a URL such as ``s3:bucket/x``, which would otherwise be taken for a directory of that name.

    Raises
    ------
    InputError
        If the text looks like a URL without its slashes.
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
    """Return whether a store's URL is a path or begins with ``file://``."""
    scheme = _SCHEME.match(url) if isinstance(url, str) else None
    return scheme is None or scheme[0] == "file://"


def _path(url: str | os.PathLike[str]) -> str:
    path = _encodable(os.path.expanduser(os.fspath(url).removeprefix("file://")))
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise StoreError(
            f"job store {path}: the path is relative, and the current directory no longer exists",
            hint="change to a directory that exists, or give an absolute path",
        ) from None


def _encodable(path: str) -> str:
    """Return a path as the locale of this process spells it, which may be ASCII: its name is in UTF-8."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        with suppress(UnicodeEncodeError):
            return os.fsdecode(path.encode(errors="surrogateescape"))
    return path


def temporary_store(workflow: str = "") -> Store:
    """Create a store in a new directory below the system's temporary directory.

    Parameters
    ----------
    workflow : str
        The name of the workflow, for people to read.
    """
    return open_store(tempfile.mkdtemp(prefix="toilfn-"), workflow=workflow, sync=False)


def _open(
    url: str,
    given: dict[str, Any],
    new: bool,
    workflow: str,
    connect: Callable[[str, dict[str, Any]], Objects],
) -> Store:
    options.remember(url, {name: value for name, value in given.items() if name != "sync"})  # store.json has sync
    wanted = options.resolved({**options.known(url), **given})
    key, makes_bucket = wanted.pop("encryption_key", None), wanted.pop("create_bucket", False)
    place = connect(url, wanted)
    objects = _encrypted(place, key)
    meta = None if new else Meta.from_leader(objects.url)
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
    if os.path.isfile(root):
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
        cause = error if why == str(error) else None  # the cause's traceback would show the secret
        raise StoreError(f"job store {url} ({scheme}://) cannot be opened: {why}", hint=f"use {known}") from cause


def _driver(scheme: str) -> type[FsspecObjects]:
    """Return the class for a scheme. Drivers are imported only when needed."""
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
        f"no job store at {url}",
        hint="check the spelling; it must be the path or URL that the workflow was started with",
    )
