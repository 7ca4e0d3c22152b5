"""Editing what a function leads to changes its identity; editing anything else does not."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from toilfn import task
from toilfn.errors import SerializationError
from toilfn.graph.identity import Identity, function_identity, value_identity

FLOW = """
import random
from random import randint
import numpy as np
import helpers
import pkg.deep
from helpers import shape as shape_of
from toilfn import task

LIMIT = 3
TABLE = (1, ("a", frozenset({"x", "y", "z"})))
state = {"calls": 0}

def local(x):
    return helpers.clean(x) + LIMIT

@task
def other(x):
    return x - 1

def unrelated():
    return 1

def make(n):
    def inner(x):
        return x * n
    return inner

scaled = make(2)

def f(x, y=1, *, z=(2, "two")):
    \"\"\"What f does.\"\"\"
    import lazy
    rows = [local(i) for i in range(x)]
    state["calls"] += 1
    random.random(), randint(1, 2), np.zeros(3)
    return other(shape_of(rows)), scaled(helpers.Config(x).size()), pkg.deep.low.step(x), lazy.late(y), TABLE, z
"""
HELPERS = """
THRESHOLD = 0.5

class Base:
    def size(self):
        return self.n

class Config(Base):
    factor = 2
    cache = {}
    def __init__(self, n):
        self.n = n * self.factor
    @property
    def double(self):
        return self.n * 2

def clean(x):
    return x if x > THRESHOLD else shape(x)

def shape(x):
    return clean(x - 1)

def unused(x):
    return x
