"""Imports and exports: files and directories from the outside world into a job store, and back."""

from __future__ import annotations

import contextvars
import itertools
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, overload

from toilfn import confined
from toilfn.errors import InputError
from toilfn.files import transfer, trees
from toilfn.files.digests import check_once
from toilfn.files.directory import Directory, arranged
from toilfn.files.file import File, current_task_files, local_content, needed_task_files, store_of
from toilfn.files.links import leave_link
from toilfn.graph.task import task

__all__ = [
    "Exports",
    "export",
    "import_directory",
    "import_file",
    "import_files",
    "input",
    "leave_behind",
    "left",
    "put_out",
]

T = TypeVar("T")

_Copy = tuple[File, str]
"""A file, and the path or URL to which it goes."""

_GROUP = 500
"""The most files that one task imports or exports."""

_GROUP_SIZE = 2**28
"""The most bytes that one task imports or exports, unless one file has more."""

_SMALL = 2**18
"""The largest file, in bytes, that is uploaded in one call of the driver with others, so that it needs no thread."""

_THREADS = 16
"""How many files a task exports at the same time."""

_LISTED = 100
"""The number of files from which their target directory is listed, instead of a request for each file."""

Link = Literal["copy", "reflink", "hard", "symlink", "reference"]


def import_file(
    url: str | os.PathLike[str],
    name: str | None = None,
    *,
    link: Link | None = None,
    local: bool = True,
    checksum: bool = False,
) -> File:
    """Import a file into the job store.

    In a script this creates a task and returns its promise; the file is imported again when
    the source has changed since. Inside a task it is done at once.

    Parameters
    ----------
    url : str or path
        A path, or any URL that fsspec opens.
    name : str, optional
        The name of the `File`; by default the last part of the URL.
    link : str
        For a local file: "copy"; or "reflink", "hard" or "symlink" for a link in a store on the same machine,
        which saves time and room. The file must not be changed or, with "symlink", removed
        afterwards: a task that reads it then gets `CorruptObjectError`. Where no link can be made it is a copy.
        "reference" is "symlink", and also takes objects of ``s3:`` and ``gs:`` in by their addresses: tasks read them
        where they are, with the credentials of their machines. A changed or removed object is noticed, too.
        By default the setting `link_imports` decides.
    local : bool
        Whether the task runs beside the leader; False for a worker, which must reach the URL, too.
    checksum : bool
        Whether to read a file that is linked, and compare its content where it is used. Otherwise its size, its time
        and its inode are compared, and the import takes the same time for a file of any size.

    Returns
    -------
    File
        Or its promise.

    Raises
    ------
    InputError
        If there is nothing at the URL, or a directory.
    """
    _check_link(link)
    session = current_task_files()
    if _is_promise(url):
        return _import.options(local=local)(url, name, link, None, checksum)
    if session is not None:
        return session.import_url(url, name, link, checksum=checksum)
    source = transfer.absolute(url)
    state = transfer.fingerprint(source, inode=link in ("symlink", "reference"))  # as the readers of such a link do
    if state is None:
        raise InputError(f"cannot import {transfer.shown(source)}: file not found")
    return _import.options(local=local)(source, name, link, state, checksum)


def input(path: str | os.PathLike[str]) -> Path:
    """Check that a file or folder exists, and pass it to tasks by its path and content: an edit runs them again.

    It stays where it is, so each machine that runs tasks must reach it; `import_file` and `import_directory` copy into
    the store.

    Parameters
    ----------
    path : str or path
        A file or folder on this machine.

    Returns
    -------
    Path
        The absolute path.

    Raises
    ------
    InputError
        If there is neither.
    """
    found = Path(path).expanduser().absolute()
    if not found.is_file() and not found.is_dir():
        raise InputError(f"{path} cannot be an input: {'not a file or folder' if found.exists() else 'file not found'}")
    return found


def import_files(
    pattern: str | os.PathLike[str], *, link: Link | None = None, local: bool = True, checksum: bool = False
) -> list[File]:
    """Import all files that match a pattern into the job store, several at a time.

    In a script this creates a task for each file and returns the promise of the list; inside a
    task it is done at once.

    Parameters
    ----------
    pattern : str or path
        A path or URL with ``*``, ``?``, ``[...]`` or ``**`` in it.
    link, local, checksum
        As for `import_file`.

    Returns
    -------
    list of File
        Sorted by URL; or its promise.

    Raises
    ------
    InputError
        If no file matches.
    """
    _check_link(link)
    urls = transfer.matching(transfer.absolute(pattern))
    if not urls:
        raise InputError(f"no file matches {transfer.shown(pattern)}")
    session = current_task_files()
    if session is not None:
        return [session.import_url(url, link=link, checksum=checksum) for url in urls]
    return _together([import_file(url, link=link, local=local, checksum=checksum) for url in urls])


