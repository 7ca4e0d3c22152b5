"""Identify the behaviour of a function: its code, and all of the user's own code that it uses.

Functions, classes and modules that are the user's own are *units*. `Reach` starts at one and follows names,
attributes, closures, defaults and imports to all others; each unit adds a part, and the identity is the digest of all
parts together, so units may refer to each other in circles.
"""

from __future__ import annotations

import datetime as dt
import decimal
import dis
import enum
import functools
import importlib.util
import os
import re
import sys
import types
import uuid
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain, count, pairwise
from pathlib import Path, PurePath
from types import CodeType
from typing import Any, NamedTuple

from toilfn.errors import SerializationError
from toilfn.graph.identity.canonical import Encoder, TooLargeError, atom, digest
from toilfn.graph.identity.modules import file_of, find_own, is_made_in_memory, is_own, is_singledispatch, read_own
from toilfn.graph.structure import ATOMS

__all__ = ["NOT_COMPARED", "Analysis", "Import", "Reach", "analyse", "part_text"]

_NOT_BEHAVIOUR = frozenset({"__doc__", "__firstlineno__", "__static_attributes__"})
"""Names in the bodies of classes and modules that are for human readers."""

_IGNORED = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "RESUME"})
_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_ATTRIBUTE = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_CONSTANT = frozenset(dis.hasconst)
_IMPORTERS = ("__import__", "import_module")
_BUILTIN_LOOKUPS = ("eval", "exec", "globals")
_JUMP = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
_CALL_FLAGS = 0x04 | 0x08 | 0x20 | 0x80 | 0x100 | 0x200
"""Variable arguments, generator, coroutine: the rest of ``co_flags`` is the compiler's."""


class Import(NamedTuple):
    """An import statement."""

    level: int
    """How many dots it begins with."""
    name: str
    items: tuple[str, ...]
    """The names after ``import`` in ``from name import ...``."""


class Analysis(NamedTuple):
    """The names in a code object and in all code inside it."""

    digest: bytes
    names: tuple[tuple[str, ...], ...]
    """The global names it reads, each with the attributes taken from it at once: ``("np", "linalg", "norm")``."""
    imports: tuple[Import, ...]
    lookups: tuple[str, ...]
    """Functions it uses that find code or values by computed names."""


@functools.lru_cache(4096)
def analyse(code: CodeType) -> Analysis:
    """Read bytecode, once for each code object."""
    instructions = [found for found in dis.get_instructions(code) if found.opname not in _IGNORED]
    nested = [analyse(found.argval) for found in instructions if isinstance(found.argval, CodeType)]
    names = chain(_names(instructions), *(inner.names for inner in nested))
    imports = chain(_imports(instructions), *(inner.imports for inner in nested))
    lookups = chain(_lookups(instructions), *(inner.lookups for inner in nested))
    found = (tuple(dict.fromkeys(names)), tuple(dict.fromkeys(imports)), tuple(dict.fromkeys(lookups)))
    return Analysis(_digest(code, instructions), *found)


def _digest(code: CodeType, instructions: list[dis.Instruction]) -> bytes:
    arguments = code.co_argcount + code.co_kwonlyargcount
    head = (
        code.co_name, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _CALL_FLAGS,
        code.co_varnames[:arguments], getattr(code, "co_exceptiontable", b""),
    )  # fmt: skip
    for_people = {
        offset
        for first, second in pairwise(instructions)
        if second.opname == "STORE_NAME" and second.argval in _NOT_BEHAVIOUR
        for offset in (first.offset, second.offset)
    }
    kept = [instruction for instruction in instructions if instruction.offset not in for_people]
    offsets = [instruction.offset for instruction in kept]
    lines = [repr(head).encode()]
    for instruction in kept:
        value = _argument(instruction, offsets)
        lines.append(b"%s %d:%s" % (instruction.opname.encode(), len(value), value))
    return digest(b"\n".join(lines))


def _argument(instruction: dis.Instruction, offsets: list[int]) -> bytes:
    if instruction.opcode in _CONSTANT:
        return _constant(instruction.argval)
    if instruction.opcode in _JUMP:  # counted in instructions, since what a layout of lines adds is not among them
        return b"%d" % bisect_left(offsets, instruction.argval)
    return str(instruction.argval).encode()


