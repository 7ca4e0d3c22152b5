"""What `import toilfn` offers, and what it costs."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import toilfn
from tests.house.rooms import modules


def names_for_type_checkers() -> dict[str, str]:
    """What `toilfn/__init__.py` imports under TYPE_CHECKING: name -> module."""
    tree = modules()["toilfn"].tree
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    return {alias.name: node.module for node in imports for alias in node.names}


def test_all_is_sorted_and_is_what_the_table_holds():
    assert toilfn.__all__ == sorted(toilfn.__all__)
    assert set(toilfn.__all__) == {*toilfn._HOME, "__version__"}
    assert dir(toilfn) == toilfn.__all__


def test_type_checkers_see_the_same_names():
    assert names_for_type_checkers() | {"Promise": "toilfn.promise"} == toilfn._HOME


@pytest.mark.parametrize("name", toilfn.__all__)
def test_every_name_resolves(name):
    assert getattr(toilfn, name) is not None


def test_all_errors_are_offered():
    import toilfn.errors

    assert set(toilfn.errors.__all__) <= set(toilfn.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'toilfn' has no attribute 'comptue'"):
        toilfn.comptue  # noqa: B018


def test_import_loads_nothing_heavy():
    code = "import sys, toilfn; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "toilfn" in run.stdout.split()
    assert not {"dask", "fsspec", "rich", "numpy", "msgpack", "cloudpickle"} & set(run.stdout.split())
