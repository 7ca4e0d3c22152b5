"""Extend the syntax that miniwdl accepts, and make syntax errors readable.

- ``Object`` is also a type in draft-2, with literals ``object { ... }`` (draft-2, "Object Literals").
- An expression can begin with a minus (draft-2 to 1.2, "Operator Precedence Table"; draft-2 and 1.0: also a plus).
- An Int can be hexadecimal (draft-2 and 1.0, "Whitespace, Strings, Identifiers, Constants").
- Metadata can contain ``null`` (1.0 "Parameter Metadata Section", 1.1 and 1.2 "Metadata Sections").
- The version can be on another line than the word ``version``, and be followed by a comment.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from typing import Any

import lark
from WDL import Error, _grammar, _parser

from toilfn.files.downloads import CachedFile

__all__ = ["Unexpected", "extend_grammars", "parse", "with_plain_version"]

_TYPES = '"Array" | "Map" | "Pair"'
_OBJECT = ' | "Object"'
_LITERAL = '| "object" "{" [object_kv ("," object_kv)* ","?] "}" -> obj'
_OBJECT_RULE = 'object_kv: (CNAME | string_literal) ":" expr\n'
_NEGATE = '| "!" expr_core -> negate'
_MINUS = '| "-" expr_core -> minus'
_PLUS = '| "+" expr_core -> plus'
_INT = "| SIGNED_INT -> int"
_HEX = "| HEX_INT -> int"
_META = "meta_value: literal "
_NULL = '| "null" -> null '
_HEX_TERMINAL = "HEX_INT.2: /[+-]?0[xX][0-9a-fA-F]+/\n"


def extend_grammars() -> None:
    """Extend miniwdl's grammars. May be called again."""
    for version, grammar in _grammar.versions.items():
        if _MINUS not in grammar:
            signs = f"{_MINUS} {_PLUS}" if version in ("draft-2", "1.0") else _MINUS
            additions = {_NEGATE: f" {signs}", _INT: f" {_HEX}", _META: _NULL, _TYPES: _OBJECT}
            if "object_kv" not in grammar:
                additions[_NEGATE] += f" {_LITERAL}"
                grammar += f"\n{_OBJECT_RULE}"
            for known, added in additions.items():
                grammar = grammar.replace(known, known + added)
            _grammar.versions[version] = f"{grammar}\n{_HEX_TERMINAL}"


_VERSION = re.compile(
    r"\A(?P<before>(?:[ \t]*(?:#[^\n]*)?\r?\n)*)[ \t]*version(?P<gap>(?:[ \t\r\n]|(?<=\s)#[^\n]*\n)+)"
    r"(?P<version>[^\s#]+)[ \t]*(?:#[^\r\n]*)?(?=\r?$)",
    re.MULTILINE,
)


def with_plain_version(text: str, place: str) -> str:
    """Normalize the version statement in a document's text, keeping the numbers of all lines.

    Parameters
    ----------
    text : str
    place : str
        The document's path or URL.

    Raises
    ------
    WDL.Error.SyntaxError
        If the version is not supported.
    """
    text = text.removeprefix("\ufeff")  # the byte order mark of some editors
    found = _VERSION.match(text)
    if found is None:
        return text
    version, before = found["version"], found["before"]
    if version not in _grammar.versions:
        line = (before + found["gap"]).count("\n") + 1
        pos = Error.SourcePosition(place, place, line, 1, line, 1)
        known = "1.0, 1.1, 1.2, development, and draft-2 (a document without a version line)"
        raise Error.SyntaxError(
            pos, f"WDL {version} is not supported; supported versions are {known}", version, version
        )
    lines = "\n" * found["gap"].count("\n")
    return f"{before}version {version}{lines}{text[found.end() :]}"


class Unexpected(lark.exceptions.UnexpectedInput):
    """A syntax error: an unexpected token.

    Parameters
    ----------
    problem : lark.exceptions.UnexpectedInput
    text : str
        The document.
    parser : lark.Lark
    """

    def __init__(self, problem: Any, text: str, parser: lark.Lark) -> None:
        self.line, self.column = problem.line, problem.column
        ends = isinstance(problem, lark.exceptions.UnexpectedToken) and problem.token.type == "$END"
        word = re.compile(r"\w+|\S").match(text, max(problem.pos_in_stream or 0, 0))
        self.said = "the document ends too early" if ends or not word else f"{word[0]!r} is unexpected here"
        words = _words(getattr(problem, "accepts", None) or (), parser)
        self.hint = f"; expected {', '.join(words)}" if 0 < len(words) <= _MANY else ""

    def __str__(self) -> str:
        return f"{self.said}{self.hint}"


_MANY = 12
"""Maximum number of alternatives to list in an error."""

_IN_WORDS = {"CNAME": "a name", "$END": "the end"}


def _words(terminals: Any, parser: lark.Lark) -> list[str]:
    """Return how terminals of a grammar are written in a document, for messages."""
    patterns = {terminal.name: terminal.pattern for terminal in parser.terminals}
    named = {_IN_WORDS[name] for name in terminals if name in _IN_WORDS}
    fixed = {name: patterns[name] for name in terminals if name in patterns}
    literal = {repr(pattern.value) for pattern in fixed.values() if isinstance(pattern, lark.lexer.PatternStr)}
    return sorted(named) + sorted(literal)


_parse = _parser.parse
_load: Any = lark.Lark._load_from_dict

_NOT_TABLES = (pickle.PickleError, EOFError, AttributeError, ImportError, TypeError, ValueError, KeyError, IndexError)


def parse(grammar: str, txt: str, start: str) -> tuple[lark.Tree[Any], list[lark.Token]]:
    """Parse a text; replaces ``WDL._parser.parse``.

    Raises
    ------
    Unexpected
        If the text is not a valid document.
    """
    key = (grammar, start)
    if key not in _parser._lark_cache:
        _parser._lark_cache[key] = _parser_of(grammar, start)
    try:
        return _parse(grammar, txt, start)
    except lark.exceptions.UnexpectedInput as problem:
        raise Unexpected(problem, txt, _parser._lark_cache[key]) from None


def _parser_of(grammar: str, start: str) -> lark.Lark:
    callbacks = {"COMMENT": _parser._lark_comments_buffer.append}
    digest = hashlib.blake2b(f"{start}\n{grammar}".encode(), digest_size=8).hexdigest()
    cached = CachedFile(f"wdl/{digest}", "lark", "miniwdl")
    content = cached.read()
    if content is not None:
        try:
            found: lark.Lark = _load(**pickle.loads(content), lexer_callbacks=callbacks)
            return found
        except _NOT_TABLES:
            pass  # build the tables again
    made = lark.Lark(
        grammar, start=start, parser="lalr", maybe_placeholders=False, propagate_positions=True,
        lexer_callbacks=callbacks,
    )  # fmt: skip
    tables = io.BytesIO()
    made.save(tables, exclude_options={"lexer_callbacks"})
    cached.write(tables.getvalue())
    return made
