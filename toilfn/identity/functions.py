"""What a function does: its code and all of the user's own code that it leads to.

Functions, classes and modules that are the user's own are *units*. `Reach` starts at one and follows
names, attributes, closures, defaults and imports to all others; each unit adds a part, and the
identity is the digest of all parts together, so units may refer to each other in circles.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import importlib.util
import re
import types
import uuid
from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from toilfn.errors import SerializationError
from toilfn.identity.bytecode import Analysis, Import, analyse
from toilfn.identity.canonical import Encoder, atom, digest
from toilfn.identity.modules import find_own, is_own
from toilfn.structure import ATOMS

__all__ = ["Reach", "part_text"]

_LONGEST_TEXT = 40
"""Longer values are kept as digests in parts."""

_CONSTANTS: tuple[type, ...] = (
    bool, int, float, complex, str, bytes, type(None), PurePath, re.Pattern, enum.Enum, range, uuid.UUID,
    decimal.Decimal, dt.date, dt.time, dt.timedelta, dt.tzinfo,
)  # fmt: skip


class _Module(NamedTuple):
    """A module of the user's own that is used whole."""

    name: str
    file: Path


class Reach:
    """All of the user's own code that an object leads to.

    Parameters
    ----------
    trust_versions : bool
        Whether the version of a task that has one stands for its code, which is then not followed.

    Attributes
    ----------
    parts : dict of str to str
        What was found: digests, and constants that are short as they are written in Python.
    modules : set of str
        Names of the user's modules that are used whole, or imported inside of functions.
    """

    def __init__(self, trust_versions: bool = True) -> None:
        self._trust_versions = trust_versions
        self.parts: dict[str, str] = {}
        self.modules: set[str] = set()
        self._labels: dict[int, str] = {}
        self._taken: set[str] = set()
        self._queue: deque[tuple[Any, str]] = deque()
        # An id is unique only as long as its object lives.
        self._kept: list[Any] = []
        self._encoder = Encoder(_refuse_promise, self._code)

    def follow(self, value: Any) -> bytes:
        """Follow an object whatever it is; give the bytes that stand for it.

        Raises
        ------
        SerializationError
            If it has no identity that outlives the process.
        """
        encoded = self._encoder.encode(value, "the function")
        self.finish()
        return encoded

    def add(self, value: Any) -> bytes | None:
        """Follow an object if it is code or a constant; give the bytes that stand for it, or None."""
        if not _counts(value):
            return None
        if _is_installed_method(value):
            return f"method {_full_name(type(value.__self__))}.{value.__name__}".encode()
        return self._try(value)

    def add_function(self, function: types.FunctionType, name: str) -> None:
        """Follow a function, and keep its body, defaults and closure as parts of their own."""
        self._labels[id(function)] = name
        self.parts["body"] = self._body(function).hex()
        for key, value in _defaults(function):
            self._add_part(f"default {key}", value)
        for key, value in _closure(function):
            self._add_part(f"closure {key}", value)
        self.finish()

    def finish(self) -> None:
        """Follow everything that was found on the way."""
        while self._queue:
            unit, label = self._queue.popleft()
            self.parts[label] = digest(self._content(unit)).hex()

    def _add_part(self, key: str, value: Any) -> None:
        encoded = self._try(value)
        if encoded is not None:
            self.parts[key] = part_text(value, encoded)

    def _try(self, value: Any) -> bytes | None:
        try:
            return self._encoder.encode(value)
        except SerializationError:
            return None

    def _code(self, value: Any) -> bytes:
        """Give what stands for a function, class, module or task, and note it for `finish` if it is the user's own."""
        if isinstance(value, types.ModuleType):
            return self._module(value.__name__).encode()
        if isinstance(value, (type, types.FunctionType)):
            return self._function_or_class(value).encode()
        version = value.settings.get("version")
        if version is not None and self._trust_versions:
            return f"task {_full_name(value)} {version}".encode()
        function = value.__wrapped__
        if isinstance(function, types.FunctionType):
            return self._function_or_class(function).encode()
        # A partial or an object: its encoder is ours, which is busy with the task.
        return Encoder(_refuse_promise, self._code).encode(function)

    def _module(self, name: str) -> str:
        file = find_own(name)
        if file is None:
            return f"installed module {name}"
        self.modules.add(name)
        label = f"module {name}"
        if label not in self._taken:
            self._taken.add(label)
            self._queue.append((_Module(name, file), label))
        return label

    def _function_or_class(self, value: Any) -> str:
        if is_own(value.__module__):
            return self._unit(value)
        # An installed decorator keeps the user's function in a closure.
        cells = [cell for _, cell in _closure(value)] if isinstance(value, types.FunctionType) else []
        own = [cell for cell in cells if isinstance(cell, (types.FunctionType, type)) and is_own(cell.__module__)]
        return "; ".join([f"installed {_full_name(value)}", *map(self._unit, own)])

    def _unit(self, value: Any) -> str:
        label = self._labels.get(id(value))
        if label is None:
            name = f"{'class' if isinstance(value, type) else 'function'} {_full_name(value)}"
            label = next(new for new in _numbered(name) if new not in self._taken)
            self._taken.add(label)
            self._labels[id(value)] = label
            self._kept.append(value)
            self._queue.append((value, label))
        return label

    def _content(self, unit: Any) -> bytes:
        if isinstance(unit, _Module):
            return self._file(unit)
        if isinstance(unit, type):
            return self._class(unit)
        inner = [(key, self._try(value)) for key, value in (*_defaults(unit), *_closure(unit))]
        return self._body(unit) + repr(inner).encode()

    def _body(self, function: types.FunctionType) -> bytes:
        analysis = analyse(function.__code__)
        names = list(self._names(function.__globals__, analysis))
        package = function.__globals__.get("__package__") or ""
        return digest(analysis.digest + repr((names, self._imports(analysis, package))).encode())

    def _names(self, space: dict[str, Any], analysis: Analysis) -> Iterator[tuple[tuple[str, ...], bytes]]:
        """Follow the global names that code reads, through attributes of the user's own modules."""
        for name in analysis.names:
            if name[0] not in space or name[0].startswith("__"):
                continue
            home, value, taken = space.get("__name__", "__main__"), space[name[0]], 1
            while isinstance(value, types.ModuleType) and is_own(value.__name__) and taken < len(name):
                home, value = value.__name__, getattr(value, name[taken], None)
                taken += 1
            encoded = self.add(value)
            if encoded is not None and isinstance(value, (*_CONSTANTS, tuple, frozenset)):
                constant = f"constant {_label_in(home, name[taken - 1])}"
                self.parts[constant] = part_text(value, encoded)
                encoded = constant.encode()
            if encoded is not None:
                yield name[:taken], encoded

    def _imports(self, analysis: Analysis, package: str) -> list[str]:
        return [self._module(name) for name in _imported(analysis.imports, package)]

    def _class(self, cls: type) -> bytes:
        bases = [self._function_or_class(base) for base in cls.__bases__]
        found: list[tuple[str, bytes | None]] = []
        if issubclass(cls, enum.Enum):
            found = [(name, self._try(member.value)) for name, member in cls.__members__.items()]
        for name, value in sorted(vars(cls).items()):
            if _is_behaviour(name, value, cls):
                found.append((name, self.add(value)))
        return repr((bases, found)).encode()

    def _file(self, module: _Module) -> bytes:
        content = module.file.read_bytes()
        if module.file.suffix != ".py":
            return content
        analysis = analyse(compile(content, "<module>", "exec", dont_inherit=True))
        package = module.name if module.file.name == "__init__.py" else module.name.rpartition(".")[0]
        return repr((analysis.digest, self._imports(analysis, package))).encode()


