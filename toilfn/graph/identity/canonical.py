"""Canonical bytes of values: the same in every process and on every machine for values that are the same.

A value is described as a `Node`, a tag with children, or as bytes when it has none. The encoder
works through the nodes with a stack of its own, so nesting is limited by memory only, and hashes
each one over its children's bytes.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import io
import os
import random
import re
import sys
import types
import typing
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from toilfn.errors import SerializationError
from toilfn.graph.identity.modules import is_own
from toilfn.graph.structure import ATOMS, is_collection

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ["DIGEST_SIZE", "Encoder", "Node", "TooLargeError", "atom", "digest"]

DIGEST_SIZE = 16
"""Bytes."""

_LARGEST_INT = 10**4000
"""Python refuses to write much larger ones in decimal digits."""

_ALL_ATOMS = ATOMS.issuperset

_MOST_WORK = 300_000.0
"""Values in code that would take longer to encode, about a second, are not compared."""


class TooLargeError(SerializationError):
    """A value would take too long to encode."""


class Node(NamedTuple):
    """The description of a value: its kind and its parts."""

    tag: str
    children: Sequence[Any]
    label: Callable[[int], str] = lambda _: ""
    """Gives a child's place as Python would write it, such as ``[3]`` or ``.name``."""
    unordered: bool = False


def digest(data: bytes) -> bytes:
    """Hash bytes: BLAKE2b, 16 bytes."""
    return blake2b(data, digest_size=DIGEST_SIZE).digest()


def atom(value: Any) -> bytes:
    """Return the canonical bytes of a value whose exact type is in `structure.ATOMS`."""
    if type(value) is int and not -_LARGEST_INT < value < _LARGEST_INT:
        return hex(value).encode()
    return repr(value).encode()


class Encoder:
    """Turns values into canonical bytes; for one call's arguments, or one function.

    Parameters
    ----------
    promise : callable
        Returns the bytes that stand for a promise.
    code : callable
        Returns the bytes that stand for a function, class, module or task.
    file : callable, optional
        Returns what stands for the content of a `pathlib.Path`; without it, a path counts by its text.
    unseen : callable, optional
        Gets the place and the type of each part that has no identity that lasts. Without it such a part is an error.
    """

    def __init__(
        self,
        promise: Callable[[Any], bytes],
        code: Callable[[Any], bytes],
        file: Callable[[Path], str] | None = None,
        unseen: Callable[[str, str], None] | None = None,
    ) -> None:
        self._promise = promise
        self._code = code
        self._file = file
        self._unseen = unseen
        self._left = float("inf") if unseen is None else _MOST_WORK
        self._place = ""
        self._promises = _toilfn_class("graph.promise", "Promise")
        self._frames: list[_Frame] = []
        # Holds the values too: an id is unique only as long as its object lives.
        self._known: dict[int, tuple[Any, bytes]] = {}
        self._open: dict[int, int] = {}

    def encode(self, value: Any, place: str = "the value") -> bytes:
        """Return a value's canonical bytes.

        Parameters
        ----------
        value : object
        place : str
            What to call the value in an error.

        Raises
        ------
        SerializationError
            If something in it has no identity that outlives the process; names its type and its place.
        """
        self._place = place
        if self._unseen is not None:
            self._left = _MOST_WORK
        try:
            return self._run(value)
        except SerializationError:
            raise
        except Exception as error:
            raise SerializationError(
                f"{self._where()} cannot be hashed reproducibly: {error}",
                hint="pass the data it is built from, or create it inside the task",
            ) from error
        finally:
            self._frames.clear()
            self._open.clear()

    def _where(self) -> str:
        return self._place + "".join(frame.node.label(len(frame.encoded)) for frame in self._frames)

    def _run(self, root: Any) -> bytes:
        result = self._enter(root)
        while self._frames:
            frame = self._frames[-1]
            for child in frame.rest:
                encoded = self._enter(child)
                if encoded is None:
                    break
                frame.encoded.append(encoded)
            else:
                result = self._leave()
                if self._frames:
                    self._frames[-1].encoded.append(result)
        assert result is not None
        return result

    def _enter(self, value: Any) -> bytes | None:
        """Return the bytes of a value; or open a frame for it, and return None."""
        kind = type(value)
        if kind in ATOMS:
            return atom(value)
        if kind in self._promises:  # there may be a million of them, and their ids are known already
            return b"\2" + self._promise(value)
        key = id(value)
        if key in self._known:
            return self._known[key][1]
        if key in self._open:
            return b"\0cycle %d" % (len(self._frames) - self._open[key])
        if self._unseen is not None:
            self._spend(value, kind)
        described = (_flat(value, kind) if kind in _FLAT else None) or self._look_into(value, kind)
        if isinstance(described, bytes):
            self._known[key] = value, described
            return described
        if kind is not Node:
            self._open[key] = len(self._frames)
        self._frames.append(_Frame(value, described))
        return None

    def _leave(self) -> bytes:
        frame = self._frames.pop()
        encoded = sorted(frame.encoded) if frame.node.unordered else frame.encoded
        hasher = blake2b(digest_size=DIGEST_SIZE)
        for part in chain((frame.node.tag.encode(),), encoded):
            hasher.update(b"%d:" % len(part))
            hasher.update(part)
        result = b"\0" + hasher.digest()
        if type(frame.value) is not Node:  # a node is met once
            del self._open[id(frame.value)]
            self._known[id(frame.value)] = frame.value, result
        return result

    def _spend(self, value: Any, kind: type) -> None:
        """Count the work of encoding a value; a unit is about three microseconds."""
        if kind in _FLAT:
            self._left -= 1 + len(value) / 20
        else:
            size = getattr(value, "nbytes", 0) if kind.__module__.partition(".")[0] in ("numpy", "pandas") else 0
            self._left -= 1 + size / 3000 if isinstance(size, int) else 1
        if self._left < 0:
            raise TooLargeError(f"{self._place} is too large to be compared")

    def _look_into(self, value: Any, kind: type) -> bytes | Node:
        if self._unseen is None:
            return self._describe(value, kind)
        if not _changes_by_itself(value, kind):
            try:
                return self._describe(value, kind)
            except Exception:
                if is_own(kind.__module__) and hasattr(value, "__dict__"):
                    return _describe_attributes(vars(value), kind)
        name = f"{kind.__module__}.{kind.__qualname__}"
        self._unseen(self._where(), name)
        return b"\3" + name.encode()

    def _describe(self, value: Any, kind: type) -> bytes | Node:
        describe = _DESCRIBE.get(kind)
        if describe is not None:
            return describe(value)
        if kind in _CODE or isinstance(value, (type, *_toilfn_class("graph.task", "Task"))):
            return b"\1" + self._code(value)
        if is_collection(value):  # inside an object, where it is not an argument of its own
            return b"\2" + self._promise(value)
        if _is_proxy(kind):
            return Node(f"proxy {kind.__qualname__}", (value.__wrapped__, getattr(value, "_self_wrapper", None)))
        if self._file is not None and isinstance(value, Path):
            return Node("path", (kind.__name__, str(value), self._file(value)))
        return _describe_other(value, kind)


