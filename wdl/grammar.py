"""A cache of the parser tables of WDL's grammars, since building the tables for one takes a fifth of a second."""

from __future__ import annotations

import hashlib
import io
import pickle
from typing import Any

import lark
from WDL import _parser

from toilfn.files.downloads import CachedFile
from toilfn.wdl.syntax import Unexpected

__all__ = ["parse"]

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
