"""Says what in a value cannot be stored, where it is, and what to do."""

from __future__ import annotations

import dataclasses
import io
import types
from collections.abc import Iterator
from typing import Any

from toilfn.errors import SerializationError
from toilfn.graph.serialize import dumps

__all__ = ["explained"]

_ADVICE: dict[type, str] = {
    types.GeneratorType: "return a list instead",
    types.CoroutineType: "run the coroutine inside the task, an ordinary function, and return its result",
    io.IOBase: "return the content, or a File created by toilfn.write_file",
}


def explained(error: SerializationError, value: Any, task: str) -> SerializationError:
    """Describe why the value of a task cannot be stored.

    Parameters
    ----------
    error : SerializationError
        How storing it failed.
    value : object
        The value that the task returned.
    task : str
        The task's name.

    Returns
    -------
    SerializationError
        With a text such as ``"the value of task f cannot be stored: value['rows'][3] is a generator: return a list
        instead"``; the same error when the value by itself could be stored.
    """
    if _is_storable(value):
        return error
    place, culprit = _find("value", value)
    kind = type(culprit)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    advice = next((text for base, text in _ADVICE.items() if isinstance(culprit, base)), str(error))
    return SerializationError(f"the value of task {task} cannot be stored: {place} is a {name}: {advice}")


def _find(place: str, value: Any) -> tuple[str, Any]:
    """Go down to the innermost part that cannot be stored."""
    seen = {id(value)}
    while True:
        for part_place, part in _parts(place, value):
            if id(part) not in seen and not _is_storable(part):
                seen.add(id(part))
                place, value = part_place, part
                break
        else:
            return place, value


def _is_storable(value: Any) -> bool:
    try:
        dumps(value, lambda _: b"")
    except SerializationError:
        return False
    return True


def _parts(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{place}[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{place}[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f"{place}, an item", item) for item in value)
    elif dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        yield from ((f"{place}.{name}", item) for name, item in vars(value).items())
