"""Deliver a run's output files from the store, and build the result object."""

from __future__ import annotations

import contextvars
import copy
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from schema_salad.ref_resolver import file_uri

from toilfn import confined
from toilfn.cwl.resources import LIGHT
from toilfn.cwl.values import local_path, map_objects, objects
from toilfn.errors import PermanentError
from toilfn.files import transfer
from toilfn.files.digests import check_once, sha1_once
from toilfn.files.directory import Directory
from toilfn.files.exchange import Exports, import_file, leave_behind, left, put_out
from toilfn.files.file import File, local_content, store_of
from toilfn.graph.task import task
from toilfn.moved import relocated
from toilfn.worker.context import current

__all__ = ["deliver"]

_DERIVED = ("path", "dirname", "nameroot", "nameext", "contents", "listing", "secondaryFiles")
_THREADS = 4
"""The number of checksums to compute at the same time."""


class DeliveryError(PermanentError):
    """The outputs cannot be written to their destination."""

    is_explained = True


@task(name="deliver", version="2", local=True, delivers=True, **LIGHT)
def deliver(outputs: dict[str, Any], outdir: str, shared: str, nonce: str, how: str = "copy") -> dict[str, Any]:
    """Copy output files to a directory or URL, and return the result object; each file is complete or absent.

    Files in the directory `shared` may be hard-linked instead. `nonce` makes each run deliver its outputs again. `how`
    is "copy", "move" (which leaves links in the store), or "leave" (files stay in the store).

    Raises
    ------
    DeliveryError
        If a file cannot be written, for example because the disk is full.
    """
    outdir, shared = transfer.absolute(outdir), relocated(shared)
    if how == "leave":
        with Checksums(outputs) as checksums:
            return {name: map_objects(value, partial(_left_in_store, checksums)) for name, value in outputs.items()}
    try:
        if (place := transfer.local_path(outdir)) is not None:
            place.mkdir(parents=True, exist_ok=True)
        with Exports() as exports, Checksums(outputs) as checksums:
            folder = Folder(outdir, outdir, exports, checksums, move=how == "move")
            delivered = {name: _delivered(value, folder, shared) for name, value in outputs.items()}
        if folder.move:
            for file, target in folder.moved.items():
                leave_behind(file, target)
        return delivered
    except OSError as error:
        what = error.filename2 or error.filename or outdir
        full = "free disk space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise DeliveryError(
            f"cannot write the outputs to {transfer.shown(outdir)}: {what}: {error.strerror or error}",
            hint=f"all outputs are kept in the store: {full}choose another --outdir, and run again with the same store",
        ) from None


_LONGEST_NAME = 255
"""The maximum length of a file name in bytes, on the file systems of Linux."""


class Checksums:
    """Computes the checksums of output files, several at a time, while others are copied.

    Only the thread that delivers the outputs calls the methods, so `_known` needs no lock; the pool runs `_sha1`.

    Parameters
    ----------
    outputs : mapping
        The outputs of the workflow.
    """

    def __init__(self, outputs: Mapping[str, Any]) -> None:
        self._outputs = outputs
        self._known: dict[File | Path, Future[str]] = {}

    def __enter__(self) -> Checksums:
        self._pool = ThreadPoolExecutor(_THREADS)
        for content in map(_content_without_checksum, _all_files(self._outputs)):
            if content is not None:
                self._start(content)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def measured(self, found: Mapping[str, Any], content: File | Path) -> dict[str, Any]:
        """Return the field ``size`` for an object's content, and ``checksum`` unless the object has that field."""
        size = content.size if isinstance(content, File) else content.stat().st_size
        if "checksum" in found:
            return {"size": size}
        return {"checksum": f"sha1${self._start(content).result()}", "size": size}

    def _start(self, content: File | Path) -> Future[str]:
        if content not in self._known:
            run = contextvars.copy_context().run
            self._known[content] = self._pool.submit(run, _sha1, content)
        return self._known[content]


def _all_files(value: Any) -> Iterator[dict[str, Any]]:
    """Iterate over the objects of all files in a value, also those in directories."""
    for found in objects(value):
        if found["class"] == "File":
            yield found
        elif found.get("location") is not None:
            yield from _all_files(list(_listing(found)))


def _content_without_checksum(found: Mapping[str, Any]) -> File | Path | None:
    """Return the content of a file whose checksum has not been computed, if it is in a store or on this machine."""
    if "checksum" in found:
        return None
    location = found.get("location")
    return location if isinstance(location, File) else local_path(location)


