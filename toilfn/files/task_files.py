"""The files of one attempt of a task: those that it creates or deletes, and its local copies."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import Token
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toilfn import confined
from toilfn.errors import InputError, SerializationError
from toilfn.files import cache as filecache
from toilfn.files import transfer, trees
from toilfn.files.digests import remember
from toilfn.files.directory import Directory, arranged, gather
from toilfn.files.file import File, held_by
from toilfn.files.links import link_blob
from toilfn.graph.running import AttemptFiles, entered, files_variable
from toilfn.graph.structure import rebuild
from toilfn.model.records import BlobRef
from toilfn.stores import Store, new_blob_name
from toilfn.stores.digests import DEFAULT, Hasher, checksum_of
from toilfn.stores.objects import NewObject
from toilfn.stores.references import Source

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["DIGEST_VARIABLE", "LINK_VARIABLE", "BinaryWriter", "TaskFiles", "TextWriter"]

LINK_VARIABLE = "TOILFN_LINK_IMPORTS"
"""The environment variable with the kind of link for imports that do not choose one themselves."""


DIGEST_VARIABLE = "TOILFN_DIGEST"
"""The environment variable with the algorithm by which the digests of new files are computed."""


class TaskFiles:
    """Makes the functions of `toilfn.files` work inside a ``with`` block.

    Parameters
    ----------
    store : Store
        Where new files go.
    temp_dir : callable
        Returns the attempt's temporary directory; called when it is first needed.

    Attributes
    ----------
    made : list of BlobRef
        All blobs that the attempt has put into the store; they are garbage if the attempt is not committed.
    deleted : list of str
        Blobs that are removed when the attempt is committed.
    temporary : list of str
        Blobs that are removed when the task, and all that it led to, is done.
    """

    def __init__(self, store: Store, temp_dir: Callable[[], Path]) -> None:
        self.store = store
        self.temp_dir = temp_dir
        self.made: list[BlobRef] = []
        self.deleted: list[str] = []
        self.temporary: list[str] = []
        self._copies: dict[str, Path] = {}
        self._known: dict[Path, File] = {}
        self._passed: dict[tuple[Path, str | None], File] = {}

    def __enter__(self) -> TaskFiles:
        self._token: Token[AttemptFiles] = files_variable.set(self)
        self._held = held_by(self.store)
        self._held.__enter__()
        entered.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        entered.remove(self)
        self._held.__exit__(None, None, None)
        files_variable.reset(self._token)

    def put(
        self, path: Path, name: str | None = None, *, move: bool = False, share: bool = False, cleanup: bool = False
    ) -> File:
        """Put a local file into the store; with `move` it need not stay where it is, with `share` it never changes.

        Raises
        ------
        InputError
            If the file does not exist, or the name is not one for a file.
        """
        name = confined.single(path.name if name is None else name)
        if not path.is_file():
            if path.is_dir():
                raise InputError(f"{path} is a directory", hint="store its files, or an archive of them")
            raise InputError(f"{path} is not a file" if os.path.lexists(path) else f"{path} does not exist")
        status = path.stat()
        # A name of its own, though an equal blob may exist: files are deleted one by one.
        ref = self.store.put_blob_file(path, name=new_blob_name(name), move=move, share=share, algorithm=_algorithm())
        remember(ref, self.store.objects.local_path(ref.name))
        self.made.append(ref)
        if cleanup:
            self.temporary.append(ref.name)
        return self._file(ref, name, status)

    def import_url(
        self, url: str | os.PathLike[str], name: str | None = None, link: str | None = None, *, checksum: bool = False
    ) -> File:
        """Put the file at a URL into the store, as `toilfn.import_file` describes.

        Raises
        ------
        InputError
            If there is nothing at the URL, or a directory.
        """
        url = transfer.absolute(url)
        path = transfer.local_path(url)
        link = link or _default_link()
        if name is None:
            name = transfer.name_of(url)
        if path is not None:
            transfer.refuse_directory(url, path.is_dir())
            return self.put(path, name) if link == "copy" else self._put_link(path, name, link, checksum=checksum)
        if link == "reference" and (file := self._refer(url, name)) is not None:
            return file
        draft = self._scratch("import") / "content"
        transfer.fetch(os.fspath(url), draft)
        return self.put(draft, name, move=True)

    def copies_remote(self, url: str | os.PathLike[str], link: str | None) -> bool:
        """Return whether an import of a directory downloads it."""
        return transfer.local_path(transfer.absolute(url)) is None and (link or _default_link()) != "reference"

    def import_tree(
        self, url: str | os.PathLike[str], name: str | None = None, link: str | None = None, *, checksum: bool = False
    ) -> Directory:
        """Put a directory at a URL into the store, with all its content, as `toilfn.import_directory` describes.

        Raises
        ------
        InputError
            If there is no directory at the URL.
        """
        name = confined.single(transfer.name_of(url) if name is None else name)
        url = transfer.absolute(url)
        path = transfer.local_path(url)
        if path is None and (link or _default_link()) == "reference":
            found = trees.sources_below(url)
            if found is not None:
                files = {
                    place: source and self._referring(source, transfer.name_of(place))
                    for place, source in found.items()
                }
                return arranged(name, files)
        if path is None:
            entries = trees.entries_below(os.fspath(url))
            imported = self.import_entries(url, entries)
            return arranged(name, dict(zip((each.path for each in entries), imported, strict=True)))
        if not path.is_dir():
            raise InputError(f"cannot import {path}: it is not a directory")
        return gather(path, name, lambda child: self.import_url(child, link=link, checksum=checksum))

    def import_entries(self, url: str | os.PathLike[str], entries: Sequence[trees.Listed]) -> list[File | None]:
        """Put entries of a directory that is not local into the store; return the file of each, None for directories.

        Raises
        ------
        InputError
            If a file is missing.
        """
        folder = self._scratch("import")
        trees.fetch_entries(os.fspath(url), entries, folder)
        return [None if each.is_directory else self.put(folder / each.path, move=True) for each in entries]

    def new_place(self, own_name: str, name: str | os.PathLike[str] | None) -> Path:
        """Return the path for a local copy: the user's, or a new one in the temporary directory."""
        own_name = confined.single(own_name)
        return self._scratch("file") / own_name if name is None else self.temp_dir() / name

    @contextlib.contextmanager
    def writer(
        self, name: str, mode: str, encoding: str, errors: str, *, cleanup: bool, seekable: bool = False
    ) -> Iterator[BinaryWriter | TextWriter]:
        """Open a new file of the store, as `toilfn.open_write` describes."""
        confined.single(name)
        if mode not in ("wb", "w"):
            raise InputError(
                f"open_write(mode={mode!r}): unknown mode", hint="use 'wb' to write bytes or 'w' to write text"
            )
        blob = new_blob_name(name)
        upload = None if seekable else self.store.objects.open_new(blob)
        draft = self._scratch("write") / "content" if upload is None else None
        raw = _Hashed(upload) if upload is not None else io.FileIO(str(draft), "w")
        stream = BinaryWriter(raw) if mode == "wb" else TextWriter(raw, encoding, errors)
        try:
            yield stream
            stream.close()
            if isinstance(raw, _Hashed):
                raw.upload.finish()
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is raised
                stream.close()
            if isinstance(raw, _Hashed):
                raw.upload.give_up()
            elif draft is not None:
                draft.unlink()
            raise
        if isinstance(raw, _Hashed):
            stream.file = self._written(raw, blob, name, cleanup=cleanup)
        elif draft is not None:
            stream.file = self.put(draft, name, move=True, cleanup=cleanup)

    def _written(self, raw: _Hashed, blob: str, name: str, *, cleanup: bool) -> File:
        """Return the file of an upload that has succeeded."""
        ref = BlobRef(blob, raw.hasher.size, raw.hasher.digest())
        self.made.append(ref)
        if cleanup:
            self.temporary.append(ref.name)
        return File(ref.name, name, ref.size, checksum_of(ref.digest), False, self.store.url, time.time_ns())

    def place(
        self, file: File, store: Store, name: str | os.PathLike[str] | None, *, mutable: bool, symlink: bool
    ) -> Path:
        """Create the copy that `File.path` returns, of a file in `store`."""
        if name is None and not mutable and file.id in self._copies:
            return self._copies[file.id]
        target = self.new_place(file.name, name)
        if symlink and not mutable:
            self._place_link(file, store, target)
        else:
            filecache.place(
                store, file.ref, target, executable=file.executable, mutable=mutable, modified=file.modified
            )
        if not mutable:
            self._known[_located(target)] = replace(file, name=target.name)
            if name is None:
                self._copies[file.id] = target
        return target

    def _place_link(self, file: File, store: Store, target: Path) -> None:
        """Create a symbolic link to a copy that stays until the attempt ends."""
        kept = self._scratch("link") / confined.single(file.name)
        filecache.place(store, file.ref, kept, executable=file.executable, modified=file.modified)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(kept)

    def delete(self, file: File) -> None:
        """Delete a file, as `File.delete` describes.

        Raises
        ------
        InputError
            If the file is in the store of another workflow.
        """
        if file.store != self.store.url:
            raise InputError(
                f"file {file.name!r} belongs to the store {file.store}: only the workflow of that store can delete it"
            )
        if file.id not in self.deleted:
            self.deleted.append(file.id)

    def adopt(self, value: Any) -> Any:
        """Replace the paths below the temporary directory in what a task returns by files.

        Parameters
        ----------
        value : object
            Paths are found at any depth of lists, tuples, sets, dicts, dataclasses and namedtuples.
            The files behind them are moved into the store.

        Returns
        -------
        object
            The value with a `File` or a `Directory` for each such path, the same file for the same path.

        Raises
        ------
        SerializationError
            If there is no file at a path, or the value holds a file that the task deletes.
        """
        return rebuild(value, self._adopt_leaf)

    def pass_on(self, path: Path) -> Path | File | Directory:
        """Return the file for a path that is passed to a task created by this one; other paths stay as they are.

        The path remains, with the content that it has now in the file.
        """
        place = _located(path)
        if place in self._known or not self._is_temporary(place) or _is_mere_name(path):
            return self._known.get(place, path)
        if place.is_dir():
            self._refuse_all(place)
            return gather(place, place.name, lambda child: self._known.get(_located(child)) or self.put(child))
        key = (place, transfer.fingerprint(str(place)))
        if key not in self._passed:
            self._passed[key] = self.put(place)
        return self._passed[key]

    def _adopt_leaf(self, leaf: Any) -> Any:
        if isinstance(leaf, Path):
            return self._adopt_path(leaf)
        if isinstance(leaf, str) and leaf in self.deleted:  # the id of a file
            raise SerializationError(f"the task returned the file {leaf} after deleting it")
        return leaf

    def _adopt_path(self, path: Path) -> Path | File | Directory:
        place = _located(path)
        if not self._is_temporary(place) or _is_mere_name(path):
            return path
        try:
            if place.is_dir():
                self._refuse_all(place)
                return gather(place, place.name, self._take)
            return self._take(place)
        except InputError as error:
            raise SerializationError(f"the task returned a path in its temporary directory, but {error}") from error

    def _refuse_all(self, place: Path) -> None:
        if place == _located(self.temp_dir()):
            raise InputError(
                f"{place} is the temporary directory itself", hint="create a directory in it for the results to keep"
            )

    def _is_temporary(self, place: Path) -> bool:
        return place.is_relative_to(self.temp_dir().resolve())

    def _take(self, path: Path) -> File:
        place = _located(path)
        if place not in self._known:
            # A link is only read: its target belongs to others.
            alone = not place.is_symlink() and place.exists() and place.stat().st_nlink == 1
            self._known[place] = self.put(place, move=alone and self._is_temporary(place))
        return self._known[place]

    def _put_link(self, path: Path, name: str, link: str, *, checksum: bool) -> File:
        """Create a link to a file in the store, where both are on this machine; otherwise a copy."""
        blob = new_blob_name(confined.single(name))
        ref = link_blob(self.store, path, blob, link=link, algorithm=_algorithm() if checksum else None)
        if ref is None:
            return self.put(path, name)
        self.made.append(ref)
        return replace(self._file(ref, name, path.stat()), source=str(path))

    def _refer(self, url: str, name: str) -> File | None:
        """Put the address of an object that is elsewhere into the store; return None if a copy is needed."""
        source = transfer.source_of(url)
        return None if source is None else self._referring(source, name)

    def _referring(self, source: Source, name: str) -> File:
        ref = self.store.put_reference(source, new_blob_name(confined.single(name)))
        self.made.append(ref)
        return File(ref.name, name, ref.size, checksum_of(ref.digest), False, self.store.url, None, source.url)

    def _file(self, ref: BlobRef, name: str, status: os.stat_result) -> File:
        executable = bool(status.st_mode & 0o111)
        return File(ref.name, name, ref.size, checksum_of(ref.digest), executable, self.store.url, status.st_mtime_ns)

    def _scratch(self, purpose: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=self.temp_dir()))


