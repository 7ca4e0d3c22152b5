"""Pack the user's own modules, which travel with the workflow.

Functions of installed modules are imported where they run, and those of the script itself are
pickled whole. The modules beside the script, and the package that the script is in, go into one archive, named by
its content, which workers unpack once and put on ``sys.path``. The setting ``deploy`` adds modules that only the
leader's environment has.
"""

from __future__ import annotations

import importlib
import io
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from importlib.machinery import PathFinder
from pathlib import Path, PurePosixPath
from typing import Any

from toilfn import confined
from toilfn.errors import InputError
from toilfn.graph.identity.functions import Reach
from toilfn.graph.identity.modules import archive_of, find_own, loaded_own, path_is_own, read_own

__all__ = ["archive", "install"]

_LARGEST_DATA = 2**20
"""Bytes: a larger file in a package is not taken for package data."""
_MOST_DATA = 16 * 2**20
"""Bytes of package data in one package; beyond that, only code is taken."""
_MOST_BESIDE = 4 * 2**20
"""Bytes of the modules beside a script that nothing imports; where they are more, none of them is taken."""
_CODE = (".py", ".so", ".pyi")
_NOT_PACKAGES = {"__pycache__", "node_modules", "build", "dist"}


def archive(functions: Iterable[Callable[..., Any]], also: Iterable[str] = ()) -> bytes | None:
    """Pack the user's own modules.

    These are the modules that are imported now, or by the functions when they run, with the whole package that they
    are in; the other modules in the script's folder; and what `also` names.

    Parameters
    ----------
    functions : iterable of callables or tasks
        Modules that they import only when they run are packed too.
    also : iterable of str
        Modules and packages by their import names, wherever they are installed, and paths of files and folders.

    Returns
    -------
    bytes or None
        A zip archive, the same for the same files; None when everything is installed or in the script itself.

    Raises
    ------
    InputError
        If there is nothing by a name of `also`.
    """
    files = dict(loaded_own())
    for name in sorted(_imported_later(functions)):
        file = find_own(name)
        if file is not None:
            files.setdefault(name, file)
    for file in _beside_the_script():
        files.setdefault(file.stem, file)
    members = dict(_members(files))
    for name in also:
        members.update(_named(name))
    return _zip(members) if members else None


def install(archive: bytes, cache_dir: str | os.PathLike[str]) -> Path:
    """Unpack an archive and put it first on ``sys.path``.

    Parameters
    ----------
    archive : bytes
        What `archive` made.
    cache_dir : path
        Each archive is unpacked there once; several processes may do so at one time.

    Returns
    -------
    Path
        The folder with the modules.
    """
    folder = Path(cache_dir) / f"code-{blake2b(archive, digest_size=16).hexdigest()}"
    if not folder.is_dir():
        _unpack(archive, folder)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
    return folder


def _unpack(archive: bytes, folder: Path) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=folder.parent, prefix=".code-")
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            for member in packed.namelist():  # which `extractall` would quietly change
                confined.inside(temporary, member)
            packed.extractall(temporary)
        os.rename(temporary, folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _imported_later(functions: Iterable[Callable[..., Any]]) -> set[str]:
    reach = Reach(trust_versions=False)
    for function in functions:
        reach.add(function, "the function")
    reach.finish()
    return reach.modules


def _beside_the_script() -> list[Path]:
    """List the modules in the script's folder whose names are not the names of other modules, too."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if not isinstance(script, str) or not path_is_own(script):
        return []
    folder = Path(script).resolve().parent
    if folder in _too_wide() or folder.is_relative_to(Path(sys.prefix).resolve()):
        return []
    others = [place for place in sys.path if Path(place).resolve() != folder]
    found = [
        file
        for file in sorted(folder.glob("*.py"))
        if file != Path(script).resolve() and file.is_file() and file.stem.isidentifier()
        if file.stem not in sys.stdlib_module_names and PathFinder.find_spec(file.stem, others) is None
    ]
    return found if sum(file.stat().st_size for file in found) <= _MOST_BESIDE else []


def _named(name: str) -> Iterator[tuple[str, Path]]:
    """List the members for a path, or for a module or package that can be imported here."""
    path = Path(name)
    if path.is_file():
        yield path.name, path
        return
    if path.is_dir():
        folders = [(PurePosixPath(path.resolve().name), path.resolve())]
    else:
        spec = PathFinder.find_spec(name) if name.isidentifier() else None
        if spec is None:
            raise InputError(
                f"deploy={name!r}: there is neither a file or folder of this name nor a module that can be imported; "
                "write a path, or the first part of an import name such as numpy"
            )
        if spec.submodule_search_locations is None:
            file = Path(str(spec.origin))
            yield file.name, file
            return
        folders = [(PurePosixPath(name), Path(folder)) for folder in spec.submodule_search_locations]
    for place, folder in folders:
        for inner in _all_files(folder):
            yield str(place.joinpath(*inner.relative_to(folder).parts)), inner


def _all_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (Path(place, name) for name in sorted(names) if Path(place, name).is_file())


def _members(files: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """Return the members of the archive by name: whole packages, and single modules."""
    for name, file in files.items():
        place = PurePosixPath(*name.split("."))
        if not _is_package(file):
            yield f"{place}.{file.name.partition('.')[2]}", file
            continue
        yield str(place / file.name), file
        if name.rpartition(".")[0] not in files and file.parent.resolve() not in _too_wide():
            for inner in _package_files(file.parent):
                yield str(place.joinpath(*inner.relative_to(file.parent).parts)), inner


def _is_package(file: Path) -> bool:
    return file.name.startswith("__init__.")


def _too_wide() -> set[Path]:
    """Return folders that hold far more than a package, even if they contain an ``__init__.py``."""
    home = Path.home().resolve()
    return {home, *home.parents}


def _package_files(folder: Path) -> Iterator[Path]:
    if (archive := archive_of(folder)) is not None:
        with zipfile.ZipFile(archive) as packed:
            names = packed.namelist()
        start = f"{folder.relative_to(archive).as_posix()}/"
        yield from (archive / name for name in names if name.startswith(start) and not name.endswith(("/", ".pyc")))
        return
    data = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if _is_inside(Path(place, name)))
        for name in sorted(names):
            file = Path(place, name)
            if name.startswith(".") or file.suffix == ".pyc" or not file.is_file():
                continue
            size = 0 if file.suffix in _CODE else file.stat().st_size
            if size <= _LARGEST_DATA and data + size <= _MOST_DATA:
                data += size
                yield file


def _is_inside(folder: Path) -> bool:
    """Return whether a folder belongs to its package; virtual environments, caches and version control do not."""
    return not (folder.name.startswith(".") or folder.name in _NOT_PACKAGES or (folder / "pyvenv.cfg").exists())


def _zip(members: dict[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(members):
            info = zipfile.ZipInfo(name)  # its time is always the same
            info.external_attr = 0o600 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, read_own(members[name]))
    return buffer.getvalue()