def _sha1(content: File | Path) -> str:
    if isinstance(content, Path):
        return sha1_once(content)
    origin = store_of(content).linked_file(content.ref) or store_of(content).local_file(content.ref)
    if origin is not None:
        check_once(content.ref, origin, store_of(content).url)
        return sha1_once(origin)
    with local_content(content) as path:
        return sha1_once(path)


def _left_in_store(checksums: Checksums, found: dict[str, Any]) -> dict[str, Any]:
    """Return the object for a file or a directory that stays in the store."""
    location = found.get("location")
    made = {name: value for name, value in found.items() if name not in _DERIVED or name == "secondaryFiles"}
    if isinstance(location, Directory) or (location is None and found["class"] == "Directory"):
        inner = [_left_in_store(checksums, entry) for entry in _listing(found)]
        return {**made, "location": f"_:{secrets.token_hex(8)}", "basename": _name(found), "listing": inner}
    if not isinstance(location, File):
        return found
    place = left(location)
    path = transfer.local_path(place)
    made |= checksums.measured(found, location)
    made |= {"location": place if path is None else file_uri(place), "basename": _name(found)}
    return made if path is None else {**made, "path": place}


def _delivered(value: Any, folder: Folder, shared: str) -> Any:
    if isinstance(value, Mapping):
        if value.get("class") in ("File", "Directory"):
            return _Delivery(folder, shared).unit(dict(value))
        return {name: _delivered(item, folder, shared) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_delivered(item, folder, shared) for item in value]
    return value


@dataclass
class Folder:
    """A destination directory.

    Attributes
    ----------
    url : str
        The path or URL to which files are written.
    final : str
        The path or URL of the complete directory, which is another one while the directory is being written.
    exports : Exports
        Uploads files in threads.
    checksums : Checksums
        Computes the checksums of the files.
    move : bool
        Whether to move files into the directory, and leave links to them in the store.
    moved : dict
        The final path of each moved file.
    contents : dict
        The content of each entry, by its name in the directory.
    """

    url: str
    final: str
    exports: Exports
    checksums: Checksums
    move: bool = False
    moved: dict[File, str] = field(default_factory=dict)
    contents: dict[str, Any] = field(default_factory=dict)
    results: dict[Any, dict[str, Any]] = field(default_factory=dict)

    def location(self, name: str) -> str:
        """Return the final URL of an entry of the directory."""
        path = transfer.local_path(self.final)
        return transfer.below(self.final, quote(name)) if path is None else file_uri(str(path / name))