def import_directory(
    url: str | os.PathLike[str],
    name: str | None = None,
    *,
    link: Link | None = None,
    local: bool = True,
    checksum: bool = False,
) -> Directory:
    """Import a directory into the job store, with all its content.

    In a script this creates a task and returns its promise; the directory is imported again when
    a file in it has changed since. Inside a task it is done at once. Links in it are followed.
    A large directory that is not on this machine is downloaded by several tasks, each for at most 500 files or 256 MiB,
    at the same time; a resume does not repeat those that are done.

    Parameters
    ----------
    url : str or path
        A path, or any URL of a directory that fsspec can list.
    name, link, local, checksum
        As for `import_file`.

    Returns
    -------
    Directory
        Or its promise.

    Raises
    ------
    InputError
        If there is no directory at the URL.
    """
    _check_link(link)
    session = current_task_files()
    elsewhere = {} if local else {"local": False}
    if _is_promise(url):
        return cast("Directory", _import_directory.options(local=local)(url, name, link, None, checksum, **elsewhere))
    if session is not None:
        return session.import_tree(url, name, link, checksum=checksum)
    source = transfer.absolute(url)
    state = trees.fingerprint_tree(source)
    return cast("Directory", _import_directory.options(local=local)(source, name, link, state, checksum, **elsewhere))


@overload
def export(file: File | Directory, url: str | os.PathLike[str], *, move: bool = False, local: bool = True) -> str: ...
@overload
def export(
    file: Sequence[File | Directory], url: str | os.PathLike[str], *, move: bool = False, local: bool = True
) -> list[str]: ...
def export(file: Any, url: str | os.PathLike[str], *, move: bool = False, local: bool = True) -> Any:
    """Copy files or directories of the job store to a path or URL, each file whole or not at all.

    With a promise this makes a task and returns its promise; a file is exported
    again when what is at the URL has changed since. With a `File` or `Directory` it is done at once.
    Many files are exported by several tasks, each for at most 500 files, at the same time. A resume does not repeat
    those that are done, nor copy a file that is at its target already.

    Parameters
    ----------
    file : File or Directory, or a list of them
        Or its promise, or a list of promises.
    url : str or path
        A path, or any URL that fsspec can write to. If it ends with a slash, the file or directory
        keeps its name in there; a file does so, too, in a directory that exists. Of a list, the files and directories
        keep their names in the directory at the URL.
    move : bool
        Leave only a symbolic link in the store, if both are on this machine: on one file system no byte is copied.
        A file that was exported must then stay as it is for as long as the store is used: later tasks read it there.
    local : bool
        Whether the task runs beside the leader; False for a worker, which must reach the URL, too.

    Returns
    -------
    str or list of str
        The absolute path or the URL of each copy; or its promise.

    Raises
    ------
    InputError
        If it is neither a file nor a directory, or two entries of a list have the same name.
    """
    target = transfer.absolute(url)
    is_list = isinstance(file, (list, tuple))
    if _is_promise(file) or (is_list and any(map(_is_promise, file))):
        state = trees.state_of_target(target) or secrets.token_hex(8)
        elsewhere = {} if local else {"local": False}
        return _export.options(local=local)(file, target, move, state, **elsewhere)
    if is_list:
        places, copies = _planned(file, target)
        _export_files(copies, move, _present(copies, target))
        return places
    if isinstance(file, Directory):
        return _export_directory(file, target, move)
    if type(file) is not File:
        raise InputError(
            f"cannot export a {type(file).__name__} to {transfer.shown(url)}: it is not a File or a Directory"
        )
    return _export_file(file, transfer.within(target, file.name), move)


def _export_file(file: File, target: str, move: bool) -> str:
    put_out(file, target, link=move)
    if move:
        leave_behind(file, target)
    return target


def _planned(files: Sequence[Any], target: str) -> tuple[list[str], list[_Copy]]:
    """Return the targets of the files and directories of a list, and of all files; create the directories."""
    names: set[str] = set()
    places: list[str] = []
    copies: list[_Copy] = []
    transfer.make_directory(target)
    for number, entry in enumerate(files):
        if not isinstance(entry, (File, Directory)):
            raise InputError(
                f"cannot export item {number} of a list to {transfer.shown(target)}: a {type(entry).__name__} is not a"
                " File or a Directory"
            )
        if entry.name in names:
            raise InputError(
                f"cannot export a list to {transfer.shown(target)}: two of its files are called {entry.name!r}",
                hint="export them to different directories",
            )
        names.add(entry.name)
        places.append(transfer.below(target, confined.single(entry.name), replaced=True))
        if isinstance(entry, Directory):
            copies += _planned_below(entry, places[-1])
        else:
            copies.append((entry, places[-1]))
    return places, copies


