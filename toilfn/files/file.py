"""Files of a workflow: the handle, and the functions that create files."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import threading
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

import cloudpickle

from toilfn import confined, stores
from toilfn.errors import CorruptObjectError, InputError, StoreNotFoundError
from toilfn.files import cache as filecache
from toilfn.graph.running import current_files, payload_store
from toilfn.graph.structure import ATOMS
from toilfn.model.records import BlobRef
from toilfn.stores.digests import digest_of_checksum
from toilfn.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toilfn.files.task_files import BinaryWriter, TaskFiles, TextWriter

__all__ = [
    "File", "Pipe", "current_task_files", "files_in", "held_by", "holds_files", "local_content", "needed_task_files",
    "new_place", "open_write", "store_of", "write_file",
]  # fmt: skip

_SAME = "="
"""Comes before the address of a pickled file that is in the store that holds the pickle, wherever that is moved."""


class held_by:  # noqa: N801  # used as a function; a generator takes longer, and every task needs this
    """Resolve the files in payloads that are written and read in the block to the store that holds the payloads.

    The address of such a file is that of the store from which it is read: a copy of a store is a separate store.
    """

    __slots__ = ("_store", "_token")

    def __init__(self, store: stores.Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._token = payload_store.set(self)

    def __exit__(self, *_: object) -> None:
        payload_store.reset(self._token)

    @property
    def url(self) -> str:
        """The URL of the store."""
        return self._store.url

    def mapped(self, ref: BlobRef, *, writable: bool) -> memoryview:
        """Map a large buffer of a payload: all readers on this machine share its file in the node's cache."""
        return filecache.mapped(self._store, ref, writable=writable)


def _held_url() -> str:
    held = payload_store.get()
    return held.url if isinstance(held, held_by) else ""


def current_task_files() -> TaskFiles | None:
    """Return the files of the task that runs in this context; None outside tasks."""
    return cast("TaskFiles | None", current_files())


T = TypeVar("T")


def _moves_with_its_store(cls: type[T]) -> type[T]:
    """Define the state with which `File` is pickled; `dataclass` itself would replace methods of these names."""
    names = [entry.name for entry in fields(cast("Any", cls))]
    defaults = [None if entry.default is MISSING else entry.default for entry in fields(cast("Any", cls))]
    place = names.index("store")

    def __getstate__(self: Any) -> list[Any]:  # noqa: N807
        state = [getattr(self, name) for name in names]
        if self.store and self.store == _held_url():
            state[place] = _SAME + self.store
        return state

    def __setstate__(self: Any, state: list[Any]) -> None:  # noqa: N807
        state = [*state, *defaults[len(state) :]]  # an older version knew fewer fields
        if state[place].startswith(_SAME):  # outside of a store's payloads it keeps the address it had
            state[place] = _held_url() or state[place].removeprefix(_SAME)
        for name, value in zip(names, state, strict=True):
            object.__setattr__(self, name, value)

    defined: Any = cls
    defined.__getstate__, defined.__setstate__ = __getstate__, __setstate__
    return cls