class _Frame:
    """A value whose children are being encoded."""

    __slots__ = ("encoded", "node", "rest", "value")

    def __init__(self, value: Any, node: Node) -> None:
        self.value = value
        self.node = node
        self.rest: Iterator[Any] = iter(node.children)
        self.encoded: list[bytes] = []


def _toilfn_class(module: str, name: str) -> tuple[type, ...]:
    """Return a class of toilfn, or nothing when its module is not loaded: then there are no instances either."""
    loaded = sys.modules.get(f"toilfn.{module}")
    return () if loaded is None else (getattr(loaded, name),)


def _flat(value: Any, kind: type) -> bytes | None:
    """Encode a container of atoms quickly; None if it contains anything else."""
    if kind is dict:
        if not (_ALL_ATOMS(map(type, value)) and _ALL_ATOMS(map(type, value.values()))):
            return None
    elif not _ALL_ATOMS(map(type, value)):
        return None
    try:
        text = repr(value) if kind is list or kind is tuple else _sorted_text(value, kind)
    except ValueError:  # an int of too many digits
        return None
    return b"\0" + digest(b"flat " + text.encode())


def _sorted_text(value: Any, kind: type) -> str:
    items = value.items() if kind is dict else value
    return kind.__name__ + " " + ", ".join(sorted(map(repr, items)))


def _by_name(item: Any) -> tuple[str, str, int, str]:
    """Order a set in the same way in all processes, as far as its items have names: code is numbered in this order."""
    if type(item) in ATOMS:
        return type(item).__name__, "", 0, atom(item).decode()
    name = getattr(item, "__qualname__", None)
    if not isinstance(item, types.FunctionType):
        return type(item).__qualname__, name if isinstance(name, str) else "", 0, ""
    cells = [content for cell in item.__closure__ or () if type(content := _content(cell)) in ATOMS]
    return "function", item.__qualname__, item.__code__.co_firstlineno, repr(cells)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return ...