def _planned_below(directory: Directory, target: str) -> Iterator[_Copy]:
    """Iterate over the files of a directory with their targets; create the directories."""
    transfer.make_directory(target)
    for path, entry in directory.walk():
        if isinstance(entry, Directory):
            transfer.make_directory(transfer.below(target, path))
        else:
            yield entry, transfer.below(target, path, replaced=True)


def _grouped(entries: Sequence[T], size_of: Callable[[T], int]) -> list[list[T]]:
    """Divide imports or exports among tasks."""
    groups: list[list[T]] = []
    size = 0
    for entry in entries:
        size += size_of(entry)
        if not groups or len(groups[-1]) == _GROUP or size > _GROUP_SIZE:
            groups.append([])
            size = size_of(entry)
        groups[-1].append(entry)
    return groups


def _present(copies: Sequence[_Copy], url: str) -> set[str] | None:
    """Return the targets that exist, if a listing is cheaper than a request for each; otherwise None."""
    names = trees.names_below(url) if len(copies) >= _LISTED else None
    return None if names is None else {target for _, target in copies if _name_below(target, url) in names}


def _has_begun(copies: Sequence[_Copy]) -> bool:
    """Return whether another attempt may have exported some of these files: it began with the first one."""
    return trees.state_of_target(copies[0][1]) is not None


def _name_below(target: str, url: str) -> str:
    return target.removeprefix(url.rstrip("/")).strip("/")


class Exports:
    """Exports files several at a time, since most of the time of a small one is spent waiting.

    All are done when the block ends; then, or at the end of the block, the first error is raised.

    Parameters
    ----------
    move : bool
        Leave links in the store, as `export` does.
    present : set of str, optional
        The targets that exist: their content is checked. By default, all are checked.
    """

    def __init__(self, *, move: bool = False, present: set[str] | None = None) -> None:
        self._move = move
        self._present = present
        self._exports: dict[_Copy, Future[None]] = {}

    def __enter__(self) -> Exports:
        self._pool = ThreadPoolExecutor(_THREADS)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                for each in self._exports.values():
                    each.result()
        finally:
            self._pool.shutdown(cancel_futures=True)
        if kind is None and self._move:
            for file, target in self._exports:
                leave_behind(file, target)

    def add(self, content: File | Directory, url: str) -> str:
        """Export a file or directory to a URL, or into it if it ends with a slash; return where it goes."""
        if isinstance(content, File):
            target = transfer.within(url, content.name)
            self.put(content, target)
            return target
        target = transfer.below(url, content.name) if url.endswith("/") else url
        for file, place in _planned_below(content, target):
            self.put(file, place)
        return target

    def put(self, file: File, target: str) -> None:
        """Export a file to a URL."""
        if (file, target) not in self._exports:
            is_new = self._present is not None and target not in self._present
            run = contextvars.copy_context().run
            self._exports[file, target] = self._pool.submit(run, put_out, file, target, link=self._move, is_new=is_new)

    def put_together(self, copies: Sequence[_Copy]) -> None:
        """Export new small files of a store on this machine by one call of a driver."""
        upload = self._pool.submit(contextvars.copy_context().run, _put_together, copies)
        self._exports.update(dict.fromkeys(copies, upload))


def _export_files(copies: Sequence[_Copy], move: bool, present: set[str] | None) -> None:
    """Export files; targets in `present` are checked for their content, and all of them if it is None."""
    takes_many = present is not None and len(copies) > 1 and transfer.takes_many(copies[0][1])
    small = {copy: None for copy in copies if takes_many and copy[1] not in (present or ()) and _is_small(copy[0])}
    with Exports(move=move, present=present) as exports:
        if small:
            exports.put_together(list(small))
        for copy in copies:
            if copy not in small:
                exports.put(*copy)


def _is_small(file: File) -> bool:
    return file.size <= _SMALL and not file.ref.is_reference and store_of(file).local_file(file.ref) is not None


def _put_together(copies: Sequence[_Copy]) -> None:
    sources: list[tuple[Path, str]] = []
    for file, target in copies:
        store = store_of(file)
        origin = store.local_file(file.ref)
        if origin is None:
            raise InputError(f"cannot export {file.name!r}: it is no longer in the store {store.url}")
        check_once(file.ref, origin, store.url)
        sources.append((origin, target))
    transfer.send_together(sources)


