"""Lazy things become values at every door: what tasks return, spawn, wait for and are given."""

from __future__ import annotations

import asyncio
from typing import Any

import dask.array
import dask.bag
import pytest
from dask.delayed import delayed

import toilfn as toil
from toilfn.errors import GraphError, SerializationError


class Box:
    def __init__(self, content: Any) -> None:
        self.content = content


@toil.task
def square(x: int = 1) -> Any:
    return x * x


@toil.task
def total(xs: Any) -> Any:
    return sum(xs)


@toil.task
def contents(boxes: Any) -> Any:
    return [box.content for box in boxes]


def computed(*promises: Any) -> Any:
    return toil.compute(*promises, cluster="inline", progress=False, retries=0)


@toil.task
def fibonacci(n: int) -> Any:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def test_arithmetic_with_promises_in_a_result_is_computed() -> None:
    assert computed(fibonacci(6), fibonacci(1) + fibonacci(1)) == (8, 2)


@toil.task
def everything() -> Any:
    return [
        -square(2),
        {"delayed": delayed(sum)([square(2), 5])},
        dask.bag.from_sequence([1, 2, 3], npartitions=2),
        dask.array.ones(4, chunks=2).sum(),
        sum(map(square, [1, 2, 3])),
        map(square, [1, 2, 3]),
        filter(None, [0, 1]),
    ]


def test_collections_at_any_depth_of_a_result_are_computed() -> None:
    assert computed(everything()) == [-4, {"delayed": 9}, [1, 2, 3], 4.0, 14, [1, 4, 9], [1]]


@toil.task
def boxed() -> Any:
    return [Box(square(2)), Box(square(2) + 1)]


def test_objects_in_a_result_get_the_values_of_what_they_hold() -> None:
    assert computed(contents(boxed())) == [4, 5]


@toil.task
def spawns() -> int:
    toil.spawn(square(1) + square(2))
    return 5


def test_collections_may_be_spawned_and_waited_for_and_be_requirements() -> None:
    lazy = dask.bag.from_sequence([2**30])
    assert computed(spawns()) == 5
    assert computed(square.options(after=square(1) + square(2))(3)) == 9
    assert computed(square.options(after=[delayed(len)([1])])(3)) == 9
    assert computed(square.options(cores=square(1) + 0, memory=lazy.sum())(3)) == 9


def test_iterators_that_call_tasks_are_read_when_they_are_passed() -> None:
    assert computed(total(map(square, [1, 2])), total(square(x) for x in [1, 2, 3])) == (5, 14)
    assert computed(map(square, [1, 2])) == [1, 4]


def test_an_iterator_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toilfn.graph.structure._MOST_ITEMS", 1000)
    with pytest.raises(GraphError, match="a map has more than 999 items, or is infinite"):
        total(map(abs, iter(int, 1)))


@pytest.mark.parametrize("make", [square, lambda: square() + 1, lambda: dask.bag.from_sequence([1])])
def test_a_promise_hidden_in_an_object_in_an_argument_is_refused(make: Any) -> None:
    with pytest.raises(
        SerializationError, match="is nested inside an object that toilfn cannot look into; pass it in a list"
    ):
        computed(contents([Box(make())]))


def test_nothing_to_compute_is_nothing() -> None:
    assert computed([]) == []
    assert computed(square(2), [], {}) == (4, [], {})
    with pytest.raises(GraphError, match="contains no promise"):
        computed([1])
    with pytest.raises(GraphError, match="contains no promise"):
        computed(square)


def test_awaiting_a_promise_says_how() -> None:
    async def waits() -> Any:
        return await square(2)

    with pytest.raises(TypeError, match=r"await asyncio\.to_thread"):
        asyncio.run(waits())
