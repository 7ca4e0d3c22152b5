"""Templates of shell commands: parse the placeholders, and build a script for some values.

A value never becomes part of the command's text. The script assigns the value to a variable, and has that variable in
quotes instead of the placeholder. So the shell never interprets a value as code, whatever characters it contains.
"""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from toilfn.errors import InputError

__all__ = ["Field", "Template", "text_of"]

_FIELD = re.compile(r"([A-Za-z_]\w*)(?:\.(name|stem|suffix))?")
_BRACES = "write {{ and }} for braces that are meant for the shell"


@dataclass(frozen=True)
class Field:
    """A placeholder.

    Attributes
    ----------
    name : str
    part : str
        ``"name"``, ``"stem"`` or ``"suffix"`` of a file; empty for the whole value.
    is_quoted : bool
        Whether the placeholder is between double quotes.
    """

    name: str
    part: str
    is_quoted: bool

    def __str__(self) -> str:
        return f"{{{self.name}{'.' * bool(self.part)}{self.part}}}"


class Template:
    """A text with placeholders such as ``{reads}`` and ``{reads.stem}``.

    Parameters
    ----------
    text : str
    is_shell : bool
        Whether the text is a shell command. Then placeholders must be at places where the shell expands variables.

    Raises
    ------
    InputError
        If a placeholder is malformed, or is at a place where its value could not be quoted safely.
    """

    def __init__(self, text: str, *, is_shell: bool = True) -> None:
        self.text = text
        self._pieces = list(_pieces(text, _Quotes() if is_shell else None))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the placeholders without duplicates, in the order of their first use."""
        return tuple(dict.fromkeys(piece.name for piece in self._pieces if isinstance(piece, Field)))

    def filled(self, value: Callable[[Field], list[str]]) -> str:
        """Return the text with each placeholder replaced by its unquoted value; for paths of outputs."""
        return "".join(piece if isinstance(piece, str) else " ".join(value(piece)) for piece in self._pieces)

    def shown(self, value: Callable[[Field], list[str]]) -> str:
        """Return the text with quoted values, as a user could type it in a shell; for messages."""
        return "".join(piece if isinstance(piece, str) else shlex.join(value(piece)) for piece in self._pieces)

    def script(self, value: Callable[[Field], list[str]]) -> str:
        """Return the script: it assigns the values to variables, and then runs the command with these variables."""
        variables: dict[str, str] = {}
        body = "".join(
            piece if isinstance(piece, str) else _variables(piece, value, variables) for piece in self._pieces
        )
        lines = [f"{name}={shlex.quote(text)}\n" for name, text in variables.items()]
        return f"{''.join(lines)}{body}\n"


def _variables(field: Field, value: Callable[[Field], list[str]], variables: dict[str, str]) -> str:
    words = value(field)
    if field.is_quoted and len(words) != 1:
        raise InputError(
            f"{field} is between double quotes and has {len(words)} values", hint="leave the quotes out in the command"
        )
    names = []
    for word in words:
        if "\0" in word:
            raise InputError(f"{field} contains a NUL character, which cannot be part of a command")
        names.append(f"toilfn_{len(variables) + 1}")
        variables[names[-1]] = word
    return f"${{{names[0]}}}" if field.is_quoted else " ".join(f'"${{{name}}}"' for name in names)


def text_of(value: Any, field: Field, path: Callable[[Any], str | None]) -> list[str]:
    """Convert a value to the words that replace a placeholder.

    Parameters
    ----------
    value : object
        A str, a number, a path, a `File` or `Directory`, None for no word, or a list of these.
    field : Field
        The placeholder, whose `part` selects a part of a file's name, and which errors name.
    path : callable
        Returns the local path of a `File` or `Directory`, and None for any other object.

    Raises
    ------
    InputError
        If the value is none of these.
    """
    if isinstance(value, (list, tuple)):
        return [word for item in value for word in text_of(item, field, path)]
    if value is None:
        return []
    if field.part:
        name = getattr(value, "name", None)
        found = PurePath(str(value) if name is None or isinstance(value, PurePath) else name)
        return [getattr(found, field.part)]
    if isinstance(value, (str, PurePath)) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return [str(value)]
    local = path(value)
    if local is None:
        raise InputError(
            f"{field}: a command cannot be passed a {type(value).__name__}", hint="pass a str, path or File"
        )
    return [local]


def _pieces(text: str, quotes: _Quotes | None) -> Iterator[str | Field]:
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise InputError(f"command {text!r:.200}: {error}", hint=_BRACES) from None
    for literal, field, spec, conversion in parsed:
        if literal:
            if quotes is not None:
                quotes.read(literal)
            yield literal
        if field is None:
            continue
        match = _FIELD.fullmatch(field)
        if match is None or spec or conversion:
            raise InputError(f"command {text!r:.200}: {{{field}}} is not a placeholder", hint=_BRACES)
        reason = quotes.refused() if quotes is not None else None
        if reason:
            raise InputError(f"command {text!r:.200}: placeholder {{{field}}} {reason[0]}", hint=reason[1])
        yield Field(match[1], match[2] or "", quotes is not None and quotes.is_double)


class _Quotes:
    """Tracks the quoting of a shell while it reads a command from left to right."""

    def __init__(self) -> None:
        self._open = [""]
        """The open constructs at the current position, outermost first: a quote, a backquote, ``#``, ``((`` or ``(``.

        The first entry, ``""``, stands for the text outside of all of them.
        """
        self._last = ""
        self._document = False
        """Whether ``<<`` has been read."""
        self._begun = False
        """Whether a here-document has begun, at the end of the line with ``<<``."""

    @property
    def is_double(self) -> bool:
        """Whether the current position is between double quotes."""
        return self._open[-1] == '"'

    def refused(self) -> tuple[str, str] | None:
        """Return why a placeholder is not possible at the current position, and a hint; None if it is possible."""
        place = self._open[-1]
        if place in ("'", "$'"):
            return "is between single quotes", "leave the quotes out: toilfn quotes the value"
        if place == "`":
            return "is between backquotes", "write $(...)"
        if place == "((":
            return "is in an arithmetic expression", "set a variable first: n={n}; echo $((n + 1))"
        if self._begun:
            return "is in a here-document", "write the text with printf"
        if self._last == "$":
            return "follows a $", "write ${{name}} for a variable of the shell"
        return None

    def read(self, literal: str) -> None:
        """Read a text without placeholders, up to its end."""
        position = 0
        while position < len(literal):
            position += self._step(literal, position)
        self._last = literal[-1:] if not literal.endswith("\\$") else ""

    def _step(self, text: str, at: int) -> int:
        """Read the construct at an index of a text; return its number of characters."""
        place, letter = self._open[-1], text[at]
        before = text[at - 1] if at else self._last
        if place == "'" or place == "#":
            if letter == ("'" if place == "'" else "\n"):
                self._open.pop()
            return 1
        if letter == "\\":
            return 2
        if place == "$'":
            if letter == "'":
                self._open.pop()
            return 1
        if letter == "\n" and self._document:
            self._begun = True
        if text.startswith("$((", at):
            self._open.append("((")
            return 3
        if text.startswith("$(", at):
            self._open.append("(")
            return 2
        if letter == "`":
            self._close_or_open("`")
            return 1
        if letter == '"':
            self._close_or_open('"')
            return 1
        return 1 if place == '"' else self._outside(text, at, before)

    def _outside(self, text: str, at: int, before: str) -> int:
        """Read a construct that has a meaning only outside of quotes; return its number of characters."""
        place, letter = self._open[-1], text[at]
        if text.startswith("$'", at):
            self._open.append("$'")
            return 2
        if letter == "'":
            self._open.append("'")
        elif letter == "#" and (not before or before.isspace() or before in ";&|("):
            self._open.append("#")
        elif text.startswith("<<<", at):
            return 3
        elif text.startswith("<<", at) and place != "((":
            self._document = True
            return 2
        elif letter == "(":
            self._open.append("(")
        elif place == "((" and text.startswith("))", at):
            self._open.pop()
            return 2
        elif letter == ")" and place == "(":
            self._open.pop()
        return 1

    def _close_or_open(self, mark: str) -> None:
        if self._open[-1] == mark:
            self._open.pop()
        else:
            self._open.append(mark)
