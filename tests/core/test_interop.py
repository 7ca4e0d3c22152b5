"""Promises are dask collections, and dask's collections are arguments of tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest

import toilfn
from toilfn import task
from toilfn.errors import InputError
from toilfn.graph.promise import Promise
from toilfn.graph.record import Recorder
from toilfn.graph.task import from_dask

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _forget_what_ran() -> None:
    ran.clear()


@task
def inc(x: int) -> int:
    ran.append(x)
    return x + 1


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task(nout=2)
def pair(x: int) -> tuple[int, int]:
    return x, x + 1


def add(x: int, y: int) -> int:
    return x + y


def local(promise: Any) -> Any:
    """Run as any dask scheduler would."""
    return promise.compute(scheduler="sync")


def made_of(promise: Promise) -> set[Promise]:
    """All promises that one needs, itself included."""
    found: dict[int, Promise] = {}
    stack = [promise]
    while stack:
        current = stack.pop()._origin
        if id(current) not in found:
            found[id(current)] = current
            stack.extend(current._deps)
    return set(found.values())


def test_dask_computes_promises() -> None:
    one = inc(1)
    assert dask.compute(one, {"two": [inc(one)]}, scheduler="sync") == (2, {"two": [3]})
    assert ran == [1, 2]
    assert dask.compute(total([inc(i) for i in range(4)]), scheduler="threads") == (10,)


def test_dask_delayed_takes_promises_and_shares_them() -> None:
    one = inc(1)
    both = dask.delayed(add)(dask.delayed(add)(one, 10), dask.delayed(add)(one, 20))
    assert local(both) == 34
    assert ran == [1]
    first, second = pair(5)
    assert local(dask.delayed(add)(first, second)) == 11


def test_dask_draws_promises(tmp_path: Path) -> None:
    pytest.importorskip("graphviz")
    try:
        dask.visualize(inc(inc(1)), filename=str(tmp_path / "graph"), format="dot")
    except RuntimeError as error:  # graphviz's program is not installed
        pytest.skip(str(error))
    assert "inc" in (tmp_path / "graph.dot").read_text()


def test_a_promises_node_can_be_pickled_for_other_processes() -> None:
    graph = dict(total([inc(1), pair(2)[0]]).dask)
    copies = cloudpickle.loads(cloudpickle.dumps(graph))
    assert dask.get(copies, next(iter(copies))) == 4


def test_a_delayed_is_an_argument() -> None:
    lazy = dask.delayed(add)(1, dask.delayed(add)(2, 3))
    assert local(inc(lazy)) == 7
    assert local(total([lazy, lazy, inc(lazy)])) == 19


def test_promises_inside_a_collection_stay_the_same_tasks() -> None:
    one = inc(1)
    inner = from_dask(dask.delayed(add)(one, pair(one)[1]))
    names = sorted(promise._task.name for promise in made_of(inner))
    assert names == ["add", "inc", "pair"]
    assert one in made_of(inner)


def test_collections_with_common_nodes_share_tasks() -> None:
    common = dask.delayed(add, pure=True)(1, 2)
    first, second = from_dask(dask.delayed(add)(common, 1)), from_dask(dask.delayed(add)(common, 2))
    assert len(made_of(first) & made_of(second)) == 1
    assert from_dask(common) is from_dask(common)


@pytest.mark.parametrize("fuse", [False, True])
def test_a_promise_is_never_hidden_in_a_fused_node(fuse: bool) -> None:
    one = inc(1)
    with dask.config.set({"optimization.fuse.delayed": fuse}):
        chain = dask.delayed(add)(dask.delayed(add)(one, 1), 1)
        assert one in made_of(from_dask(chain))
        bag = db.from_delayed([dask.delayed(lambda x: [x])(one)])
        assert one in made_of(from_dask(bag.map(add, 1).sum()))


def test_a_bag() -> None:
    bag = db.from_sequence(range(10), npartitions=3).map(add, 1).filter(lambda x: x % 2)
    assert local(from_dask(bag)) == [1, 3, 5, 7, 9]
    assert local(total(bag)) == 25
    assert local(from_dask(bag.sum())) == 25


def test_an_array() -> None:
    array = (da.from_array(np.arange(24).reshape(4, 6), chunks=2) + 1).T
    assert (local(from_dask(array)) == np.arange(24).reshape(4, 6).T + 1).all()
    assert local(from_dask(array.sum())) == 300


def test_a_dataframe() -> None:
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame({"a": range(10), "b": list("xyxyxyxyxy")})
    lazy = dd.from_pandas(frame, npartitions=3)
    pd.testing.assert_frame_equal(local(from_dask(lazy)), frame, check_dtype=False)
    assert local(from_dask(lazy.groupby("b").a.sum())).to_dict() == {"x": 20, "y": 25}
    assert local(total([lazy.a.sum()])) == 45


def test_a_legacy_graph() -> None:
    class Old:
        def __dask_graph__(self) -> Any:
            return {"a": 1, ("b", 0): (add, "a", 10), "c": [("b", 0), "a"], "d": (sum, "c")}

        def __dask_keys__(self) -> Any:
            return ["d"]

        __dask_optimize__ = None
        __dask_scheduler__ = staticmethod(dask.get)

        def __dask_postcompute__(self) -> Any:
            return lambda results: results[0], ()

    assert local(from_dask(Old())) == 12


def test_a_long_chain() -> None:
    value = dask.delayed(0)
    for _ in range(1500):
        value = dask.delayed(inc.__wrapped__)(value)
    assert len(made_of(from_dask(value))) >= 1500


def test_a_value_that_is_not_a_collection_is_refused() -> None:
    with pytest.raises(InputError, match="not a dask collection"):
        from_dask([1])


def chain() -> Any:
    """Fused nodes with several inputs each, of random keys."""
    parts = [dask.delayed(add)(dask.delayed(add)(i, 1), dask.delayed(abs)(i)) for i in range(3)]
    return db.from_delayed([dask.delayed(lambda x: [x])(part) for part in parts]).map(add, 1)


def collections() -> list[Callable[[], Any]]:
    import dask.dataframe as dd
    import pandas as pd

    frame = pd.DataFrame({"a": range(10), "b": list("xyxyxyxyxy")})
    return [
        lambda: dask.delayed(add)(1, dask.delayed(add)(2, 3)),
        chain,
        lambda: db.from_sequence(range(10), npartitions=3).map(add, 1).sum(),
        lambda: (da.from_array(np.arange(24).reshape(4, 6), chunks=2) + da.ones((4, 6), chunks=2)).T.sum(),
        lambda: dd.from_pandas(frame, npartitions=3).groupby("b").a.mean(),
    ]


class NoStore:
    """Takes nothing: ids are made without it."""

    def put_blob(self, data: bytes) -> Any:
        raise AssertionError("nothing is stored")


def ids() -> list[str]:
    return [Recorder(NoStore()).identify(from_dask(make())).hex() for make in collections()]


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import test_interop
print(test_interop.ids(), test_interop.ids())
"""


def test_ids_do_not_depend_on_dasks_keys_or_the_process() -> None:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)]
    runs = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, text=True, capture_output=True, check=True)
        for seed in ("1", "2")
    ]
    outputs = {run.stdout for run in runs}
    assert len(outputs) == 1
    first, second = outputs.pop().strip("[]\n").split("] [")
    assert first == second
    assert len(set(first.split(", "))) == len(collections())


def test_collections_in_a_durable_run(tmp_path: Path) -> None:
    bag = db.from_sequence(range(10), npartitions=3).map(add, 1)
    store = str(tmp_path / "store")
    assert toilfn.compute(total(bag), store=store, cluster="inline") == 55
