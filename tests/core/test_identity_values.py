"""Equal values have equal identities, in every process; different ones do not."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import math
import os
import re
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toilfn.errors import SerializationError
from toilfn.graph.identity import arguments_digest, arguments_identity, function_identity, value_identity


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Config:
    x: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: int


class Plain:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Handle:
    def __init__(self, key: str) -> None:
        self.key = key
        self.lock = threading.Lock()

    def __toilfn_identity__(self) -> str:
        return self.key


def values() -> list[Any]:
    """A value of many kinds each; no two are the same."""
    return [
        None, True, False, 0, 1, 2, 1.0, 0.0, -0.0, 1j, "1", b"1", "None", "", b"", math.inf, float("nan"), 10**5000,
        [], (), {}, set(), frozenset(), [1], (1,), {1}, frozenset({1}), {1: 1}, {"1": 1}, [[1]], [(1,)], [1, 2], [2, 1],
        [1, [2]], ["1, 2"], ["1", "2"], [10**5000], "\ud800", bytearray(b"1"), collections.deque([1]),
        collections.OrderedDict(a=1), collections.Counter("a"), collections.defaultdict(list, a=1), Point(1, 2),
        Point(2, 1), Colour.RED, Colour.BLUE, Config(1), Config(2), Config(1, {"a": 1}), Slotted(1), Slotted(2),
        Plain(), Plain(x=1), Plain(x=2), Plain(y=1), Handle("a"), Handle("b"), Path("a"), Path("a/b"),
        dt.datetime.fromisoformat("2020-01-01"),
        dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc), dt.date(2020, 1, 1), dt.time(1), dt.timedelta(1),
        decimal.Decimal("1"), decimal.Decimal("1.0"), uuid.UUID(int=1), range(3), range(0, 3, 2), slice(1), slice(1, 2),
        re.compile("a"), re.compile("a", re.I), ..., NotImplemented, int, Plain, Point, len, str.upper, [].append, math,
        os.path, math.sqrt, object(), np.int64(1), np.int32(1), np.float64(1), np.dtype("int64"),
        np.array(1), np.array([1]), np.array([[1]]), np.array([1.0]), np.array(["a"]), np.array(["a", None], object),
        np.array([], np.int8), np.array([], np.int16), np.array([b"a"]), np.array(["2020-01-01"], "M8[D]"), np.zeros(2,
        [("a", "i1"), ("b", "i8")]), np.array(["a"], np.dtypes.StringDType()), pd.Series([1, 2]), pd.Series([1, 2],
        name="a"), pd.Series([1, 2], index=[1, 2]), pd.Series(["a", None]), pd.Series([1, None]), pd.Series([1, None],
        dtype="Int64"), pd.Series(["a"], dtype="category"), pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}),
        pd.DataFrame({"a": [1], "b": ["x"]}), pd.Index([1]), pd.RangeIndex(3), pd.date_range("2020", periods=2),
        pd.date_range("2020", periods=2, tz="UTC"), pd.Timestamp("2020"), pd.NaT, pd.NA, pd.Interval(1, 2),
        pd.MultiIndex.from_tuples([(1, "a")]), pd.arrays.SparseArray([0, 1]),
    ]  # fmt: skip


def test_different_values_differ() -> None:
    seen: dict[bytes, Any] = {}
    for value in values():
        identity = value_identity(value)
        assert len(identity) == 16
        assert identity not in seen, (value, seen[identity])
        seen[identity] = value


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from test_identity_values import values, value_identity
words = {f"word {i}" for i in range(50)}
sets = [words, dict.fromkeys(words), [[word] for word in sorted(words)], {"k": words, 3: frozenset(words)}]
for value in [*values(), *sets]:
    print(value_identity(value).hex())
"""


def test_equal_values_agree_in_other_processes_with_other_hash_seeds() -> None:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)]
    runs = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, text=True, capture_output=True, check=True)
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(set(runs[0].stdout.split())) == len(values()) + 4


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