def put_out(file: File, target: str, *, link: bool, is_new: bool = False) -> None:
    """Copy a file of a store to a path or URL unless it is there; with `link`, it may be the store's own file.

    With `is_new` there was nothing at the target, which saves the requests that ask for it.
    """
    if (
        not is_new
        and not (file.ref.is_reference or file.ref.is_marked)
        and transfer.holds(target, file.size, file.ref.digest)
    ):
        return
    store = store_of(file)
    origin = store.local_file(file.ref)
    if (
        origin is None
        and not file.ref.is_reference
        and transfer.copied_by_server(store.objects, file.id, target, file.size)
    ):
        return
    if file.ref.is_reference and transfer.copied_at_source(store.source_of(file.ref), target):
        return
    if origin is None:
        with local_content(file) as content:
            transfer.send(content, target, executable=file.executable, modified=file.modified)
    else:  # without a copy in the node's cache
        check_once(file.ref, origin, store.url)
        link = link and not file.source and not origin.is_symlink()  # else it is not the store's
        transfer.send(origin, target, executable=file.executable, link=link, modified=file.modified)


def leave_behind(file: File, target: str) -> None:
    """Replace a file in the store by a link to its copy, if both are on this machine."""
    origin = store_of(file).local_file(file.ref)
    if origin is not None and not file.source:  # else the store has a link already
        leave_link(origin, target)


def left(file: File) -> str:
    """Return the place of a file in its store: a path, or a URL."""
    store = store_of(file)
    return str(store.local_file(file.ref) or store.blob_url(file.ref))


def _export_directory(directory: Directory, target: str, move: bool) -> str:
    target = transfer.below(target, directory.name) if target.endswith("/") else target
    copies = list(_planned_below(directory, target))
    _export_files(copies, move, _present(copies, target))
    return target


def _is_promise(value: object) -> bool:
    """Return whether an argument is a promise of what its type says."""
    return hasattr(type(value), "__dask_graph__")


def _check_link(link: str | None) -> None:
    if link is not None and link not in get_args(Link):
        raise InputError(f"link={link!r} is unknown", hint="choose from copy, reflink, hard, symlink and reference")


# The parameter `state` is not used: it gives the task another identity when the source or target has changed.
@task(local=True, name="import_file", version="2")
def _import(url: str | os.PathLike[str], name: str | None, link: str | None, state: str | None, checksum: bool) -> File:
    return needed_task_files("import_file").import_url(url, name, link, checksum=checksum)


@task(local=True, name="import_directory", version="2")
def _import_directory(
    url: str | os.PathLike[str],
    name: str | None,
    link: str | None,
    state: str | None,
    checksum: bool,
    local: bool = True,
) -> Any:
    session = needed_task_files("import_directory")
    if session.copies_remote(url, link):
        name = confined.single(transfer.name_of(url) if name is None else name)
        entries = trees.entries_below(transfer.absolute(url))
        groups = _grouped(entries, lambda entry: entry.size)
        if len(groups) > 1:
            parts = [_import_group.options(local=local)(url, group) for group in groups]
            return _arranged(name, [entry.path for entry in entries], parts)
    return session.import_tree(url, name, link, checksum=checksum)


@task(local=True, name="import files of a directory", version="1")
def _import_group(url: str | os.PathLike[str], entries: list[trees.Listed]) -> list[File | None]:
    return needed_task_files("import_directory").import_entries(url, entries)


@task(local=True, name="imported", version="1")
def _arranged(name: str, paths: list[str], groups: list[list[File | None]]) -> Directory:
    return arranged(name, dict(zip(paths, itertools.chain.from_iterable(groups), strict=True)))


@task(local=True, name="import_files", version="1")
def _together(files: list[File]) -> list[File]:
    return files


@task(local=True, name="export", version="2", delivers=True)
def _export(file: Any, url: str, move: bool, state: str, local: bool = True) -> Any:
    places: Any
    copies: list[_Copy] = []
    if isinstance(file, (list, tuple)):
        places, copies = _planned(file, url)
    elif isinstance(file, Directory):
        places = transfer.below(url, file.name) if url.endswith("/") else url
        copies = list(_planned_below(file, places))
    groups = _grouped(copies, lambda copy: copy[0].size)
    if len(groups) < 2:
        return export(file, url, move=move)
    present = _present(copies, places if isinstance(file, Directory) else url)
    exports = [
        _export_group.options(local=local)(
            group, move, present is not None and present.isdisjoint(target for _, target in group)
        )
        for group in groups
    ]
    return _all_exported(places, exports)


@task(local=True, name="export files", version="1", delivers=True)
def _export_group(copies: list[_Copy], move: bool, is_new: bool = False) -> list[str]:
    _export_files(copies, move, set() if is_new and not _has_begun(copies) else None)
    return [target for _, target in copies]


@task(local=True, name="exported", version="1")
def _all_exported(places: Any, groups: list[list[str]]) -> Any:
    return places
