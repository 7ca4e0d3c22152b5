"""The script as its tasks see it: tracebacks with its lines, and `__main__` with its functions and classes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HEAD = """
import dataclasses, enum, inspect, multiprocessing, pickle, sys, traceback, typing, warnings
import toilfn as toil


"""


def run(place: Path, body: str, *, cluster: str = "LocalCluster(workers=1)") -> str:
    """Run a script whose task `f` is given, and return what that returned, or its failure."""
    end = f"""
    if __name__ == "__main__":
        from toilfn import LocalCluster
        from toilfn.clusters.local.beside import ProcessCluster
        try:
            print(toil.compute(f(), cluster={cluster}, store="store", progress=False))
        except toil.FailedTasksError as error:
            print(error)
    """
    (place / "flow.py").write_text(HEAD.lstrip() + textwrap.dedent(body).strip() + "\n\n\n" + textwrap.dedent(end))
    done = subprocess.run(
        [sys.executable, "flow.py"], cwd=place, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CLUSTERS = ["LocalCluster(workers=1)", "ProcessCluster()", "'inline'"]


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_classes_with_cached_properties_and_locks_of_the_script_reach_workers(tmp_path: Path, cluster: str) -> None:
    body = """
    import dataclasses, functools, threading

    LOCK = threading.Lock()
    AGAIN = threading.RLock()

    class Thing:
        def __init__(self, n):
            self.n = n

        @functools.cached_property
        def doubled(self):
            return 2 * self.n

    @dataclasses.dataclass(slots=True)
    class Slim:
        n: int

    class Private:
        __slots__ = ("__n",)

        def __init__(self, n):
            self.__n = n

        def __repr__(self):
            return f"{self.__n}{hasattr(self, '__dict__')}"

    @toil.task(retries=0)
    def slim(n):
        return Slim(n)

    @toil.task(retries=0)
    def private(n):
        return Private(n)

    @toil.task(retries=0)
    def make(n):
        with LOCK, AGAIN, AGAIN:
            return Thing(n)

    @toil.task(retries=0)
    def take(thing):
        return thing.doubled

    @toil.task(retries=0)
    def f():
        return [make(2), take(make(3)), take(Thing(4)), slim(1), private(5)]
    """
    made, *rest = run(tmp_path, body, cluster=cluster).strip("[]").split(", ")
    assert "Thing object" in made
    assert rest == ["6", "8", "Slim(n=1)", "5False"]


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_traceback_names_file_and_line_and_shows_the_source(tmp_path: Path, cluster: str) -> None:
    body = """
    def helper(x):
        return 1 / x  # in a helper

    class Thing:
        def method(self, x):
            return helper(x)  # in a method

    @toil.task(retries=0)
    def f():
        return Thing().method(0)  # in the task
    """
    text = run(tmp_path, body, cluster=cluster)
    source = (tmp_path / "flow.py").read_text().splitlines()
    for comment in ("in a helper", "in a method", "in the task"):
        number, line = next((n, line) for n, line in enumerate(source, 1) if line.endswith(f"# {comment}"))
        assert f'File "{tmp_path}/flow.py", line {number}' in text, text
        assert line.strip() in text
    logs = subprocess.run(
        [sys.executable, "-m", "toilfn", "logs", "store", "f"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "flow.py" in logs.stdout + logs.stderr


def test_source_is_shown_when_the_script_no_longer_exists(tmp_path: Path) -> None:
    body = """
    import pathlib

    @toil.task
    def removed():
        pathlib.Path(removed_file).unlink()

    @toil.task(retries=0)
    def fails(_):
        raise ValueError("gone")  # the line

    removed_file = __file__

    @toil.task
    def f():
        return fails(removed())
    """
    assert 'raise ValueError("gone")  # the line' in run(tmp_path, body)


def test_names_that_pickle_looks_up_in_the_main_module_exist(tmp_path: Path) -> None:
    body = """
    def square(x):
        return x * x

    class Colour(enum.Enum):
        RED = 1

    class Point:
        def __init__(self, x):
            self.x = x

    @toil.task(retries=0)
    def f():
        return given(Point(4))

    @toil.task(retries=0)
    def given(point):
        again = pickle.loads(pickle.dumps(point))
        return (pickle.loads(pickle.dumps(square))(3), pickle.loads(pickle.dumps(Colour.RED)) is Colour.RED,
                type(again) is type(point), again.x)
    """
    assert run(tmp_path, body) == "(9, True, True, 4)"


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_run_functions_of_the_script(tmp_path: Path, cluster: str, method: str) -> None:
    body = f"""
    def square(x):
        return x * x

    @toil.task(retries=0)
    def f():
        with multiprocessing.get_context("{method}").Pool(2) as pool:
            return sum(pool.map(square, range(4)))
    """
    assert run(tmp_path, body, cluster=cluster) == "14"


@pytest.mark.parametrize(
    ("cluster", "way"),
    [
        ("LocalCluster(workers=1)", "SPAWN.Pool(2)"),
        ("ProcessCluster()", "ProcessPoolExecutor(2, mp_context=SPAWN)"),
    ],
)
def test_pools_are_spawned_without_the_scripts_file(tmp_path: Path, cluster: str, way: str) -> None:
    body = f"""
    import pathlib
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    FACTOR = 2

    class Number:
        def __init__(self, value):
            self.value = value

    def double(number):
        return Number(FACTOR * number.value)

    @toil.task
    def removed(script):
        pathlib.Path(script).unlink()

    @toil.task(retries=0)
    def pool(_):
        SPAWN = get_context("spawn")
        with {way} as pool:
            return sum(number.value for number in pool.map(double, map(Number, range(4))))

    @toil.task
    def f(script=__file__):
        return pool(removed(script))
    """
    assert run(tmp_path, body, cluster=cluster) == "12"


def test_hints_and_source_are_found_as_in_the_script(tmp_path: Path) -> None:
    body = """
    class Point:
        x: "int"

    def takes(point: "Point", names: "typing.Sequence[str]") -> "Point":
        return point

    @toil.task(retries=0)
    def f():
        hints = typing.get_type_hints(takes)
        return hints["point"].__name__, hints["names"].__name__, inspect.getsource(takes).splitlines()[0]
    """
    assert run(tmp_path, body) == (
        "('Point', 'Sequence', 'def takes(point: \"Point\", names: \"typing.Sequence[str]\") -> \"Point\":')"
    )


def test_functions_that_pydantic_checks_are_checked_in_workers(tmp_path: Path) -> None:
    body = """
    from pydantic import BaseModel, ConfigDict, validate_call

    class Point(BaseModel):
        x: int

    @validate_call(config=ConfigDict(strict=True), validate_return=True)
    def strict(x: int) -> str:
        return x

    @toil.task
    @validate_call
    def f(n: int = 3, point: "typing.Optional[Point]" = None) -> typing.Any:
        if point is None:
            return f("2", {"x": "1"})
        try:
            strict(n)
        except ValueError as error:
            return error.title, n, point.x

    promise = f()  # the script's namespace holds what cannot be pickled
    """
    assert run(tmp_path, body, cluster="'inline'") == "('strict', 2, 1)"


def test_tasks_with_equal_names_in_the_script_do_not_share_what_they_set(tmp_path: Path) -> None:
    body = """
    count = 0

    def raises_count():
        global count
        count += 1
        return count

    @toil.task
    def one(_=None):
        return raises_count()

    @toil.task
    def two(_=None):
        return raises_count()

    @toil.task
    def both(*values):
        return values

    @toil.task
    def f():
        first = one()
        return both(first, two(first))
    """
    assert run(tmp_path, body) == "(1, 1)"


def test_names_that_occur_only_in_annotations_of_a_class_are_found(tmp_path: Path) -> None:
    body = """
    class Sample:
        pass

    class Plain:
        sample: "Sample | None"
        own: "Plain"

    class Row(typing.NamedTuple):
        sample: "Sample"

    @dataclasses.dataclass
    class Both:
        sample: "Sample"
        names: "typing.List[str]"

    @toil.task(retries=0)
    def f():
        hints = [typing.get_type_hints(kind) for kind in (Plain, Row, Both)]
        return [sorted(hint) for hint in hints], hints[0]["own"] is Plain, hints[1]["sample"] is hints[2]["sample"]
    """
    found = run(tmp_path, body)
    assert found == "([['own', 'sample'], ['sample'], ['names', 'sample']], True, True)"
