"""``toilfn files STORE [ls [FILE] | cat FILE | get FILE TARGET | url FILE]``."""

from __future__ import annotations

import argparse
import io
import pickle
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from toilfn import confined
from toilfn.cli.common import add_json, add_store, add_store_options, open_named, print_json, print_table
from toilfn.errors import InputError
from toilfn.files.cache import set_modified
from toilfn.ids import TaskId
from toilfn.inspect.view import View
from toilfn.model.records import BlobRef, Deleted, Outcome, TaskRecord
from toilfn.model.replay import AttemptEnded, TaskAdded, read, replay
from toilfn.stores import Store
from toilfn.stores.digests import digest_of_checksum
from toilfn.units import format_size, parse_duration

__all__ = ["Handle", "command", "configure", "find_handles", "plain"]


class Handle(NamedTuple):
    """The identity, name and size of a `toilfn.File`."""

    id: str
    """The name of its content in the store."""
    name: str
    size: int
    checksum: str
    executable: bool
    modified: int | None = None


def find_handles(payload: bytes, *, only_own: bool = False) -> list[Handle]:
    """List the files that a pickled value refers to, without duplicates and without importing the user's modules.

    With `only_own`, files in the stores of other workflows are left out; the value must then come from a store.
    """
    if b"toilfn.files.file" not in payload:
        return []
    reader = _Reader(io.BytesIO(payload), only_own)
    reader.load()
    return list(dict.fromkeys(reader.found))


def plain(payload: bytes) -> Any:
    """Load a pickled value of built-in types without importing modules; placeholders replace all other objects."""
    return _Reader(io.BytesIO(payload), only_own=True).load()


class _PlaceholderType(type):
    """The type of `_Placeholder`: calling the class, or setting an item of it, has no effect."""

    def __call__(cls, *_: object, **__: object) -> Any:
        return cls

    def __setitem__(cls, *_: object) -> None: ...


class _Placeholder(metaclass=_PlaceholderType):
    """The class, function and object that stands for each one that is not of a built-in type; pickle may change it."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return cls

    @classmethod
    def _ignore(cls, *_: object) -> None: ...

    __setstate__ = append = extend = add = update = _ignore


class _Reader(pickle.Unpickler):
    """Loads a pickled value without importing modules, and collects the files in it."""

    def __init__(self, stream: io.BytesIO, only_own: bool) -> None:
        super().__init__(stream)
        self._only_own = only_own
        self.found: list[Handle] = []

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != ("toilfn.files.file", "File"):
            return _Placeholder
        found, only_own = self.found, self._only_own

        class FileState:
            def __setstate__(self, state: list[Any]) -> None:
                store = state[5] if len(state) > 5 else ""
                if not only_own or not store or store.startswith("="):
                    found.append(Handle(*state[:5], *state[6:7]))

        return FileState

    def persistent_load(self, pid: Any) -> Any:
        return _Placeholder


_SHORT = 12
_SHOWN = 10
_READERS = 3


@dataclass(slots=True)
class _File:
    """A file, and the tasks that created it and read it.

    Attributes
    ----------
    handle : Handle
    task : TaskId or None
        The task that created the file, or that was created with it; None if only a failed attempt has written it.
    readers : list of TaskId
    """

    handle: Handle
    task: TaskId | None
    readers: list[TaskId] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The last part of the name of the file's content in the store; for most files, a digest."""
        return self.handle.id.rpartition("/")[2]

    @property
    def name(self) -> str:
        return self.handle.name

    @property
    def ref(self) -> BlobRef:
        return BlobRef(self.handle.id, self.handle.size, digest_of_checksum(self.handle.checksum))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = """\
FILE is the name of a file, if it is unique, the start of its id (ls lists both), or its URL in the store: str(file).
It can also be a pattern such as '*.bam', for all files with matching names."""
    add_store(parser)
    add_store_options(parser)
    parser.add_argument(
        "action", nargs="?", choices=("ls", "cat", "get", "url"), default="ls", help="ls (default), cat, get or url"
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="name, id or pattern; required by cat, get and url")
    parser.add_argument(
        "target", metavar="TARGET", nargs="?", type=Path, help="for get: a file or a directory (default: .)"
    )
    parser.add_argument(
        "--expires", metavar="TIME", type=parse_duration,
        help="for url: how long the signed URL of a file in a bucket stays valid (default: 1h)",
    )  # fmt: skip
    parser.add_argument(
        "--all", action="store_true", help="include files of attempts that failed, were killed or are running"
    )
    add_json(parser)


def command(options: argparse.Namespace) -> int:
    """List the files that tasks created, or print or fetch some of them.

    Raises
    ------
    InputError
        If the file does not exist, if several files have the name, or if several files would get the same name.
    """
    store = open_named(options)
    files = _files(store, with_unreferenced=options.all)
    if options.target is not None and options.action != "get":
        raise InputError(f"{options.action} takes one FILE or pattern; unexpected argument {options.target}")
    if options.file is not None:
        files = _find(files, options.file)
    if options.action == "ls":
        _list(files, View(store), as_json=options.json)
        return 0
    if options.file is None:
        raise InputError(
            f"toilfn files STORE {options.action} needs the name or id of a file",
            hint="toilfn files STORE lists the files",
        )
    if options.action == "url":
        for file in files:
            print(_url(store, file.ref, options.expires))
        return 0
    if options.action == "cat":
        for file in files:
            with _opened(store, file) as stream:
                shutil.copyfileobj(stream, sys.stdout.buffer)
        return 0
    for file, path in zip(files, _targets(files, options.target or Path()), strict=True):
        _fetch(store, file, path)
    return 0