def _changes_by_itself(value: Any, kind: type) -> bool:
    """Return whether a value's state comes from the process or from its use: locks, files, random generators."""
    if isinstance(value, (random.Random, io.IOBase, type(os.environ))):
        return True
    module = kind.__module__
    return module.partition(".")[0] in _OF_THE_PROCESS or module.startswith(("numpy.random.", "concurrent.futures."))


_OF_THE_PROCESS = frozenset(
    {"threading", "_thread", "multiprocessing", "queue", "_queue", "socket", "ssl", "subprocess", "weakref", "_weakref",
     "contextvars", "_contextvars", "asyncio", "_asyncio", "selectors", "select", "sqlite3", "mmap", "tempfile"}
)  # fmt: skip


def _by_index(index: int) -> str:
    return f"[{index}]"


def _by_key(keys: Sequence[Any]) -> Callable[[int], str]:
    return lambda index: f"[{keys[index]!r}]"


def _describe_dict(value: dict[Any, Any]) -> Node:
    if _STR_ONLY(map(type, value)):
        # In the order of keys, so that cycles are met in one order too.
        keys = sorted(value)
        return Node(f"dict {keys}", [value[key] for key in keys], _by_key(keys))
    return Node("dict", [Node("pair", pair) for pair in value.items()], _by_key(list(value)), unordered=True)


_STR_ONLY = frozenset({str}).issuperset


def _describe_other(value: Any, kind: type) -> Node:
    own = getattr(kind, "__toilfn_identity__", None)
    if own is not None:
        return Node(f"own {kind.__qualname__}", (own(value),))
    if isinstance(value, PurePath):
        return Node("path", (kind.__name__, str(value)))
    if kind.__module__.partition(".")[0] in ("numpy", "pandas"):
        node = _describe_arrays(value)
        if node is not None:
            return node
    return _describe_reduced(value, kind)


def _describe_reduced(value: Any, kind: type) -> Node:
    """Describe any other object by its pickled form."""
    reducer = copyreg.dispatch_table.get(kind)
    try:
        reduced: Any = reducer(value) if reducer is not None else value.__reduce_ex__(4)
    except Exception as error:
        raise TypeError(f"it is a {kind.__module__}.{kind.__qualname__} ({error})") from error
    if isinstance(reduced, str):
        return Node("global", (getattr(value, "__module__", None), reduced))
    function, arguments, state, items, pairs, setter = [*reduced, None, None, None, None][:6]
    if function is _NEW_OBJECT and len(arguments) == 1 and items is pairs is setter is None and type(state) is dict:
        return _describe_attributes(state, arguments[0])
    children: list[Any] = [function, Node("arguments", arguments), *_describe_state(state), setter]
    if items is not None:
        children.append(Node("items", list(items), _by_index))
    if pairs is not None:
        found = list(pairs)
        nodes = [Node("pair", pair) for pair in found]
        ordered = isinstance(value, OrderedDict)
        children.append(Node("pairs", nodes, _by_key([key for key, _ in found]), unordered=not ordered))
    return Node("object", children)


def _describe_state(state: Any) -> list[Any]:
    """Describe instance attributes, in ``__dict__`` and in slots."""
    parts = state if type(state) is tuple and len(state) == 2 else (state, None)
    return [_describe_attributes(part) if type(part) is dict else part for part in parts]


def _describe_attributes(state: dict[Any, Any], cls: type | None = None) -> Node:
    if not _STR_ONLY(map(type, state)):
        return Node("state", (cls, state))
    names = sorted(state)
    children = (cls, *[state[name] for name in names])
    return Node(f"attributes {names}", children, lambda index: f".{names[index - 1]}")


def _is_proxy(kind: type) -> bool:
    """Return whether a type is a proxy of wrapt, whose objects look like those that they wrap."""
    return any(base.__name__ == "ObjectProxy" for base in kind.__mro__)


def _describe_property(value: property) -> Node:
    return Node("property", (value.fget, value.fset, value.fdel))


def _describe_wrapper(value: Any) -> Node:
    return Node(type(value).__name__, (value.__wrapped__,))


def _describe_builtin(value: Any) -> Node:
    owner = value.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        return Node("builtin", (value.__module__, value.__qualname__))
    return Node("builtin method", (owner, value.__name__))


def _describe_descriptor(value: Any) -> Node:
    return Node("descriptor", (value.__objclass__, value.__name__))


_NEW_OBJECT = object().__reduce_ex__(4)[0]
"""The functions that make instances of classes without a pickling method of their own."""

