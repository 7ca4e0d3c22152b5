"""Imports point one way: docs/architecture.md, "Rooms and who may import whom"."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.house.rooms import Module, modules

VOCABULARY = tuple(
    f"toilfn.{name}"
    for name in ("confined", "errors", "ids", "moved", "protocol", "resources", "stdio", "text", "units")
)
ROOM_NAMES = (
    "toilfn.cloud",
    "toilfn.cwl",
    "toilfn.wdl",
    "toilfn.stores",
    "toilfn.clusters",
    "toilfn.pages",
    "toilfn.server",
)


def imported(module: Module) -> Iterator[str]:
    """The absolute names of all that a module imports, wherever in it."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from from_import(module, node)


def from_import(module: Module, node: ast.ImportFrom) -> Iterator[str]:
    above = module.package.split(".")[: None if node.level < 2 else 1 - node.level]
    base = ".".join([*(above if node.level else []), *([node.module] if node.module else [])])
    for alias in node.names:
        full = f"{base}.{alias.name}"
        yield full if full in modules() else base


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def room(name: str) -> str:
    """Which row of the table a module belongs to."""
    if within(name, *VOCABULARY):
        return "vocabulary"
    if within(name, "toilfn.scheduler"):
        return "scheduler"
    return next((r for r in ROOM_NAMES if within(name, r)), "core")


MAY_IMPORT = {
    "vocabulary": {"vocabulary"},
    "scheduler": {"vocabulary", "scheduler"},
    "toilfn.stores": {"vocabulary", "toilfn.stores"},
    "toilfn.clusters": {"vocabulary", "toilfn.clusters"},
    "core": {"vocabulary", "scheduler", "toilfn.stores", "toilfn.clusters", "core"},
    "toilfn.cloud": {"vocabulary", "toilfn.stores", "toilfn.clusters", "core", "toilfn.cloud"},
    "toilfn.cwl": {"vocabulary", "toilfn.stores", "toilfn.clusters", "core", "toilfn.cwl"},
    "toilfn.pages": {"vocabulary", "toilfn.stores", "toilfn.clusters", "core", "toilfn.pages"},
    "toilfn.server": {"toilfn.pages", "vocabulary", "toilfn.stores", "toilfn.clusters", "core", "toilfn.server"},
    "toilfn.wdl": {"vocabulary", "toilfn.stores", "toilfn.clusters", "core", "toilfn.wdl"},
}


@pytest.mark.parametrize("module", modules().values(), ids=lambda module: module.name)
def test_rooms_import_one_way(module):
    own = room(module.name)
    wrong = [name for name in imported(module) if within(name, "toilfn") and room(name) not in MAY_IMPORT[own]]
    assert not wrong, f"{module.name} belongs to {own}, which may import {sorted(MAY_IMPORT[own])}"


@pytest.mark.parametrize("module", [m for m in modules().values() if room(m.name) in ("vocabulary", "scheduler")])
def test_vocabulary_and_scheduler_use_nothing_but_the_standard_library(module):
    known = {*sys.stdlib_module_names, "toilfn", *(["msgpack"] if module.name == "toilfn.protocol" else [])}
    assert [name for name in imported(module) if name.partition(".")[0] not in known] == []


def test_scheduler_has_no_clock_no_threads_and_no_files():
    effects = {"asyncio", "io", "os", "pathlib", "random", "socket", "subprocess", "tempfile", "threading", "time"}
    schedulers = [module for module in modules().values() if room(module.name) == "scheduler"]
    assert schedulers
    assert [(m.name, name) for m in schedulers for name in imported(m) if name.partition(".")[0] in effects] == []


def test_imports_are_found_in_every_form():
    tree = ast.parse(
        "import a.b\nfrom . import errors\nfrom .units import x\ndef f():\n    from toilfn.model import records"
    )
    module = Module("toilfn.somewhere", modules()["toilfn"].path, False, tree)
    assert set(imported(module)) == {"a.b", "toilfn.errors", "toilfn.units", "toilfn.model.records"}
