"""The names that `import toilfn` offers, and the time that it takes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest

import toilfn
from tests.house.rooms import modules


def imported_from_toilfn(block: list[ast.stmt]) -> dict[str, str]:
    """The names that statements import from toilfn's modules: name -> module."""
    imports = [node for node in block if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("toilfn")]
    return {alias.name: node.module for node in imports for alias in node.names}


TREE = modules()["toilfn"].tree
AT_ONCE = imported_from_toilfn(TREE.body)
(FOR_TYPE_CHECKERS,) = [node for node in TREE.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node)]


def test_the_public_names_are_sorted_and_complete():
    assert toilfn.__all__ == sorted(toilfn.__all__)
    assert set(toilfn.__all__) == {*toilfn._HOME, *AT_ONCE, "__version__"}
    assert dir(toilfn) == toilfn.__all__


def test_type_checkers_see_the_same_names():
    assert imported_from_toilfn(FOR_TYPE_CHECKERS.body) | {"Promise": "toilfn.graph.promise"} == toilfn._HOME


def test_a_submodule_never_takes_the_place_of_a_name():
    lazy_submodules = {module.rpartition(".")[2] for module in modules() if module.count(".") == 1}
    assert not lazy_submodules & set(toilfn._HOME)


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


RUN = """
import json, sys
import toilfn as toil

@toil.task
def loaded():
    return list(sys.modules)

if __name__ == "__main__":
    worker = toil.compute(loaded(), cluster="local", progress=False)
    print(json.dumps([list(sys.modules), worker]))
"""


def test_a_run_on_this_machine_loads_what_it_needs(tmp_path):
    """Each module makes the start of every run, and of every job of a batch system, slower."""
    script = tmp_path / "script.py"
    script.write_text(RUN)
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    for loaded in json.loads(run.stdout):
        assert "toilfn.stores" in loaded
        assert not {"fsspec", "asyncio", "ssl", "importlib.metadata", "numpy", "rich", "botocore"} & set(loaded)
