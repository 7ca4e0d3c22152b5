"""The layers of the core: docs/architecture.md, "The layers of the core"."""

from __future__ import annotations

import pytest

from tests.house.numbers import arrows, components, cycles
from tests.house.rooms import Module, modules
from tests.house.test_imports import imported, within

LAYERS = (
    ("cli",),
    ("steps", "debug"),
    ("api",),
    ("leader",),
    ("inspect",),
    ("containers",),
    ("worker",),
    ("files",),
    ("graph",),
    ("config",),
    ("model",),
    ("scheduler",),
)
"""From top to bottom: a module imports from its own layer, those below it, clusters, stores and the vocabulary."""


def layer(name: str) -> int | None:
    """The number of a module's layer; None for those that are not in the core."""
    parts = [part for names in LAYERS for part in names if within(name, f"toilfn.{part}")]
    return next((n for n, names in enumerate(LAYERS) if parts and parts[0] in names), None)


def upward(module: Module) -> set[tuple[str, str]]:
    own = layer(module.name)
    found = {
        name for name in imported(module) if (other := layer(name)) is not None and own is not None and other < own
    }
    return {(module.name, name) for name in found}


def test_the_core_imports_downwards():
    found = {pair for module in modules().values() for pair in upward(module)}
    assert found == set(), "move the function to the layer that needs it"


def test_no_folder_has_packages_or_modules_that_import_each_other_in_a_circle():
    assert cycles() == []


def test_a_circle_through_a_subfolder_is_found():
    graph = {"a": {"a.b.c"}, "a.b": set(), "a.b.c": {"a.d"}, "a.d": {"a.b"}}
    assert arrows(graph, {"a", "a.b"}) == {"a.__init__": {"a.b"}, "a.b": {"a.d"}, "a.d": {"a.b"}}
    assert components(arrows(graph, {"a", "a.b"})) == [{"a.b", "a.d"}]


def test_each_part_of_the_core_has_a_layer():
    parts = {name.split(".")[1] for name, module in modules().items() if module.is_package and name.count(".")}
    rooms = {"clusters", "cloud", "cwl", "pages", "server", "stores", "wdl"}
    assert parts - rooms == {part for names in LAYERS for part in names} - {"api", "debug"}


@pytest.mark.parametrize(
    ("name", "number"), [("toilfn.cli.run", 0), ("toilfn.scheduler", len(LAYERS) - 1), ("toilfn.units", None)]
)
def test_layers_of_modules(name, number):
    assert layer(name) == number