@_moves_with_its_store
@dataclass(frozen=True, slots=True)
class File:
    """An immutable file in a job store.

    Tasks take and return it like any other value, and its methods work inside a task, and in the
    script when `toilfn.compute` has returned it. Handles are made by `write_file`, `open_write` and
    `import_file`, and of paths below the task's ``temp_dir`` that it returns.

    Attributes
    ----------
    id : str
        The name of its content in the store.
    name : str
        The file's own name, without directories.
    size : int
        Bytes.
    checksum : str
        BLAKE2b of the content, 16 bytes, in hexadecimal; by another algorithm (setting `digest`), its name comes before
        that, as in ``sha256:9f86...``. For a file that was linked into the store without being read, it stands for the
        file's size, time and inode.
    executable : bool
        Whether its owner may execute it.
    modified : int or None
        When its source was last written to, in nanoseconds since 1970: its local copies and exports
        have that time, so that an index does not look older than what it is about. None where it is not known.
    source : str
        The path of the file that it is a link to, if it was linked into the store; the URL of an object that was
        imported by reference.
    """

    id: str
    name: str
    size: int
    checksum: str
    executable: bool = False
    store: str = field(default="", repr=False, compare=False)
    modified: int | None = field(default=None, repr=False, compare=False)
    source: str = field(default="", repr=False, compare=False)

    def __toilfn_identity__(self) -> tuple[object, ...]:
        """The key that makes two files the same argument: the content, whichever store it is in."""
        return self.checksum, self.size, self.name, self.executable

    def __str__(self) -> str:
        """Return the URL of the content in the store, which `toilfn files` and other programs understand."""
        if self.ref.is_reference:
            return self.source
        return f"{self.store}/{self.id}" if self.store else self.id

    def url(self, expires: float | str | None = None) -> str:
        """Return a URL by which other programs read the content.

        Parameters
        ----------
        expires : float or str, optional
            In seconds, or a text such as ``"2d"``: makes a signed URL that anyone can read until then, at most for
            seven days. Without it, the URL is that of the file or object itself.

        Returns
        -------
        str

        Raises
        ------
        StoreError
            If the store has no signed URLs.
        """
        if expires is None:
            return str(self)
        store, seconds = store_of(self), round(parse_duration(expires))
        if self.ref.is_reference:
            return store.source_of(self.ref).signed_url(seconds)
        return store.objects.presigned_url(self.id, seconds)

    @property
    def ref(self) -> BlobRef:
        """The reference to its content that the store works with."""
        return BlobRef(self.id, self.size, digest_of_checksum(self.checksum))

    def path(self, name: str | os.PathLike[str] | None = None, *, mutable: bool = False, symlink: bool = False) -> Path:
        """Return a local copy.

        Parameters
        ----------
        name : path, optional
            Path of the copy; in a task, relative to its ``temp_dir``. By default a directory
            of its own, under the file's name, which goes when the task or the script ends.
        mutable : bool
            Make a private copy that may be changed. Otherwise the copy is a link, shared with
            other tasks on the node, and must not be changed.
        symlink : bool
            Make a symbolic link rather than a hard link, which works between file systems. It is
            good for as long as the task runs; in a script, until the script ends.

        Returns
        -------
        Path

        Raises
        ------
        CorruptObjectError
            If the content is missing or is not what was written.
        FileExistsError
            If there is something at `name`.
        """
        session = current_task_files()
        with _naming(self):
            store = store_of(self)
            if session is not None:
                return session.place(self, store, name, mutable=mutable, symlink=symlink)
            if name is None:
                if mutable:
                    raise InputError(
                        "path(mutable=True) needs a name outside of a task", hint="write path(name, mutable=True)"
                    )
                return _kept(self)
            if symlink and not mutable:
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).symlink_to(_kept(self))
            else:
                filecache.place(
                    store, self.ref, Path(name), executable=self.executable, mutable=mutable, modified=self.modified
                )
        return Path(name)

    @overload
    def open(self, mode: Literal["rb"] = "rb") -> IO[bytes]: ...
    @overload
    def open(self, mode: Literal["r"], encoding: str | None = None, errors: str = "strict") -> IO[str]: ...
    def open(self, mode: str = "rb", encoding: str | None = None, errors: str = "strict") -> IO[Any]:
        """Open the content as a stream, without a local copy.

        Parameters
        ----------
        mode : str
            ``"rb"`` for bytes or ``"r"`` for text.
        encoding : str, optional
            Of text; UTF-8 by default.
        errors : str
            How to handle bytes that are not valid in the encoding, as for `open`.

        Returns
        -------
        file object
            A program that reads it from the first byte to the last gets `CorruptObjectError` at the end
            if the content is not what was written.
        """
        if mode not in ("rb", "r"):
            raise InputError(
                f"File.open(mode={mode!r}): files are read-only",
                hint="use mode 'rb' or 'r'; toilfn.open_write writes a new file",
            )
        with _naming(self):
            stream = store_of(self).open_blob(self.ref)
        if mode == "rb":
            return stream
        return io.TextIOWrapper(cast("Any", stream), encoding=encoding or "utf-8", errors=errors)

    def read_bytes(self) -> bytes:
        """Read the whole content."""
        with _naming(self), store_of(self).open_blob(self.ref) as stream:
            return stream.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read the whole content as text."""
        return io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding).read()

    def delete(self) -> None:
        """Delete the file from the store, as soon as the running task is committed.

        Raises
        ------
        InputError
            If no task is running.
        """
        needed_task_files("File.delete").delete(self)


def write_file(path: str | os.PathLike[str], name: str | None = None, *, cleanup: bool = False) -> File:
    """Copy a local file into the job store, inside a task.

    Parameters
    ----------
    path : path
        The file.
    name : str, optional
        The name of the `File`; by default its present one.
    cleanup : bool
        Delete the `File` when the task, and all that it led to, is done.

    Returns
    -------
    File

    Raises
    ------
    InputError
        If no task is running, or the file does not exist.
    """
    return needed_task_files("write_file").put(Path(path), name, cleanup=cleanup)


@overload
def open_write(
    name: str, mode: Literal["wb"] = "wb", *, cleanup: bool = False, seekable: bool = False
) -> AbstractContextManager[BinaryWriter]: ...
@overload
def open_write(
    name: str,
    mode: Literal["w"],
    *,
    encoding: str = "utf-8",
    errors: str = "strict",
    cleanup: bool = False,
    seekable: bool = False,
) -> AbstractContextManager[TextWriter]: ...
def open_write(
    name: str,
    mode: str = "wb",
    *,
    encoding: str = "utf-8",
    errors: str = "strict",
    cleanup: bool = False,
    seekable: bool = False,
) -> Any:
    """Write a new file of the job store, inside a task.

    In a bucket it goes up in parts while it is written, without a local file and in constant memory.

    Parameters
    ----------
    name : str
        The name of the `File`.
    mode : str
        ``"wb"`` for bytes or ``"w"`` for text.
    encoding : str
        Of text.
    errors : str
        How to handle characters that the encoding lacks, as for `open`.
    cleanup : bool
        Delete the `File` when the task, and all that it led to, is done.
    seekable : bool
        Whether the open file must be able to jump back, as some formats need; it then is a local one until it is whole.

    Returns
    -------
    context manager
        Returns an open file. When the block has ended without an error, the open file's attribute ``file``
        is the `File`; otherwise nothing is kept.

    Raises
    ------
    InputError
        If no task is running.
    """
    return needed_task_files("open_write").writer(name, mode, encoding, errors, cleanup=cleanup, seekable=seekable)


def files_in(value: Any) -> list[File]:
    """Return the files in a value, at any depth, each once."""
    if type(value) in ATOMS:
        return []
    finder = _Finder()
    finder.dump(value)
    return list(finder.found)


def holds_files(value: Any) -> bool:
    """Return whether a value contains a file, at any depth."""
    return bool(files_in(value))


class _Finder(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is not typed
    """Collects the files in a value by pickling it, and discards the bytes."""

    def __init__(self) -> None:
        super().__init__(_Nowhere(), 5, buffer_callback=lambda buffer: None)
        self.found: dict[File, None] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, File):
            self.found[obj] = None
        return super().reducer_override(obj)


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


def needed_task_files(what: str) -> TaskFiles:
    """Return the files of the task that runs in this context.

    Raises
    ------
    InputError
        If no task is running; names the function that was called.
    """
    session = current_task_files()
    if session is None:
        raise InputError(
            f"{what} works only inside a task that toilfn.compute runs: dask's own schedulers have no store for files",
            hint="in a script, use toilfn.import_file, a task that imports a file",
        )
    return session


def new_place(own_name: str, name: str | os.PathLike[str] | None) -> Path:
    """Return the path for a local copy: the user's, or a new one that is removed with the task or script."""
    session = current_task_files()
    if session is not None:
        return session.new_place(own_name, name)
    own_name = confined.single(own_name)
    return filecache.process_dir() / own_name if name is None else Path(name)