def part_text(value: Any, encoded: bytes) -> str:
    """Write a value for `toilfn explain`: as Python does when that is short, else its digest."""
    if type(value) in ATOMS:
        text = atom(value).decode()
        if len(text) <= _LONGEST_TEXT:
            return text
    return digest(encoded).hex()


def _refuse_promise(promise: Any) -> bytes:
    raise SerializationError(f"{promise!r} is used inside a function: pass it as an argument")


def _counts(value: Any) -> bool:
    """Whether a global or class attribute is part of what code does; what can change while it runs is not."""
    if isinstance(value, (tuple, frozenset)):
        return all(map(_counts, value))
    kind = type(value)
    if isinstance(value, (*_CONSTANTS, types.ModuleType)) or hasattr(kind, "__get__"):
        return True
    if hasattr(kind, "__dask_graph__"):
        return False
    return callable(value) or getattr(getattr(kind, "__dataclass_params__", None), "frozen", False)


def _is_installed_method(value: Any) -> bool:
    """Whether this is a method of an object whose state is no constant, such as the generator of `random.random`."""
    if not isinstance(value, (types.MethodType, types.BuiltinFunctionType)):
        return False
    owner = value.__self__
    return not (owner is None or isinstance(owner, (type, types.ModuleType)) or is_own(type(owner).__module__))


def _is_behaviour(name: str, value: Any, cls: type) -> bool:
    if name.startswith("__") and name.endswith("__"):
        return isinstance(value, (types.FunctionType, staticmethod, classmethod, property))
    return not isinstance(value, cls) or not issubclass(cls, enum.Enum)


def _full_name(value: Any) -> str:
    return _label_in(value.__module__, value.__qualname__)


def _label_in(module: str | None, name: str) -> str:
    """Name something; what the script itself defines has no module's name, as it has none in other processes."""
    return name if module in (None, "__main__", "__mp_main__") else f"{module}.{name}"


def _numbered(name: str) -> Iterator[str]:
    """Give names for objects that have the same one."""
    yield name
    yield from (f"{name} ({number})" for number in count(2))


def _defaults(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    code, defaults = function.__code__, function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True)
    yield from sorted((function.__kwdefaults__ or {}).items())


def _closure(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _imported(imports: tuple[Import, ...], package: str) -> Iterator[str]:
    """List the modules that import statements may load: packages on the way, and items that are modules."""
    for level, name, items in imports:
        try:
            full = importlib.util.resolve_name("." * level + name, package) if level else name
        except ImportError:
            continue
        parts = full.split(".")
        yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        yield from (f"{full}.{item}" for item in items if find_own(f"{full}.{item}") is not None)
