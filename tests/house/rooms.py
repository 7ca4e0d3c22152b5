"""The project's own modules, read without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

ROOMS = {
    "toilfn": "toilfn",
    "toilfn.clusters": "clusters",
    "toilfn.cwl": "cwl",
    "toilfn.stores": "stores",
    "toilfn.wdl": "wdl",
}
"""Import names and folders."""


class Module(NamedTuple):
    """One source file."""

    name: str
    path: Path
    is_package: bool
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name if self.is_package else self.name.rpartition(".")[0]


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        elif path.suffix == ".py":
            yield path


def _module(package: str, folder: Path, path: Path) -> Module:
    parts = path.relative_to(folder).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    name = ".".join([package, *(parts[:-1] if is_package else parts)])
    return Module(name, path, is_package, ast.parse(path.read_text(encoding="utf-8")))


@cache
def modules(root: Path = ROOT) -> dict[str, Module]:
    """All modules of all rooms, by their import names."""
    folders = {package: root / folder for package, folder in ROOMS.items()}
    found = [_module(package, folder, path) for package, folder in folders.items() for path in _files(folder)]
    return {module.name: module for module in found}
