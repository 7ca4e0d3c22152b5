"""Tasks of everything that Python can call: decorated functions, methods, partials, objects."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from toilfn.config.settings import Settings
from toilfn.errors import GraphError, InputError

PREAMBLE = """
import contextlib, functools, operator
import numpy as np
import toilfn as toil

def double(f):
    @functools.wraps(f)
    def inner(*args, **kwargs):
        return 2 * f(*args, **kwargs)
    return inner

def shown(*promises):
    print(toil.compute(list(promises), cluster="inline", progress=False))
"""


def script(tmp_path: Path, source: str) -> str:
    """Run a script in a process of its own, and return its output."""
    (tmp_path / "flow.py").write_text(PREAMBLE + textwrap.dedent(source))
    done = subprocess.run([sys.executable, "flow.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_decorators_below_task_have_their_effect(tmp_path: Path) -> None:
    source = """
    class Doubled:
        def __init__(self, f):
            functools.update_wrapper(self, f)
            self.f = f
        def __call__(self, *args):
            return 2 * self.f(*args)

    class Noted(contextlib.ContextDecorator):
        def __enter__(self): NOTES.append("in")
        def __exit__(self, *error): return False

    NOTES = []

    @contextlib.contextmanager
    def around(name):
        NOTES.append(name)
        yield

    @toil.task
    @double
    def by_function(): return 1

    @toil.task
    @Doubled
    @double
    def by_class(): return 1

    @toil.task
    @Noted()
    @around("around")
    def by_context():
        return list(NOTES)

    def made(n):
        @toil.task
        @double
        def inner(x): return n * x
        return inner

    class A:
        @toil.task
        @double
        def method(self, x): return x + 1

    shown(by_function(), by_class(), by_context(), made(3)(2), A().method(4))
    """
    assert script(tmp_path, source) == "[2, 4, ['in', 'around'], 12, 10]"


def test_what_functools_wraps_in_c_or_in_closures_reaches_the_worker(tmp_path: Path) -> None:
    source = """
    @functools.lru_cache
    def helper(x): return x + 1

    @toil.task
    @functools.lru_cache(maxsize=3)
    def cached(x): return helper(x)

    @functools.singledispatch
    def size(x): return 0

    @size.register
    def _(x: list): return len(x)

    @toil.task
    def sized(x): return size(x)

    shown(cached(1), sized([1, 2]), sized("a"))
    """
    assert script(tmp_path, source) == "[2, 2, 0]"


def test_partials_and_objects_that_can_be_called(tmp_path: Path) -> None:
    source = """
    class Minus:
        def __init__(self, base): self.base = base
        def __call__(self, x): return self.base - x
        def plain(self, x): return self.base * x

    shown(
        toil.task(functools.partial(pow, 2))(5), toil.task(Minus(3))(2), toil.task(Minus(3).plain)(2),
        toil.task(operator.itemgetter(1))([1, 2]), toil.task(operator.methodcaller("upper"))("a"),
        toil.task(len)([1]), toil.task(max)(1, 2),
    )
    print(toil.compute(toil.task(np.vectorize(lambda x: x + 1))([1, 2]), cluster="inline", progress=False).tolist())
    """
    assert script(tmp_path, source) == "[32, 1, 6, 2, 'A', 1, 2]\n[2, 3]"


def test_methods_that_are_tasks(tmp_path: Path) -> None:
    source = """
    class A:
        def __init__(self, n): self.n = n
        @toil.task
        def times(self, x): return self.n * x
        @toil.task
        @staticmethod
        def above(x): return x
        @staticmethod
        @toil.task
        def below(x): return x
        @classmethod
        @toil.task
        def named(cls, x): return cls.__name__ + x

    a = A(3)
    shown(
        a.times(2), a.times.options(memory="1G")(3), *a.times.map([4, 5]), a.above(1), A.above(2), a.below(3),
        a.named("x"), toil.task(a.times)(6),
    )
    print(a.times.__wrapped__(7), a.times.__self__ is a)
    """
    assert script(tmp_path, source) == "[6, 9, 12, 15, 1, 2, 3, 'Ax', 18]\n21 True"


def test_a_decorator_may_add_arguments() -> None:
    def with_database(f: Callable[[str, str], str]) -> Callable[[str], str]:
        @functools.wraps(f)
        def inner(key: str) -> str:
            return f("db", key)

        return inner

    @toil.task
    @with_database
    def query(database: str, key: str) -> str:
        return f"{database}/{key}"

    assert toil.compute(query("k"), cluster="inline", progress=False) == "db/k"


def test_self_is_a_keyword_like_any_other() -> None:
    @toil.task
    def add(self: int, other: int) -> int:
        return self + other

    assert toil.compute(add(self=1, other=2), cluster="inline", progress=False) == 3


def test_attributes_of_the_function_do_not_hide_attributes_of_the_task() -> None:
    def plain(x: int) -> int:
        return x

    for name in ("options", "map", "identity", "settings", "name", "extra"):
        setattr(plain, name, name)
    made = toil.task(plain)
    promises = [made.options(memory="1G")(1), *made.map([2]), made(3)]
    assert toil.compute(promises, cluster="inline", progress=False) == [1, 2, 3]
    assert made.name == "plain"
    assert made.extra == "extra"  # type: ignore[attr-defined]


def test_map_without_iterables_says_what_it_needs() -> None:
    @toil.task
    def two() -> int:
        return 2

    with pytest.raises(TypeError, match="task two: map needs at least one iterable"):
        two.map()


def test_a_task_that_was_not_called_is_refused_where_its_value_was_meant() -> None:
    @toil.task
    def one() -> int:
        return 1

    @toil.task
    def same(value: object) -> object:
        return value

    @toil.task
    def forgets() -> object:
        return same

    with pytest.raises(GraphError, match=r"<task one> is an argument, but it was not called; write one\(\)"):
        same(one)
    with pytest.raises(toil.FailedTasksError, match="instead of calling it"):
        toil.compute(forgets(), cluster="inline", progress=False, retries=0)


def test_a_task_with_parameters_may_be_passed_as_a_function() -> None:
    @toil.task
    def double(x: int) -> int:
        return 2 * x

    @toil.task
    def apply(function: object, x: int) -> object:
        return function(x)  # type: ignore[operator]

    assert toil.compute(apply(double, 4), cluster="inline", progress=False) == 8


def test_a_classmethod_is_put_above_task() -> None:
    with pytest.raises(InputError, match="write @classmethod above @task"):
        toil.task(classmethod(lambda cls: cls))  # type: ignore[call-overload]


def test_memory_without_a_unit_is_refused_where_the_task_is_defined() -> None:
    for memory in (8, "20"):
        with pytest.raises(toil.ResourceError, match=r"option memory: .* bytes of memory, less than a mebibyte"):
            toil.task(memory=memory)(abs)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"memory": 10**30}, "option memory: 10{30} is too large: a size must be at most 8 EiB"),
        ({"disk": "9.3E"}, "option disk: '9.3E' is too large"),
        ({"retries": 2**63}, "option retries: .* below 2"),
        ({"env": {"A=B": "x"}}, "option env: 'A=B': 'x' is not a name and value"),
        ({"env": {"": "x"}}, "option env: '': 'x' is not a name and value"),
        ({"env": {"A": "x\0y"}}, "option env: 'A': .* is not a name and value"),
    ],
)
def test_a_requirement_that_no_system_can_use_is_refused_where_the_task_is_defined(
    option: dict[str, Any], words: str
) -> None:
    with pytest.raises(toil.ToilfnError, match=words):
        toil.task(**option)(abs)


@pytest.mark.parametrize("value", [{"A": None}, {"A=B": "x"}, {"": "x"}, {"A": "x\0y"}, "A=x\0y"])
def test_variables_that_no_system_can_use_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match="the setting 'set_env'"):
        Settings.resolve(set_env=value)


def test_the_text_of_a_promise_is_not_taken_for_its_value() -> None:
    @toil.task
    def text(word: object) -> str:
        return f"{word}"

    @toil.task
    def formats() -> str:
        return f"the answer is {text(42)}"

    @toil.task
    def adds() -> str:
        return f"the answer is {text(42) + text(1)}"

    promise = text(42)
    texts = [f"{promise}.txt", Path(str(promise)), [f"a {promise}"], str([promise]), f"{text(1)[0]}"]
    for argument in (*texts, f"{promise + 1}", Path(f"a {-promise}.txt")):
        with pytest.raises(GraphError, match="contains the text of a promise, whose value does not exist yet"):
            text(argument)
    with pytest.raises(toil.FailedTasksError, match="contains the text of a promise"):
        toil.compute(formats(), cluster="inline", progress=False, retries=0)
    with pytest.raises(toil.FailedTasksError, match="contains the text of a promise"):
        toil.compute(adds(), cluster="inline", progress=False, retries=0)
    text("Delayed('add-ons')")
    assert toil.compute(text("<Promise of bread>"), cluster="inline", progress=False) == "<Promise of bread>"


def test_modules_made_in_memory_or_loaded_from_a_path_reach_the_workers(tmp_path: Path) -> None:
    (tmp_path / "plug-in.v2.py").write_text(
        "FACTOR = 3\nclass Box:\n    content = 5\ndef scale(x): return x * FACTOR\n"
    )
    source = """
    import importlib.util, sys, types

    made = sys.modules["made"] = types.ModuleType("made")
    exec("FACTOR = 2\\ndef scale(x): return x * FACTOR", vars(made))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, "plug-in.v2.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    kept = sys.modules["kept"] = load("kept")
    loose = load("loose")
    from made import scale

    @toil.task
    def scaled(x): return made.scale(x), kept.scale(x), loose.scale(x), scale(x)

    @toil.task
    def content(box): return box.content

    if __name__ == "__main__":
        promises = [scaled(1), content(kept.Box()), toil.task(made.scale)(5), toil.task(kept.scale)(5)]
        print(toil.compute(promises, progress=False))
    """
    assert script(tmp_path, source) == "[(2, 3, 3, 2), 5, 10, 15]"