def _constant(value: Any) -> bytes:
    if isinstance(value, CodeType):
        return analyse(value).digest
    if isinstance(value, tuple):
        return b"(" + b",".join(map(_constant, value)) + b")"
    if isinstance(value, frozenset):
        return b"{" + b",".join(sorted(map(_constant, value))) + b"}"
    return atom(value) if type(value) in ATOMS else repr(value).encode()


def _names(instructions: list[dis.Instruction]) -> Iterator[tuple[str, ...]]:
    for position, instruction in enumerate(instructions):
        if instruction.opname in _GLOBAL:
            end = position + 1
            while end < len(instructions) and instructions[end].opname in _ATTRIBUTE:
                end += 1
            yield tuple(found.argval for found in instructions[position:end])


def _imports(instructions: list[dis.Instruction]) -> Iterator[Import]:
    for position, instruction in enumerate(instructions):
        if instruction.opname == "IMPORT_NAME":
            level, items = (found.argval for found in instructions[position - 2 : position])
            yield Import(level, instruction.argval, items or ())
        elif (name := _imported_by_call(instructions, position)) is not None:
            yield Import(len(name) - len(name.lstrip(".")), name.lstrip("."), ())


def _imported_by_call(instructions: list[dis.Instruction], position: int) -> str | None:
    """Return the constant name in a call of `import_module` or `__import__` that begins here; None if there is none."""
    if instructions[position].argval not in _IMPORTERS or instructions[position].opname not in _GLOBAL | _ATTRIBUTE:
        return None
    following = (found for found in instructions[position + 1 :] if found.opname != "PUSH_NULL")
    argument = next(following, None)
    is_name = argument is not None and argument.opcode in _CONSTANT and isinstance(argument.argval, str)
    return argument.argval if argument is not None and is_name else None


def _lookups(instructions: list[dis.Instruction]) -> Iterator[str]:
    for position, instruction in enumerate(instructions):
        name, before = instruction.argval, instructions[position - 1].argval if position else None
        is_global, is_attribute = instruction.opname in _GLOBAL, instruction.opname in _ATTRIBUTE
        if (is_global and name in _BUILTIN_LOOKUPS) or (is_attribute and name == "__subclasses__"):
            yield name
        elif is_attribute and (before, name) == ("sys", "modules"):
            yield "sys.modules"
        elif (is_global or is_attribute) and name in _IMPORTERS and not _imported_by_call(instructions, position):
            yield name


_NOTHING: Mapping[str, str] = {}

_LONGEST_TEXT = 40
"""Longer values are kept as digests in parts."""

_CONSTANTS: tuple[type, ...] = (
    bool, int, float, complex, str, bytes, type(None), PurePath, re.Pattern, enum.Enum, range, uuid.UUID,
    decimal.Decimal, dt.date, dt.time, dt.timedelta, dt.tzinfo,
)  # fmt: skip


NOT_COMPARED = "not compared "
"""How the names of the parts begin that say what could not be examined; these parts are not in a digest."""

_OF_PYTHON = frozenset(
    {"__name__", "__file__", "__package__", "__spec__", "__loader__", "__builtins__", "__cached__", "__path__",
     "__dict__"}
)  # fmt: skip
"""Names that Python puts into each module, which say where it is and not what it does."""

_METHODS = (
    types.FunctionType, staticmethod, classmethod, property, functools.partial, functools.partialmethod,
    functools.singledispatchmethod, functools.cached_property, type(functools.lru_cache(len)), *_CONSTANTS, tuple,
    frozenset,
)  # fmt: skip
"""Types of special methods, and of constants such as `__match_args__`, which count in a class like any other name."""

_NOTES = frozenset(
    {"__module__", "__qualname__", "__doc__", "__firstlineno__", "__static_attributes__", "__abstractmethods__"}
)
"""Constants that Python puts into each class."""

_FIELDS = (
    "__annotations__", "__dataclass_fields__", "__attrs_attrs__", "__pydantic_fields__", "__private_attributes__",
    "__struct_defaults__", "__struct_config__",
)  # fmt: skip
"""Where libraries keep the types, defaults, converters and constraints that a class gives its fields."""

_CODE = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
"""Types whose objects need no part of their own where a name leads to them."""


