"""``toilfn files STORE [ls [FILE] | cat FILE | get FILE TARGET | url FILE]``."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from toilfn import confined
from toilfn.cli.common import add_json, add_store, add_store_options, open_named, print_json, print_table
from toilfn.cli.handles import Handle, find_handles
from toilfn.errors import InputError
from toilfn.files.cache import set_modified
from toilfn.ids import TaskId
from toilfn.inspect.view import View
from toilfn.model.records import BlobRef, Outcome, decode
from toilfn.stores import Store
from toilfn.units import format_size, parse_duration

__all__ = ["command", "configure"]

_SHORT = 12
_SHOWN = 10


@dataclass(slots=True)
class _File:
    """A file, and the task that made it."""

    handle: Handle
    task: TaskId

    @property
    def id(self) -> str:
        """The digest of its content."""
        return self.handle.id.rpartition("/")[2]

    @property
    def name(self) -> str:
        return self.handle.name

    @property
    def ref(self) -> BlobRef:
        return BlobRef(self.handle.id, self.handle.size, bytes.fromhex(self.handle.checksum))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = """\
FILE is the name of a file, if it is unique, or the start of its id; ls lists both.
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
        "--expires", metavar="TIME", type=parse_duration, default=3600.0,
        help="for url: how long the URL of a file in a bucket stays valid (default: 1h)",
    )  # fmt: skip
    add_json(parser)


def command(options: argparse.Namespace) -> int:
    """List the files that tasks made, print some, or fetch some.

    Raises
    ------
    InputError
        If there is no such file; if more than one has the name; if several are to become one.
    """
    store = open_named(options)
    files = _files(store)
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
            print(store.objects.presigned_url(file.ref.name, round(options.expires)))
        return 0
    if options.action == "cat":
        for file in files:
            with store.open_blob(file.ref) as stream:
                shutil.copyfileobj(stream, sys.stdout.buffer)
        return 0
    for file, path in zip(files, _targets(files, options.target or Path()), strict=True):
        store.fetch_blob(file.ref, path)
        set_modified(path, file.handle.modified)
    return 0


def _targets(files: list[_File], target: Path) -> list[Path]:
    """Return where each file goes: of several that share a name, all get the start of their id in front."""
    if not target.is_dir():
        if len(files) > 1:
            raise InputError(f"{len(files)} files match, but {target} is not an existing directory")
        if not target.parent.is_dir():
            raise InputError(f"{target}: directory not found: {target.parent}")
        return [target]
    shared = Counter(file.name for file in files)
    names = [file.name if shared[file.name] == 1 else f"{file.id[:_SHORT]}-{file.name}" for file in files]
    return [confined.inside(target, confined.single(name), replaced=True) for name in names]


def _files(store: Store) -> list[_File]:
    """List the files in the values of tasks, those that were deleted later left out."""
    found: dict[Handle, _File] = {}
    deleted: set[str] = set()
    for position, data in store.log.read():
        record = decode(data, position)
        if not isinstance(record, Outcome):
            continue
        deleted.update(record.deleted)
        value = store.get_blob(record.value) if isinstance(record.value, BlobRef) else record.value
        for handle in find_handles(value):
            found.setdefault(handle, _File(handle, record.id))
    return [file for file in found.values() if file.handle.id not in deleted]


def _find(files: list[_File], text: str) -> list[_File]:
    if (matching := [file for file in files if fnmatchcase(file.name, text)]) and set(text) & set("*?["):
        return matching
    found = [file for file in files if file.name == text] or [file for file in files if file.id.startswith(text)]
    if len(found) == 1:
        return found
    if not found:
        raise InputError(f"no file has the name or id {text!r}", hint="toilfn files STORE lists the files")
    lines = [f"  {file.id[:_SHORT]}  {file.name}" for file in found[:_SHOWN]] + ["  ..."] * (len(found) > _SHOWN)
    raise InputError("\n".join([f"{len(found)} files are named {text!r}; give the start of an id:", *lines]))


def _list(files: list[_File], view: View, *, as_json: bool) -> None:
    makers = {file.task: view.tasks[file.task] for file in files}
    if as_json:
        print_json([
            {"id": file.id, "name": file.name, "size": file.ref.size, "task": file.task.hex(), "object": file.ref.name}
            for file in files
        ])  # fmt: skip
        return
    rows = [[file.id[:_SHORT], format_size(file.handle.size), file.name, makers[file.task].label] for file in files]
    print_table(["id", "size", "name", "made by"], rows, right={1})
