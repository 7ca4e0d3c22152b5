"""Find the modules that are the user's own (not of Python, installed, or toilfn), and those that travel by value."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

__all__ = [
    "archive_of",
    "file_of",
    "find_own",
    "is_made_in_memory",
    "is_own",
    "is_singledispatch",
    "loaded_own",
    "path_is_own",
    "read_own",
    "take_modules_by_value",
]

_SEVERAL = ("site-packages", "dist-packages")
_EVERYWHERE = ("toilfn", "builtins", "__main__", "sitecustomize", "usercustomize")
"""Modules of which each machine has its own; Debian's ``sitecustomize`` is below ``/etc``."""


def is_own(name: str | None) -> bool:
    """Return whether a module of this name is the user's own, by where its file is.

    A module that is not loaded was made on the fly, by a notebook or by unpickling, and counts as the user's.
    """
    if name is None or name == "__main__":
        return True
    if name.partition(".")[0] in _EVERYWHERE:
        return False
    module = sys.modules.get(name)
    if module is None:
        return True
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return path_is_own(file)
    if isinstance(folders := getattr(module, "__path__", None), Iterable):  # a namespace package has no file
        return any(path_is_own(os.path.join(folder, "")) for folder in folders)
    return is_made_in_memory(module)


def is_made_in_memory(module: ModuleType) -> bool:
    """Return whether the user's code made a module: it was not imported, and comes with no installed package."""
    if getattr(module, "__spec__", None) is not None or getattr(module, "__file__", None) is not None:
        return False
    name = module.__name__
    parent = name.rpartition(".")[0]
    return name not in sys.builtin_module_names and (not parent or parent not in sys.modules or is_own(parent))


def file_of(module: ModuleType) -> Path | None:
    """Return the file of a loaded module, if it is the user's own."""
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) and path_is_own(file) else None


def is_singledispatch(value: object) -> bool:
    """Return whether this is a function that `functools.singledispatch` made."""
    return isinstance(value, FunctionType) and value.__code__ is _SINGLEDISPATCH


_SINGLEDISPATCH: CodeType = vars(functools)["singledispatch"](len).__code__


@functools.cache
def path_is_own(path: str) -> bool:
    """Return whether a file is outside all places of installed modules."""
    if path.startswith("<frozen "):
        return False
    folder, name = os.path.split(path)
    real = os.path.join(_real(folder), name)
    if os.path.islink(real):
        real = os.path.realpath(real)
    return not set(_SEVERAL).intersection(real.split(os.sep)) and not real.startswith(_installed())


@functools.cache
def _real(folder: str) -> str:
    """Return the real path of a folder, which is looked up once for all modules in it."""
    return os.path.realpath(folder)


def find_own(name: str) -> Path | None:
    """Find the file of one of the user's modules without importing anything; None if there is none."""
    if name.partition(".")[0] in _EVERYWHERE:
        return None
    spec = _find_spec(name)
    if spec is None or not spec.has_location or spec.origin is None or not path_is_own(spec.origin):
        return None
    return Path(spec.origin)


def archive_of(path: Path) -> Path | None:
    """Return the zip archive on ``sys.path`` that a module is in, if it is in one."""
    return None if path.exists() else next((parent for parent in path.parents if parent.is_file()), None)


def read_own(file: Path) -> bytes:
    """Read the file of a module, which may be in an archive."""
    archive = archive_of(file)
    if archive is None:
        return file.read_bytes()
    from zipfile import Path as Member

    return Member(archive, file.relative_to(archive).as_posix()).read_bytes()


def loaded_own() -> Iterator[tuple[str, Path]]:
    """List name and file of every loaded module that is the user's own, but not the script itself."""
    for name in sorted(sys.modules):
        if name not in ("__main__", "__mp_main__") and is_own(name):
            file = file_of(sys.modules[name])
            if file is not None:
                yield name, file


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    places = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")} | {os.path.dirname(os.__file__)}
    return tuple(sorted({os.path.realpath(place) + os.sep for place in places}))


def _find_spec(name: str) -> ModuleSpec | None:
    """Like `importlib.util.find_spec`, but does not import the parents."""
    loaded: ModuleSpec | None = getattr(sys.modules.get(name), "__spec__", None)
    if loaded is not None:
        return loaded
    parent, _, _ = name.rpartition(".")
    if not parent:
        return PathFinder.find_spec(name)
    package = _find_spec(parent)
    if package is None or package.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, package.submodule_search_locations)


def take_modules_by_value() -> None:
    """Pickle the contents of modules that no other process can import by value.

    These are modules that were made in memory, or loaded from a path under a name that leads to no file.
    """
    modules: list[tuple[str, Any]] = list(sys.modules.items())  # some values are not modules
    for name, module in modules:
        if (
            _looked_at.get(name) is module
            or name.partition(".")[0] in _WITH_EVERY_WORKER
            or not isinstance(module, ModuleType)
        ):
            continue
        _looked_at[name] = module
        if module.__name__ == name and (is_made_in_memory(module) or _is_only_loaded(module)):
            cloudpickle.register_pickle_by_value(module)


_WITH_EVERY_WORKER = ("__main__", "__mp_main__", "toilfn")
_looked_at: dict[str, ModuleType] = {}


def _is_only_loaded(module: ModuleType) -> bool:
    """Return whether a module of the user's own has a file that its name does not lead to."""
    file = file_of(module)
    if file is None:
        return False
    top = module.__name__.partition(".")[0]
    try:
        specs = (finder.find_spec(top, None) for finder in sys.meta_path)
        spec = next((spec for spec in specs if spec is not None), None)
    except (ImportError, ValueError, AttributeError, TypeError):
        return False
    return spec is None or ("." not in module.__name__ and spec.origin != module.__file__)
