"""Identities of calls."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from toilfn import task
from toilfn.graph.identity import arguments_identity, lineage, task_id, value_identity
from toilfn.graph.promise import Promise

atoms = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
arguments = st.lists(atoms | st.lists(atoms)).map(tuple)


def no_promise(promise: Any) -> bytes:
    raise AssertionError("there are no promises")


def by_number(promises: list[Promise]) -> Callable[[Promise], bytes]:
    places = {id(promise): b"%016d" % i for i, promise in enumerate(promises)}
    return lambda promise: places[id(promise)]


@task
def f(x: Any, y: Any = None) -> Any:
    return x


def identity(args: tuple[Any, ...]) -> bytes:
    return arguments_identity(args, {}, no_promise)[0]


@given(arguments)
def test_equal_arguments_have_one_identity(args: tuple[Any, ...]) -> None:
    assert identity(args) == identity(pickle.loads(pickle.dumps(args)))


@given(arguments, atoms, st.data())
def test_calls_differ_when_one_argument_does(args: tuple[Any, ...], other: Any, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(args)))
    changed = (*args[:place], other, *args[place + 1 :])
    assume(repr(changed) != repr(args))
    assert identity(changed) != identity(args)
    assert identity((*args, other)) != identity(args)


@pytest.mark.parametrize(
    ("args", "kwargs", "parts"),
    [
        ((), {}, {}),
        ((3, "a"), {}, {"0": "3", "1": "'a'"}),
        ((3,), {"y": 1.5}, {"0": "3", "y": "1.5"}),
        (("x" * 100,), {}, {"0": "digest"}),
        (([1, 2],), {"y": None}, {"0": "digest", "y": "None"}),
    ],
)
def test_parts_show_short_values(args: tuple[Any, ...], kwargs: dict[str, Any], parts: dict[str, str]) -> None:
    digest, found = arguments_identity(args, kwargs, no_promise)
    assert len(digest) == 16
    shown = {key: "digest" if len(part) == 32 else part for key, part in found.items()}
    assert shown == parts


def test_the_order_of_keywords_does_not_count_but_their_names_do() -> None:
    def digest(*args: Any, **kwargs: Any) -> bytes:
        return arguments_identity(args, kwargs, no_promise)[0]

    assert digest(x=1, y=2) == digest(y=2, x=1)
    different = [digest(x=1, y=2), digest(x=2, y=1), digest(1, y=2), digest(1, 2), digest((1, 2)), digest([1, 2])]
    assert len(set(different)) == len(different)


def test_promises_count_by_the_ids_of_their_tasks() -> None:
    one, two = f(1), f(2)
    number = by_number([one, two])

    def digest(*args: Any) -> bytes:
        return arguments_identity(args, {}, number)[0]

    assert digest([one, 5]) == digest([one, 5])
    different = [digest(one), digest(two), digest([one]), digest(one, two), digest(two, one), digest({"a": one})]
    assert len(set(different)) == len(different)
    assert arguments_identity((one,), {}, number)[1].keys() == {"0"}


def test_a_task_as_argument_counts_by_what_it_does() -> None:
    def make(version: str | None, add: int) -> Any:
        return task(version=version)(lambda x: x + add)

    assert value_identity(make(None, 1)) != value_identity(make(None, 2))
    assert value_identity(make("1", 1)) == value_identity(make("1", 2))
    assert value_identity(make("1", 1)) != value_identity(make("2", 1))


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16), st.integers(0, 10**9))
def test_every_part_of_an_id_counts(one: bytes, two: bytes, ordinal: int) -> None:
    ids = [task_id(one, two, b"", ordinal), task_id(one, two, one, ordinal), task_id(one, two, b"", ordinal + 1)]
    lines = [lineage(b"", "f", one, ordinal), lineage(one, "f", one, ordinal), lineage(b"", "g", one, ordinal)]
    assert len(set(ids + lines)) == 6
    assert task_id(one, two, b"", ordinal) == ids[0]
    assert {len(id) for id in ids + lines} == {16}