def copied(value: Any) -> Any:
    """An equal value that shares no container, with dicts built in the other order."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in reversed(value.items())}
    if isinstance(value, (list, tuple)):
        return type(value)(map(copied, value))
    return value


@settings(max_examples=50)
@given(trees)
def test_a_copy_is_the_same(value: Any) -> None:
    assert value_identity(value) == value_identity(copied(value))


@settings(max_examples=50)
@given(trees, trees)
def test_two_values_are_the_same_only_when_python_writes_them_the_same(first: Any, second: Any) -> None:
    if repr(first) != repr(second) and first != second:
        assert value_identity(first) != value_identity(second)


@given(st.sets(st.text() | st.integers() | st.tuples(st.text(), st.integers())))
def test_the_order_of_a_set_does_not_count(items: set[Any]) -> None:
    other = set()
    for item in sorted(items, key=repr, reverse=True):
        other.add(item)
    assert value_identity(items) == value_identity(other)


def test_sharing_inside_a_value_does_not_count() -> None:
    part = [object(), 1]
    assert value_identity([part, part]) == value_identity([part, [object(), 1]])
    wide: Any = [object()]
    for _ in range(60):  # 2**60 paths
        wide = [wide, wide]
    assert len(value_identity(wide)) == 16


def test_values_that_contain_themselves() -> None:
    def ring(length: int) -> list[Any]:
        start: list[Any] = []
        end = start
        for _ in range(length - 1):
            end = [end]
        start.append(end)
        return start

    assert value_identity(ring(2)) == value_identity(ring(2))
    assert value_identity(ring(2)) != value_identity(ring(3))
    plain = Plain(x=1)
    plain.me = plain
    assert len(value_identity(plain)) == 16


@pytest.mark.parametrize(
    ("depth", "wrap"),
    [
        (100_000, lambda value: [value]),
        (20_000, lambda value: {"k": value}),
        (20_000, lambda value: (0, value)),
        (20_000, lambda value: Plain(x=value)),
    ],
)
def test_nesting_is_limited_by_memory_only(depth: int, wrap: Any) -> None:
    levels: list[Any] = [{}]  # keeps each level, since instances are freed recursively
    for _ in range(depth):
        levels.append(wrap(levels[-1]))
    assert len(value_identity(levels[-1])) == 16
    while levels:
        levels.pop()


def test_the_layout_of_an_array_does_not_count() -> None:
    array = np.arange(24).reshape(4, 6)
    same = [np.asfortranarray(array), array.T.copy().T, np.repeat(array, 2, axis=1)[:, ::2]]
    assert {value_identity(other) for other in same} == {value_identity(array)}
    assert value_identity(array.T) != value_identity(array)
    padded = np.dtype({"names": ["a", "b"], "formats": ["i1", "i8"], "offsets": [0, 8]})
    first, second = np.zeros(2, padded), np.frombuffer(bytearray(b"\xff" * 32), padded)
    second["a"], second["b"] = 0, 0
    assert value_identity(first) == value_identity(second)


def test_the_blocks_of_a_frame_do_not_count() -> None:
    whole = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
    pieced = pd.DataFrame({"a": [1, 2]})
    pieced["b"] = [3, 4]
    assert value_identity(whole) == value_identity(pieced)
    assert value_identity(whole) != value_identity(whole.set_index("a"))
    assert value_identity(whole) != value_identity(whole.astype("int32"))


def test_state_of_unique_objects_counts_as_they_define_it() -> None:
    assert value_identity(Handle("a")) == value_identity(Handle("a"))
    assert value_identity(Path("a//b")) == value_identity(Path("a/b"))
    assert value_identity({"a": Colour.RED}) == value_identity({"a": Colour(1)})


@pytest.mark.parametrize(
    ("value", "place", "kind"),
    [
        (threading.Lock(), r"args\[0\] ", r"_thread\.lock"),
        ([1, {"k": Plain(x=threading.Lock())}], r"args\[0\]\[1\]\['k'\]\.x ", r"_thread\.lock"),
        ({3: (0, threading.Lock())}, r"args\[0\]\[3\]\[1\] ", r"_thread\.lock"),
        ((i for i in range(3)), r"args\[0\] ", "generator"),
        (sys.stdout, r"args\[0\] ", r"TextIOWrapper|EncodedFile|io\."),
    ],
)
def test_a_value_that_cannot_be_identified_is_named_with_its_place(value: Any, place: str, kind: str) -> None:
    with pytest.raises(SerializationError, match=rf"^{place}.*({kind})"):
        arguments_identity((value,), {}, lambda _: b"")


def test_an_encoder_survives_an_error() -> None:
    with pytest.raises(SerializationError, match="argument k"):
        arguments_identity((1,), {"k": [threading.Lock()]}, lambda _: b"")
    assert value_identity([1]) == value_identity([1])


NUMBERS = [10**5000]


def test_integers_of_any_size_may_be_arguments() -> None:
    digests = {
        arguments_digest(args, {}, lambda promise: b"")
        for args in ((10**5000,), (10**5000 + 1,), (-(10**5000),), ([10**5000],), ({10**5000, "a"},))
    }
    assert len(digests) == 5
    digest, parts = arguments_identity((10**5000,), {}, lambda promise: b"")
    assert digest in digests
    assert len(parts["0"]) < 100
    before = function_identity(lambda: NUMBERS).digest
    NUMBERS[0] += 1
    assert function_identity(lambda: NUMBERS).digest != before