class Writer:
    """An open file that becomes a `File` when its block ends without an error."""

    _file: File | None = None

    @property
    def file(self) -> File:
        """The file written."""
        if self._file is None:
            raise InputError(
                "the file is not stored yet: it is stored when the `with toilfn.open_write(...)` block exits"
                " without an error"
            )
        return self._file

    @file.setter
    def file(self, file: File) -> None:
        self._file = file


class BinaryWriter(io.BufferedWriter, Writer):
    """A `Writer` of bytes."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)


class TextWriter(io.TextIOWrapper, Writer):
    """A `Writer` of text."""

    def __init__(self, raw: io.RawIOBase, encoding: str, errors: str) -> None:
        super().__init__(io.BufferedWriter(raw), encoding=encoding, errors=errors)


class _Hashed(io.RawIOBase):
    """Passes bytes on to a new object of the store, and computes their digest."""

    def __init__(self, upload: NewObject) -> None:
        self.upload = upload
        self.hasher = Hasher(_algorithm())

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data).cast("B")
        count = self.upload.write(view) or 0
        self.hasher.update(view[:count])
        return count


def _algorithm() -> str:
    return os.environ.get(DIGEST_VARIABLE, DEFAULT)


def _default_link() -> str:
    return os.environ.get(LINK_VARIABLE, "copy")


def _located(path: Path) -> Path:
    """Return an absolute path whose directories are not links."""
    return path.parent.resolve() / path.name


def _is_mere_name(path: Path) -> bool:
    """Return whether a relative path is only a value, because no file is there."""
    return not path.is_absolute() and not os.path.lexists(path)