class _Module(NamedTuple):
    """A module of the user's own that is used whole."""

    name: str
    file: Path | None
    """None for a module that was made in memory."""
    namespace: dict[str, Any]


class Reach:
    """Collects all of the user's own code that an object uses.

    Parameters
    ----------
    trust_versions : bool
        Whether the version of a task that has one stands for its code, which is then not followed.
    fixed : mapping of str to str
        Parts that are known already, by their names: values and classes of modules, as they were when the graph was
        built. The tasks that have run here since may have changed them.
    values : dict, optional
        Substitutes for values that hold no code, by their ids; added to.

    Attributes
    ----------
    parts : dict of str to str
        The parts found: digests, and short constants as they are written in Python.
    modules : set of str
        Names of the user's modules that are used whole, or imported inside of functions.
    """

    def __init__(
        self,
        trust_versions: bool = True,
        fixed: Mapping[str, str] = _NOTHING,
        values: dict[int, tuple[Any, bytes]] | None = None,
    ) -> None:
        self._trust_versions = trust_versions
        self._fixed = fixed
        self._values = {} if values is None else values
        self._follows = 0
        self._is_quiet = False
        self.parts: dict[str, str] = {}
        self.modules: set[str] = set()
        self._labels: dict[int, str] = {}
        self._taken: set[str] = set()
        self._queue: deque[tuple[Any, str]] = deque()
        # An id is unique only as long as its object lives.
        self._kept: list[Any] = []
        self._encoder = Encoder(_refuse_promise, self._code, unseen=self._note)

    def follow(self, value: Any) -> bytes:
        """Follow any object, and return the bytes that stand for it.

        Raises
        ------
        SerializationError
            If it has no identity that outlives the process.
        """
        encoded = Encoder(_refuse_promise, self._code).encode(value, "the function")
        self.finish()
        return encoded

    def add(self, value: Any, place: str) -> bytes:
        """Follow a value that code reads; return the bytes that stand for it.

        Parameters
        ----------
        value : object
            Code, or anything that leads to code, or a plain value.
        place : str
            The name for the value in a message if it, or a part of it, cannot be examined.
        """
        if type(value) in ATOMS:
            return atom(value)
        if _is_installed_method(value):
            return f"method {_full_name(type(value.__self__))}.{value.__name__}".encode()
        known = self._values.get(id(value))
        if known is not None:
            return known[1]
        before = self._follows
        try:
            encoded = self._encoder.encode(value, place)
        except TooLargeError:
            self._note(place, f"a {type(value).__name__} that is too large")
            encoded = b"\3too large"
        except SerializationError:
            self._note(place, f"a {type(value).__name__}")
            encoded = b"\3"
        if self._follows == before:
            self._values[id(value)] = value, encoded
        return encoded

    def _note(self, place: str, what: str) -> None:
        """Note an object that could not be examined, unless it belongs to an installed decorator."""
        self._follows += 1  # another function has to note this, too
        if not self._is_quiet:
            self.parts[NOT_COMPARED + place] = what

    def add_function(self, function: types.FunctionType, name: str) -> None:
        """Follow a function, and keep its body, defaults and closure as parts of their own."""
        self._labels[id(function)] = name
        self.parts["body"] = self._body(function, name).hex()
        self._is_quiet = _is_of_installed_code(function)
        for kind, found in (("default", _defaults(function)), ("closure", _closure(function))):
            for key, value in found:
                self.parts[f"{kind} {key}"] = part_text(value, self.add(value, f"{key} of {name}"))
        self.finish()

    def finish(self) -> None:
        """Follow all objects that were found on the way."""
        while self._queue:
            unit, label = self._queue.popleft()
            self._is_quiet = isinstance(unit, types.FunctionType) and _is_of_installed_code(unit)
            content = digest(self._content(unit, label)).hex()
            self.parts[label] = self._before(label, content) if isinstance(unit, type) else content

    def _before(self, label: str, now: str) -> str:
        """Return a part as it was when the graph was built, if its name is unambiguous."""
        if "<locals>" in label or f"{label} (2)" in self._fixed:
            return now
        return self._fixed.get(label, now)

    def _code(self, value: Any) -> bytes:
        """Return the node of a function, class, module or task, and note it for `finish` if it is the user's own."""
        self._follows += 1
        if isinstance(value, types.ModuleType):
            return self._module(value.__name__, value).encode()
        if isinstance(value, (type, types.FunctionType)):
            return self._function_or_class(value).encode()
        version = value.settings.get("version")
        if version is not None and self._trust_versions:
            return f"task {_full_name(value)} {version}".encode()
        function = value.__wrapped__
        if isinstance(function, types.FunctionType):
            return self._function_or_class(function).encode()
        # A partial or an object: its encoder is ours, which is busy with the task.
        return Encoder(_refuse_promise, self._code, unseen=self._note).encode(function, _full_name(value))

    def _module(self, name: str, module: types.ModuleType | None = None) -> str:
        file = file_of(module) if module is not None and sys.modules.get(name) is not module else find_own(name)
        module = module or sys.modules.get(name)
        if file is None and (module is None or not is_made_in_memory(module)):
            return f"installed module {name}"
        self.modules.add(name)
        label = f"module {name}"
        if label not in self._taken:
            self._taken.add(label)
            self._queue.append((_Module(name, file, vars(module) if module else {}), label))
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

    def _content(self, unit: Any, label: str) -> bytes:
        name = label.partition(" ")[2]
        if isinstance(unit, _Module):
            return self._file(unit)
        if isinstance(unit, type):
            return self._class(unit, name)
        if is_singledispatch(unit):
            chosen = sorted(unit.registry.items(), key=lambda item: _full_name(item[0]))
            return repr([(self._function_or_class(kind), self.add(made, name)) for kind, made in chosen]).encode()
        inner = [(key, self.add(value, f"{key} of {name}")) for key, value in (*_defaults(unit), *_closure(unit))]
        if self._is_quiet and (hints := getattr(unit, "__annotations__", None)):
            inner.append(("annotations", self.add(hints, f"annotations of {name}")))
        return self._body(unit, name) + repr(inner).encode()

    def _body(self, function: types.FunctionType, label: str) -> bytes:
        analysis = analyse(function.__code__)
        for lookup in analysis.lookups:
            if lookup not in function.__globals__:
                self._note(f"{lookup} in {label}", "what it leads to")
        names = list(self._names(function.__globals__, analysis))
        package = function.__globals__.get("__package__") or ""
        return digest(analysis.digest + repr((names, self._imports(analysis, package))).encode())

    def _names(self, space: dict[str, Any], analysis: Analysis) -> Iterator[tuple[tuple[str, ...], bytes]]:
        """Follow the global names that code reads, through attributes of the user's own modules."""
        for name in analysis.names:
            if name[0] not in space or name[0] in _OF_PYTHON:
                continue
            home, value, taken = space.get("__name__", "__main__"), space[name[0]], 1
            while taken < len(name) and name[taken] not in _OF_PYTHON and _has_own_names(value):
                home, value = value.__name__, getattr(value, name[taken], None)
                taken += 1
            if self._is_quiet and not (callable(value) or isinstance(value, (*_CONSTANTS, types.ModuleType))):
                continue  # a library keeps what it likes in its modules
            full = _label_in(home, name[taken - 1])
            yield name[:taken], self._named(full, value)
            if taken == len(name):
                continue
            if name[taken] == "__doc__":  # a docstring counts only where code reads it
                yield name[: taken + 1], repr(getattr(value, "__doc__", None)).encode()
            elif type(value) is types.FunctionType and name[taken] in vars(value):
                yield name[: taken + 1], self._named(f"{full}.{name[taken]}", vars(value)[name[taken]])

    def _named(self, name: str, value: Any) -> bytes:
        """Follow the object that a global name stands for; values are parts of their own."""
        encoded = self.add(value, name)
        if isinstance(value, (*_CODE, *_task_classes())) or _is_installed_method(value):
            return encoded
        if isinstance(value, Path) and os.path.isfile(value):
            self._note(name, "the content of a file: pass the path as an argument")
        label = f"{'constant' if isinstance(value, (*_CONSTANTS, tuple, frozenset)) else 'value'} {name}"
        self.parts[label] = self._before(label, _shown(value, encoded))
        return label.encode()

    def _imports(self, analysis: Analysis, package: str) -> list[str]:
        return [self._module(name) for name in _imported(analysis.imports, package)]

    def _class(self, cls: type, label: str) -> bytes:
        bases = [self._function_or_class(base) for base in (*cls.__bases__, *_own_metaclass(cls))]
        found: list[tuple[str, bytes]] = []
        if issubclass(cls, enum.Enum):
            found = [(name, self.add(member.value, f"{label}.{name}")) for name, member in cls.__members__.items()]
        for name, value in sorted(vars(cls).items()):
            if _is_behaviour(name, value, cls):
                found.append((name, self.add(value, f"{label}.{name}")))
        self._is_quiet = True
        found += [(name, self.add(vars(cls)[name], label)) for name in _FIELDS if vars(cls).get(name)]
        return repr((bases, found)).encode()

    def _file(self, module: _Module) -> bytes:
        if module.file is None:
            names = sorted(name for name in module.namespace if not name.startswith("__"))
            return repr([(name, self.add(module.namespace[name], f"{module.name}.{name}")) for name in names]).encode()
        content = read_own(module.file)
        if module.file.suffix != ".py":
            return content
        analysis = analyse(compile(content, "<module>", "exec", dont_inherit=True))
        package = module.name if module.file.name == "__init__.py" else module.name.rpartition(".")[0]
        return repr((analysis.digest, self._imports(analysis, package))).encode()


