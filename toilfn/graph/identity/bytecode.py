"""The behaviour of a piece of bytecode, without its place: no lines, no file, no docstrings, no comments.

Bytecode rather than source, since what is hashed must be what runs: `docs/decisions` says more.
"""

from __future__ import annotations

import dis
import functools
from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain, pairwise
from types import CodeType
from typing import Any, NamedTuple

from toilfn.graph.identity.canonical import atom, digest
from toilfn.graph.structure import ATOMS

__all__ = ["Analysis", "Import", "analyse"]

_NOT_BEHAVIOUR = frozenset({"__doc__", "__firstlineno__", "__static_attributes__"})
"""Names that class and module bodies store for people."""

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
    """A code object and all code inside of it."""

    digest: bytes
    names: tuple[tuple[str, ...], ...]
    """The global names it reads, each with the attributes taken from it at once: ``("np", "linalg", "norm")``."""
    imports: tuple[Import, ...]
    lookups: tuple[str, ...]
    """Functions it uses that find code or values by names that it computes."""


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