class _Delivery:
    """Writes the files and directories of a value to a folder.

    A directory, or a file with its secondary files, is one unit. If a name is taken by different content, all names of
    the unit get a number. Content that is already there is not copied again.
    """

    def __init__(self, folder: Folder, shared: str) -> None:
        self._folder = folder
        self._shared = shared

    def unit(self, found: dict[str, Any]) -> dict[str, Any]:
        """Deliver a file or a directory with its secondary files, and return its object."""
        key = _key(found)
        if key not in self._folder.results:
            members = dict(_members(found))
            rename = _renaming(list(members), found)
            number = 1
            while any(self._is_taken(rename(name, number), content) for name, content in members.items()):
                number += 1
            self._folder.results[key] = self._object(found, lambda name: rename(name, number))
        return copy.deepcopy(self._folder.results[key])

    def _is_taken(self, name: str, content: Any) -> bool:
        return bool(self._folder.contents.get(name, content) != content)

    def _object(self, found: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
        name = rename(_name(found))
        made = {key: value for key, value in found.items() if key not in _DERIVED}
        made |= {"location": self._folder.location(name), "basename": name}
        is_there = name in self._folder.contents
        self._folder.contents[name] = _content(found)
        if found["class"] == "Directory":
            made["listing"] = self._directory(found, name)
        else:
            made |= self._file(found, name, is_there=is_there)
        if found.get("secondaryFiles"):
            made["secondaryFiles"] = [self._object(dict(each), rename) for each in found["secondaryFiles"]]
        if transfer.local_path(self._folder.final) is not None:
            made["path"] = os.path.join(self._folder.final, name)
        return made

    def _directory(self, found: dict[str, Any], name: str) -> list[dict[str, Any]]:
        final = transfer.below(self._folder.final, name, replaced=True)
        with _atomic_directory(transfer.below(self._folder.url, name, replaced=True)) as draft:
            inner = replace(self._folder, url=draft, final=final, contents={}, results={})
            delivery = _Delivery(inner, self._shared)
            return [delivery.unit(entry) for entry in _listing(found)]

    def _file(self, found: dict[str, Any], name: str, *, is_there: bool) -> dict[str, Any]:
        """Write a file, and return its size and checksum."""
        target = transfer.below(self._folder.url, name, replaced=True)
        content = _source(found)
        if not is_there:
            self._write(content, target)
        return self._folder.checksums.measured(found, content)

    def _write(self, content: File | Path, target: str) -> None:
        place = transfer.local_path(target)
        if place is not None and place.is_dir():
            raise IsADirectoryError(0, "a directory exists where a file of this name must be written", target)
        if isinstance(content, File):
            moved = self._folder.moved
            if place is None:
                self._folder.exports.put(content, target)
                return
            put_out(content, target, link=self._folder.move and content not in moved)
            moved.setdefault(content, transfer.below(self._folder.final, os.path.basename(target)))
            return
        link = bool(self._shared) and content.is_relative_to(self._shared)
        transfer.send(content, target, executable=os.access(content, os.X_OK), link=link)


def _source(found: Mapping[str, Any]) -> File | Path:
    """Return the file with the content of an object; the content of a literal is written to a file first."""
    location = found.get("location")
    if isinstance(location, File):
        return location
    if location is not None:
        return local_path(location) or import_file(location)
    path = current().temp_dir / f"literal-{secrets.token_hex(8)}"
    path.write_text(str(found.get("contents", "")), encoding="utf-8")
    return path


def _listing(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Iterate over the objects in a directory."""
    location = found.get("location")
    if isinstance(location, Directory):
        for entry in location:
            yield {"class": type(entry).__name__, "location": entry, "basename": entry.name}
    elif (path := local_path(location)) is not None:
        for child in sorted(path.iterdir()):
            kind = "Directory" if child.is_dir() else "File"
            yield {"class": kind, "location": file_uri(str(child)), "basename": child.name}
    else:
        yield from map(dict, found.get("listing") or ())


@contextmanager
def _atomic_directory(url: str) -> Iterator[str]:
    """Yield a temporary directory, which replaces `url` when the block ends without an error."""
    path = transfer.local_path(url)
    if path is None:
        yield url
        return
    draft, old = (path.with_name(f".toilfn-{secrets.token_hex(8)}") for _ in range(2))
    draft.mkdir()
    try:
        yield str(draft)
        if os.path.lexists(path):
            path.rename(old)
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if old.is_symlink() or old.is_file():
            old.unlink()
        shutil.rmtree(old, ignore_errors=True)


def _name(found: Mapping[str, Any]) -> str:
    """Return an object's ``basename``, or the last part of its location."""
    location = found.get("location")
    if found.get("basename"):
        return confined.single(found["basename"])
    if isinstance(location, (File, Directory)):
        return confined.single(location.name)
    return confined.single(transfer.name_of(local_path(location) or location)) if location else secrets.token_hex(8)


def _members(found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Iterate over the names and contents of a unit."""
    yield _name(found), _content(found)
    for each in found.get("secondaryFiles") or ():
        yield from _members(each)


def _content(found: Mapping[str, Any]) -> Any:
    """Return a key that is equal for objects with the same content."""
    location = found.get("location")
    if location is not None:
        return location
    if found["class"] == "File":
        return "literal", found.get("contents")
    return "listing", tuple(map(_key, found.get("listing") or ()))


def _key(found: Mapping[str, Any]) -> Any:
    """Return a key that is equal for objects with the same content, attributes and secondary files."""
    own = {name: value for name, value in found.items() if name not in ("location", *_DERIVED)}
    plain = map_objects(own, lambda one: one)
    secondary = tuple(map(_key, found.get("secondaryFiles") or ()))
    return _name(found) if "basename" in found else "", _content(found), secondary, repr(sorted(plain.items()))


def _renaming(names: list[str], found: Mapping[str, Any]) -> Callable[[str, int], str]:
    """Return a function that makes the names of a unit unique with a number.

    The names of secondary files still match that of their file: ``x.bam`` and ``x.bam.bai`` become ``x_2.bam`` and
    ``x_2.bam.bai``. A single name becomes ``x.bam_2``, as in cwltool. Names that would be too long are cut.
    """
    root = "" if len(names) == 1 else os.path.splitext(names[0])[0]
    while root and not all(name.startswith(root) for name in names):
        shorter = os.path.splitext(root)[0]
        root = "" if shorter == root else shorter

    longest = max(len(os.fsencode(name[len(root) :])) for name in names) if root else 0

    def renamed(name: str, number: int) -> str:
        if number == 1:
            return name
        kept = os.fsencode(root or name)[: _LONGEST_NAME - longest - len(f"_{number}")].decode(errors="ignore")
        return f"{kept}_{number}{name[len(root) :] if root else ''}"

    return renamed