def part_text(value: Any, encoded: bytes) -> str:
    """Write a value for `toilfn explain`: its `repr` if that is short, otherwise its digest."""
    if type(value) in ATOMS:
        text = atom(value).decode()
        if len(text) <= _LONGEST_TEXT:
            return text
    return digest(encoded).hex()


def _refuse_promise(promise: Any) -> bytes:
    raise SerializationError(f"{promise!r} is used inside a function", hint="pass it as an argument")


def _shown(value: Any, encoded: bytes) -> str:
    """Write a value of a module as `part_text` does, and short plain lists and tables as they are."""
    kind = type(value)
    try:
        if kind in (list, tuple) and ATOMS.issuperset(map(type, value)):
            text = repr(value)
        elif kind is dict and ATOMS.issuperset(map(type, (*value, *value.values()))):
            text = "{" + ", ".join(sorted(f"{key!r}: {item!r}" for key, item in value.items())) + "}"
        else:
            return part_text(value, encoded)
    except ValueError:  # an integer of too many digits
        return digest(encoded).hex()
    return text if len(text) <= _LONGEST_TEXT else digest(encoded).hex()


def _has_own_names(value: Any) -> bool:
    """Return whether this is a module of the user's own, whose names are followed one by one."""
    if not isinstance(value, types.ModuleType):
        return False
    return is_own(value.__name__) if sys.modules.get(value.__name__) is value else file_of(value) is not None