"""
FILES = {
    "flow.py": FLOW,
    "helpers.py": HELPERS,
    "lazy.py": "import util\n\ndef late(y):\n    return util.up(y)\n",
    "util.py": "def up(y):\n    return y + 1\n",
    "pkg/__init__.py": "",
    "pkg/deep/__init__.py": "from . import low\n",
    "pkg/deep/low.py": "def step(x):\n    return x\n",
}
MODULES = ("flow", "helpers", "lazy", "util", "pkg", "pkg.deep", "pkg.deep.low")

Identify = Callable[..., Identity]


@pytest.fixture
def identify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Identify]:
    """Write the files to a new folder, some of them edited, and identify `flow.f` as a new process would."""
    count = 0

    def run(*edits: tuple[str, str, str], name: str = "f") -> Identity:
        nonlocal count
        count += 1
        folder = tmp_path / str(count)
        write(folder, FILES)
        for file, old, new in edits:
            source = (folder / file).read_text()
            assert old in source
            (folder / file).write_text(source.replace(old, new))
        forget()
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            return function_identity(getattr(importlib.import_module("flow"), name))

    yield run
    forget()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)


def forget() -> None:
    for module in MODULES:
        sys.modules.pop(module, None)


@pytest.mark.parametrize(
    ("file", "old", "new", "part"),
    [
        ("flow.py", "scaled(helpers", "1 + scaled(helpers", "body"),
        ("flow.py", "return helpers.clean(x) + LIMIT", "return helpers.clean(x) - LIMIT", "function flow.local"),
        ("flow.py", "LIMIT = 3", "LIMIT = 4", "constant flow.LIMIT"),
        ("flow.py", '"z"})', '"w"})', "constant flow.TABLE"),
        ("flow.py", "y=1", "y=2", "default y"),
        ("flow.py", '"two"', '"three"', "default z"),
        ("flow.py", "return x - 1", "return x - 2", "function flow.other"),
        ("flow.py", "make(2)", "make(3)", "function flow.make.<locals>.inner"),
        ("flow.py", "range(x)", "reversed(x)", "body"),
        ("flow.py", "import shape as shape_of", "import unused as shape_of", "body"),
        ("flow.py", "np.zeros(3)", "np.ones(3)", "body"),
        ("flow.py", "from random import randint", "from random import randrange as randint", "body"),
        ("helpers.py", "else shape(x)", "else shape(x - 1)", "function helpers.clean"),
        ("helpers.py", "clean(x - 1)", "clean(x - 2)", "function helpers.shape"),
        ("helpers.py", "THRESHOLD = 0.5", "THRESHOLD = 0.25", "constant helpers.THRESHOLD"),
        ("helpers.py", "return self.n\n", "return self.n + 1\n", "function helpers.Base.size"),
        ("helpers.py", "self.n * 2", "self.n * 3", "function helpers.Config.double"),
        ("helpers.py", "factor = 2", "factor = 3", "class helpers.Config"),
        ("helpers.py", "class Config(Base)", "class Config(Base, dict)", "class helpers.Config"),
        ("flow.py", 'state = {"calls": 0}', 'state = {"calls": 1}', "value flow.state"),
        ("helpers.py", "cache = {}", "cache = {1: 2}", "class helpers.Config"),
        ("lazy.py", "util.up(y)", "util.up(-y)", "module lazy"),
        ("util.py", "y + 1", "y + 2", "module util"),
        ("pkg/deep/low.py", "return x", "return -x", "function pkg.deep.low.step"),
    ],
)
def test_an_edit_that_counts_changes_the_identity_and_its_part(
    identify: Identify, file: str, old: str, new: str, part: str
) -> None:
    before, after = identify(), identify((file, old, new))
    changed = {key for key in before.parts.keys() | after.parts if before.parts.get(key) != after.parts.get(key)}
    assert before.digest != after.digest
    assert part in changed
    assert part == "body" or "body" not in changed


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("flow.py", "LIMIT = 3", "# a comment\n\n\nLIMIT = 3"),
        ("flow.py", "What f does.", "It does this."),
        ("flow.py", '    """What f does."""\n', ""),
        ("flow.py", "    rows = ", "\n    # rows\n    rows = "),
        ("flow.py", "[local(i) for i in range(x)]", "[\n        local(i)\n        for i in range(x)\n    ]"),
        ("flow.py", "return 1\n", "return 2\n"),
        ("flow.py", "def f(x, y", "def f(x: int, y"),
        ("flow.py", "def local(x):", "def local(x):\n    'New.'"),
        ("helpers.py", "class Config(Base):", "class Config(Base):\n    'A docstring.'"),
        ("helpers.py", "def unused(x):\n    return x", "def unused(x):\n    return 2 * x"),
        ("helpers.py", "THRESHOLD = 0.5", "THRESHOLD = 0.5\nNEW = 1"),
        ("lazy.py", "import util", "'A docstring.'\nimport util  # comment"),
    ],
)
def test_an_edit_that_does_not_count_keeps_the_identity(identify: Identify, file: str, old: str, new: str) -> None:
    assert identify() == identify((file, old, new))


def test_the_parts_can_be_read(identify: Identify) -> None:
    parts = identify().parts
    assert parts["name"] == "f"
    assert parts["parameters"] == "x, y, z"
    assert parts["default y"] == "1"
    assert parts["constant flow.LIMIT"] == "3"
    assert "function helpers.unused" not in parts
    assert "function flow.unrelated" not in parts


def test_swapped_names_count(identify: Identify) -> None:
    def named(a: str, b: str) -> tuple[str, str, str]:
        return (
            "flow.py",
            "LIMIT = 3",
            f"LIMIT = 3\nfrom helpers import {a} as one, {b} as two\ndef g(x): return one(two(x))",
        )

    assert identify(named("clean", "shape"), name="g") != identify(named("shape", "clean"), name="g")


def test_two_functions_of_one_name(identify: Identify) -> None:
    def edit(second: int) -> tuple[str, str, str]:
        return (
            "flow.py",
            "scaled = make(2)",
            f"a, b = make(5), make({second})\ndef g(x): return a(b(x))\nscaled = make(2)",
        )

    assert identify(edit(6), name="g") == identify(edit(6), name="g")
    assert identify(edit(6), name="g") != identify(edit(7), name="g")


def test_a_pinned_version_stands_for_all_code(identify: Identify) -> None:
    assert function_identity(make_adder(1), "1") == function_identity(make_adder(2), "1")
    assert function_identity(make_adder(1), "1") != function_identity(make_adder(1), "2")
    pinned = ("flow.py", "@task\ndef other", "@task(version='7')\ndef other")
    edited = ("flow.py", "return x - 1", "return x - 2")
    assert identify(pinned) == identify(pinned, edited)
    assert identify(pinned) != identify()


PROGRAM = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
if sys.argv[2] == "script":
    space = runpy.run_path(sys.argv[1] + "/script.py", run_name="__main__")
    sys.exit()
import flow
from toilfn.graph.identity import function_identity
print(function_identity(flow.f).digest.hex())
"""


def test_processes_with_modules_at_different_places_agree(tmp_path: Path, identify: Identify) -> None:
    found = {identify().digest.hex()}
    for place, seed in (("here", "1"), ("there", "2")):
        write(tmp_path / place, FILES)
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / place), "module"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True, check=True)
        found.add(done.stdout.strip())
    assert len(found) == 1