@contextlib.contextmanager
def local_content(file: File) -> Iterator[Path]:
    """Return a local file with the content, for as long as the block runs; it must not be changed."""
    with _naming(file), filecache.borrowed(store_of(file), file.ref, modified=file.modified) as content:
        yield content


@functools.cache
def _kept(file: File) -> Path:
    """Return a local copy that stays until this process ends."""
    target = filecache.process_dir() / confined.single(file.name)
    filecache.place(store_of(file), file.ref, target, executable=file.executable, modified=file.modified)
    return target


@contextlib.contextmanager
def _naming(file: File) -> Iterator[None]:
    try:
        yield
    except CorruptObjectError as error:
        name = f"{file.name!r}, linked from {file.source}" if file.source else repr(file.name)
        raise CorruptObjectError(f"file {name}: {error}") from error


def store_of(file: File) -> stores.Store:
    """Return the store of a file: the running task's, or that of the workflow that created the file."""
    session = current_task_files()
    if session is not None and file.store in ("", session.store.url):
        return session.store
    try:
        return _open_store(file.store)
    except StoreNotFoundError:
        if session is None:
            raise
        return session.store  # which was moved to another place


@functools.lru_cache(maxsize=16)
def _open_store(url: str) -> stores.Store:
    return stores.open_store(url, create=False)


_CHUNK = 2**20


class Pipe:
    """A named pipe that a thread fills when a program opens it.

    Parameters
    ----------
    file : File
        The content.
    path : Path
        The place of the pipe, whose directory exists.
    """

    def __init__(self, file: File, path: Path) -> None:
        self._file = file
        self._path = path
        self._opened = threading.Event()
        self._ended = False
        self._error: BaseException | None = None
        os.mkfifo(path, 0o600)
        self._thread = threading.Thread(target=copy_context().run, args=(self._fill,), daemon=True, name="pipe")
        self._thread.start()

    def finish(self) -> None:
        """End the thread after the program has ended, which need not have read everything.

        Raises
        ------
        Exception
            If the program got too little, or wrong content, because the file could not be read.
        """
        self._ended = True
        with suppress(FileNotFoundError):  # if the program has removed the pipe
            reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)  # lets the thread go that waits for a reader
            try:
                self._opened.wait()
            finally:
                os.close(reader)
        if self._opened.is_set():
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _fill(self) -> None:
        try:
            with self._path.open("wb", buffering=0) as pipe:
                self._opened.set()
                if not self._ended:
                    with self._file.open() as content:
                        shutil.copyfileobj(content, pipe, _CHUNK)
        except BrokenPipeError:
            pass  # the program has read enough
        except BaseException as error:
            self._error = error
        finally:
            self._opened.set()