def _url(store: Store, ref: BlobRef, expires: float | None) -> str:
    """Return a URL that others can read: a signed one, unless the file is on this machine."""
    seconds = round(3600 if expires is None else expires)
    if ref.is_reference:
        return store.source_of(ref).signed_url(seconds)
    if expires is None and store.local_file(ref) is not None:
        return store.blob_url(ref)
    return store.objects.presigned_url(ref.name, seconds)


def _opened(store: Store, file: _File) -> BinaryIO:
    """Open a file. The content of a file without a task is not verified, since no outcome has its digest."""
    return store.objects.open(file.ref.name) if file.task is None else store.open_blob(file.ref)


def _fetch(store: Store, file: _File, path: Path) -> None:
    if file.task is None:
        store.objects.download(file.ref.name, path)
    else:
        store.fetch_blob(file.ref, path)
        set_modified(path, file.handle.modified)


def _targets(files: list[_File], target: Path) -> list[Path]:
    """Return the path for each file. If several files have the same name, their names get the start of their ids."""
    if not target.is_dir():
        if len(files) > 1:
            raise InputError(f"{len(files)} files match, but {target} is not an existing directory")
        if not target.parent.is_dir():
            raise InputError(f"{target}: directory not found: {target.parent}")
        return [target]
    shared = Counter(file.name for file in files)
    names = [file.name if shared[file.name] == 1 else f"{file.id[:_SHORT]}-{file.name}" for file in files]
    return [confined.inside(target, confined.single(name), replaced=True) for name in names]


def _files(store: Store, *, with_unreferenced: bool = False) -> list[_File]:
    """List the files in values and arguments of tasks, except deleted ones.

    With `with_unreferenced`, also list files of attempts that failed, were killed, or are running.
    """
    found: dict[Handle, _File] = {}
    deleted: set[str] = set()
    in_values: dict[TaskId, list[Handle]] = {}
    tasks: list[TaskRecord] = []
    referred: set[str] = set()
    for fact in replay(read(store.log)):
        match fact:
            case TaskAdded(task):
                tasks.append(task)
            case Deleted():
                deleted.update(fact.names)
            case AttemptEnded(Outcome() as outcome):
                deleted.update(outcome.deleted)
                referred.update(blob.name for blob in outcome.blobs)
                if fact.counts:
                    in_values[outcome.id] = find_handles(store.payload(outcome.value), only_own=True)
                    for handle in in_values[outcome.id]:
                        found.setdefault(handle, _File(handle, outcome.id))
    for task in tasks:
        own = find_handles(store.payload(task.args), only_own=True)
        for handle in dict.fromkeys([*own, *(handle for id in task.needs for handle in in_values.get(id, ()))]):
            found.setdefault(handle, _File(handle, task.parent)).readers.append(task.id)
    if with_unreferenced:
        found.update((file.handle, file) for file in _unreferenced(store, referred))
    return [file for file in found.values() if file.handle.id not in deleted]


def _unreferenced(store: Store, referred: set[str]) -> Iterator[_File]:
    """Yield the files to which no outcome refers: their attempts failed, were killed, or are running."""
    for name in store.objects.list("blobs/"):
        _, dash, own = name.rpartition("/")[2].partition("-")
        if dash and name not in referred:
            yield _File(Handle(name, own, store.objects.size(name), "", False), None)


def _find(files: list[_File], text: str) -> list[_File]:
    if (matching := [file for file in files if fnmatchcase(file.name, text)]) and set(text) & set("*?["):
        return matching
    if (named := [file for file in files if text.endswith(f"/{file.ref.name}")]) and "/" in text:
        return named
    found = [file for file in files if file.name == text] or [file for file in files if file.id.startswith(text)]
    if len(found) == 1:
        return found
    if not found:
        raise InputError(f"no file has the name or id {text!r}", hint="toilfn files STORE lists the files")
    lines = [f"  {file.id[:_SHORT]}  {file.name}" for file in found[:_SHOWN]] + ["  ..."] * (len(found) > _SHOWN)
    raise InputError("\n".join([f"{len(found)} files are named {text!r}; give the start of an id:", *lines]))


def _list(files: list[_File], view: View, *, as_json: bool) -> None:
    if as_json:
        print_json([
            {"id": file.id, "name": file.name, "size": file.ref.size, "task": file.task and file.task.hex(),
             "object": file.ref.name, "read_by": [id.hex() for id in file.readers]}
            for file in files
        ])  # fmt: skip
        return
    rows = [
        [file.id[:_SHORT], format_size(file.handle.size), file.name, _creator(file, view), _readers(file, view)]
        for file in files
    ]
    print_table(["id", "size", "name", "made by", "read by"], rows, right={1})


def _creator(file: _File, view: View) -> str:
    return "an attempt that did not succeed" if file.task is None else view.tasks[file.task].label


def _readers(file: _File, view: View) -> str:
    names = Counter(view.tasks[id].label for id in file.readers if id in view.tasks)
    shown = [name if count == 1 else f"{name} ({count})" for name, count in names.most_common(_READERS)]
    return ", ".join([*shown, *(["..."] if len(names) > _READERS else [])])