SCRIPT = """
import sys
from dataclasses import dataclass
from toilfn import task
from toilfn.graph.identity import function_identity
import helpers

STEP = 2

@dataclass
class Box:
    n: int
    def up(self):
        return Box(self.n + STEP)

def helper(x):
    return helpers.clean(x) + Box(x).up().n

@task
def leaf(x):
    return helper(x)

@task
def f(n):
    return f(n - 1) if n else leaf(STEP)

if __name__ == "__main__":
    import cloudpickle
    print(f.identity.digest.hex())
    with open(sys.argv[1], "wb") as file:
        cloudpickle.dump(f, file)
"""


def test_a_function_of_the_script_is_the_same_where_it_is_unpickled(tmp_path: Path) -> None:
    write(tmp_path, {"script.py": SCRIPT, "helpers.py": HELPERS})
    pickled = str(tmp_path / "f.pickle")
    made = subprocess.run(
        [sys.executable, "script.py", pickled], cwd=tmp_path, text=True, capture_output=True, check=True
    )
    load = f"import pickle; print(pickle.load(open({pickled!r}, 'rb')).identity.digest.hex())"
    loaded = subprocess.run([sys.executable, "-c", load], cwd=tmp_path, text=True, capture_output=True, check=True)
    assert made.stdout == loaded.stdout


def make_adder(n: int) -> Callable[[int], int]:
    def add(x: int) -> int:
        return x + n

    return add


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return x * self.factor


def add(x: int, y: int) -> int:
    return x + y


@functools.lru_cache
def cached(x: int) -> int:
    return add(x, 1)


@pytest.mark.parametrize(
    ("same", "again", "different"),
    [
        (make_adder(1), make_adder(1), make_adder(2)),
        (functools.partial(add, 1), functools.partial(add, 1), functools.partial(add, 2)),
        (Scale(1), Scale(1), Scale(2)),
        (Scale(1).__call__, Scale(1).__call__, Scale(2).__call__),
        (len, len, sum),
        (np.vectorize(make_adder(1)), np.vectorize(make_adder(1)), np.vectorize(make_adder(2))),
        (lambda x: x + 1, lambda x: x + 1, lambda x: x + 2),
        (cached, cached, functools.lru_cache(add)),
        (Scale, Scale, dict),
    ],
)
def test_every_kind_of_callable(same: Any, again: Any, different: Any) -> None:
    assert function_identity(same) == function_identity(again)
    assert function_identity(same).digest != function_identity(different).digest
    assert value_identity([same]) == value_identity([again])
    assert value_identity([same]) != value_identity([different])


def test_a_callable_that_cannot_be_identified_says_so() -> None:
    with pytest.raises(SerializationError, match="the function"):
        function_identity(functools.partial(add, sys.stdout))


def test_the_state_of_hidden_generators_does_not_count() -> None:
    before = function_identity(draws)
    random.random()
    assert function_identity(draws) == before


def draws() -> float:
    return _random() + _randint(1, 2)


_random, _randint = random.random, random.randint


def test_constants_that_only_differ_in_type_count() -> None:
    sources = [
        "1",
        "1.0",
        "True",
        "'1'",
        "b'1'",
        "-0.0",
        "0.0",
        "(1,)",
        "(True,)",
        "{1} == x",
        "{1.0} == x",
        "None",
        "...",
    ]
    made = [eval(f"lambda x: [{source}, x]") for source in sources]
    assert len({function_identity(function).digest for function in made}) == len(sources)


def test_an_instance_changes_with_its_class() -> None:
    def scale(source: str) -> Any:
        space: dict[str, Any] = {"__name__": "made_here"}
        exec(textwrap.dedent(source), space)
        return space["Point"]()

    first = "class Point:\n    def norm(self): return 1\n"
    assert value_identity(scale(first)) == value_identity(scale(first + "    __doc__ = 'x'\n"))
    assert value_identity(scale(first)) != value_identity(scale(first.replace("1", "2")))


def test_a_task_is_identified_by_what_it_wraps() -> None:
    wrapped = task(make_adder(4))
    assert wrapped.identity == function_identity(make_adder(4))
    assert "python" in wrapped.identity.parts
    assert wrapped.identity.parts["closure n"] == "4"


def test_a_pickled_copy_is_the_same() -> None:
    copy = cloudpickle.loads(cloudpickle.dumps(make_adder(3)))
    assert function_identity(copy) == function_identity(make_adder(3))


def test_identifying_a_large_module_function_is_quick() -> None:
    reached = function_identity(inspect.getsource)
    assert reached.parts.keys() == {"name", "python", "parameters", "body"}
