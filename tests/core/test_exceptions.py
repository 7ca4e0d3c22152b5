"""Exceptions as values of tasks: they come back as they were, whatever their classes take."""

from __future__ import annotations

import copyreg
import pickle
from typing import Any

import pytest

import toilfn as toil
from toilfn.errors import SerializationError
from toilfn.graph.serialize import dumps, loads, resolve


class NoRoomError(ValueError):
    def __init__(self, room: str, *, wanted: int) -> None:
        super().__init__(f"no room {room}")
        self.wanted = wanted


class NoFileError(OSError):
    def __init__(self, name: str) -> None:
        super().__init__(2, "not there", name)


class OwnWayError(Exception):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code

    def __reduce__(self) -> Any:
        return OwnWayError, (self.code, str(self))


def back(value: Any) -> Any:
    return loads(dumps(value)[0], {})


def test_an_exception_is_returned_whatever_arguments_its_class_takes() -> None:
    room, file, own = back([NoRoomError("x", wanted=3), NoFileError("a.txt"), OwnWayError(4, "why")])
    assert (type(room), str(room), room.wanted) == (NoRoomError, "no room x", 3)
    assert (type(file), file.filename, file.errno) == (NoFileError, "a.txt", 2)
    assert (own.code, str(own)) == (4, "why")


def test_exceptions_of_python_keep_their_attributes_where_distributed_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    support = pytest.importorskip("tblib.pickling_support")
    for kind in (SystemExit, KeyError):
        monkeypatch.setitem(copyreg.dispatch_table, kind, support.pickle_exception)
    found = back([SystemExit(3), KeyError("k"), UnicodeDecodeError("utf8", b"x", 0, 1, "why")])
    assert (found[0].code, found[1].args, found[2].reason) == (3, ("k",), "why")


class Broken:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_a_value_that_cannot_be_loaded_is_named_with_its_task() -> None:
    task = bytes(range(16))
    with pytest.raises(SerializationError, match="the value of task 000102030405 was stored, but it cannot be loaded"):
        resolve([task], {task: (pickle.dumps(Broken()), ())})


@toil.task
def three() -> int:
    return 3


PROMISE = three()


@toil.task
def hidden(x: int, y: Any = PROMISE) -> Any:
    return x + y


def test_a_promise_that_is_a_default_is_refused_with_one_advice() -> None:
    with pytest.raises(SerializationError, match="pass it to a task as an argument of the call") as caught:
        toil.compute(hidden.options(name="other")(1), cluster="inline", progress=False)
    assert "create such objects" not in str(caught.value)