_FLAT = frozenset({list, tuple, dict, set, frozenset})

_DESCRIBE: dict[type, Callable[[Any], Node]] = {
    Node: lambda value: value,
    list: lambda value: Node("list", value, _by_index),
    tuple: lambda value: Node("tuple", value, _by_index),
    set: lambda value: Node("set", sorted(value, key=_by_name), unordered=True),
    frozenset: lambda value: Node("frozenset", sorted(value, key=_by_name), unordered=True),
    dict: _describe_dict,
    uuid.UUID: lambda value: Node("UUID", (value.int,)),
    property: _describe_property,
    functools.cached_property: lambda value: Node("cached_property", (value.func,)),
    staticmethod: _describe_wrapper,
    classmethod: _describe_wrapper,
    type(functools.lru_cache(len)): _describe_wrapper,
    contextlib._GeneratorContextManager: lambda value: Node("context manager", (value.func, value.args, value.kwds)),
    re.Pattern: lambda value: Node("pattern", (value.pattern, value.flags)),
    functools.partialmethod: lambda value: Node("partialmethod", (value.func, value.args, value.keywords)),
    typing.ForwardRef: lambda value: Node("forward reference", (value.__forward_arg__,)),
    types.MappingProxyType: lambda value: Node("proxy", (dict(value),)),
    types.MethodType: lambda value: Node("method", (value.__func__, value.__self__)),
    types.BuiltinFunctionType: _describe_builtin,
    types.MethodDescriptorType: _describe_descriptor,
    types.WrapperDescriptorType: _describe_descriptor,
    types.ClassMethodDescriptorType: _describe_descriptor,
    types.MemberDescriptorType: lambda value: Node("slot", (value.__name__,)),
    types.GetSetDescriptorType: lambda value: Node("slot", (value.__name__,)),
}

_CODE = frozenset({types.FunctionType, types.ModuleType})


# Values of numpy and pandas: by content, not by layout in memory


def _describe_arrays(value: Any) -> Node | None:
    """Describe a value of numpy or pandas; None when it has no memory layout and can be described by its pickle."""
    import numpy as np

    if type(value) in (np.ndarray, np.memmap):
        return _array(value)
    if isinstance(value, np.generic):
        return Node("scalar", (_array(np.asarray(value)),))
    return _describe_pandas(value) if "pandas" in sys.modules else None


def _array(array: np.ndarray[Any, Any]) -> Node:
    if array.dtype.names is not None:  # between the fields there may be bytes that mean nothing
        return Node("structured", (array.dtype, *(_array(array[name]) for name in array.dtype.names)))
    if array.dtype.kind in "OT":
        return Node("objects", (array.dtype, array.shape, Node("items", array.ravel().tolist())))
    return Node("ndarray", (array.dtype.str, array.shape, _bytes_of(array)))


def _bytes_of(array: np.ndarray[Any, Any]) -> bytes:
    import numpy as np

    content = blake2b(digest_size=DIGEST_SIZE)
    if array.size and array.dtype.itemsize:
        content.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return content.digest()


def _describe_pandas(value: Any) -> Node | None:
    import pandas as pd

    if type(value) is pd.DataFrame:
        columns = [value.iloc[:, i].array for i in range(value.shape[1])]
        return Node("DataFrame", (value.columns, value.index, value.attrs, *columns))
    if type(value) is pd.Series:
        return Node("Series", (value.name, value.index, value.attrs, value.array))
    if isinstance(value, pd.Index):
        return _index(value)
    if isinstance(value, pd.api.extensions.ExtensionArray):
        return _extension_array(value)
    return None


def _index(index: pd.Index[Any]) -> Node:
    import pandas as pd

    if isinstance(index, pd.RangeIndex):
        return Node("RangeIndex", (list(index.names), index.start, index.stop, index.step))
    names = list(index.names)
    if isinstance(index, pd.MultiIndex):
        return Node("MultiIndex", (names, *(index.get_level_values(i) for i in range(index.nlevels))))
    return Node("Index", (type(index).__name__, names, getattr(index, "freqstr", None), index.array))


def _extension_array(array: Any) -> Node:
    import pandas as pd

    kind = str(array.dtype)
    if isinstance(array, pd.Categorical):
        return Node("Categorical", (array.codes, array.categories, array.ordered))
    if isinstance(array, pd.arrays.NumpyExtensionArray):
        return Node("Numpy", (array.to_numpy(),))
    if hasattr(array, "asi8"):
        return Node("Times", (kind, array.asi8))
    return Node("Extension", (kind, array.astype(object).tolist()))