def _task_classes() -> tuple[type, ...]:
    loaded = sys.modules.get("toilfn.graph.task")
    return () if loaded is None else (loaded.Task,)


def _is_of_installed_code(function: types.FunctionType) -> bool:
    return not is_own(function.__globals__.get("__name__"))


def _own_metaclass(cls: type) -> tuple[type, ...]:
    return (type(cls),) if is_own(type(cls).__module__) else ()


def _is_installed_method(value: Any) -> bool:
    """Return whether this is a method of an object whose state changes, such as the generator of `random.random`."""
    if not isinstance(value, (types.MethodType, types.BuiltinFunctionType)):
        return False
    owner = value.__self__
    return not (owner is None or isinstance(owner, (type, types.ModuleType)) or is_own(type(owner).__module__))


def _is_behaviour(name: str, value: Any, cls: type) -> bool:
    if name.startswith("__") and name.endswith("__"):
        return name not in _NOTES and not name.startswith("__pydantic_") and isinstance(value, _METHODS)
    if name == "_abc_impl" or (issubclass(cls, enum.Enum) and name.startswith("_") and name.endswith("_")):
        return False
    return not isinstance(value, cls) or not issubclass(cls, enum.Enum)


def _full_name(value: Any) -> str:
    return _label_in(value.__module__, value.__qualname__)


def _label_in(module: str | None, name: str) -> str:
    """Name an object; the script's own objects have no module name, as in other processes."""
    return name if module in (None, "__main__", "__mp_main__") else f"{module}.{name}"


def _numbered(name: str) -> Iterator[str]:
    """Return distinct names for objects that have the same name."""
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
