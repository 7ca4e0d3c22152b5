"""Wording that a native reader stumbles over, in docstrings, comments, messages and pages.

``python -m tests.house.prose [PATH ...]`` prints each place with the pattern's remedy, and the number of places.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.house.rooms import ROOT

FOLDERS = ("toilfn", "stores", "clusters", "cwl", "wdl", "examples", "benchmarks", "docs")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "changelog.d")

BANNED = {
    r"\bhow-manieth\b": "say 'ordinal', or 'the Nth'",
    r"(?<![Tt]here )\b(?:is|are|was) no (?!longer|more|less|later|earlier)[a-z]+\b": "say 'is not a ...'",
    r"\bof (?:toilfn|dask|fsspec|cwltool|miniwdl|Toil|Slurm|Kubernetes|Python)'s\b": "say 'an X of toilfn'",
    r"\b(?:go|goes|went|going) on\b": "say 'continue', 'resume' or 'happen'",
    r"\bmend(?:s|ed|ing)?\b": "say 'fix'",
    r"\b(?:is|are|be|was|were) told\b": "say 'is reported', or name who learns it",
    r"(?:^|[.;:(] |, )[Ww]ho(?:ever)? (?:[a-z]+s|can|has|may|must|will|wants)\b": "name the noun: 'a user who ...'",
    r"(?:^|[.;:(] )What (?!happened|is\b[^.]*\?|does\b|can\b[^.]*\?|to\b)[a-z]+\b": "name the noun",
    r"\b[Nn]obody\b": "say 'no one', or name who does not",
    r"\b(?:is|are) asked for\b": "say 'is requested'",
    r"\b[Tt]here (?:is|are) no such\b": "say 'does not exist', or 'not found'",
    r"\bany ?more\b(?! than)": "say 'no longer', or 'any longer'",
    r"\bnow and then\b": "say 'periodically', or 'from time to time'",
    r"\b(?:is|are|was|were) (?:not |still )?to be\b": "say 'has to be', 'will be', or 'the X to ...'",
    r"\bfor good\b": "say 'permanently'",
    r"\b(?:[Ss]ome|[Ee]very)body\b": "say 'someone', or name the user",
    r"\b(?:says?|knows?|tells?|hears?|speaks?) of\b": "say 'about'",
    r"\b(?:can|cannot|could|may|to) be had\b": "say 'available'",
    r"; gives (?=the|whether|what|those)": "say 'and return ...'",
}
"""Patterns in any text, and what to write instead."""

BANNED_FIRST = {
    r"^Gives? ": "begin with 'Return'",
    r"^Says? ": "begin with 'Return' or 'Describe'",
    r"^Tells? ": "begin with 'Return', 'Report' or 'Send'",
    r"^Makes? (?:a|an|the|one)\b": "begin with 'Build' or 'Create'",
    r"^Whether\b": "begin with 'Return whether'",
    r"^Take in\b": "begin with 'Add' or 'Process'",
}
"""Patterns in the first line of a function's docstring."""

PATTERNS = {re.compile(pattern): remedy for pattern, remedy in BANNED.items()}
FIRST_PATTERNS = {re.compile(pattern): remedy for pattern, remedy in BANNED_FIRST.items()}


class Finding(NamedTuple):
    """A place with a banned wording."""

    path: Path
    line: int
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text!r}: {self.remedy}"


def files(*names: str) -> Iterator[Path]:
    """Yield the Python files and the pages below the given files and folders, relative to the repository."""
    for name in names or (*FOLDERS, *PAGES):
        place = ROOT / name
        found = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix in (".py", ".md"))
        yield from (path.relative_to(ROOT) for path in found if not _is_linked(path))


def _is_linked(path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents if parent != ROOT and ROOT in parent.parents)


def findings(path: Path) -> Iterator[Finding]:
    """Yield the banned wordings of one file."""
    source = (ROOT / path).read_text()
    is_code = path.suffix == ".py"
    for line, text in _python_texts(source) if is_code else enumerate(source.splitlines(), 1):
        yield from _matches(path, line, text, PATTERNS)
    for line, text in _first_lines(source) if is_code else ():
        yield from _matches(path, line, text, FIRST_PATTERNS)


def _matches(path: Path, line: int, text: str, patterns: dict[re.Pattern[str], str]) -> Iterator[Finding]:
    for pattern, remedy in patterns.items():
        if (found := pattern.search(text)) is not None:
            yield Finding(path, line, found.group().strip(), remedy)


def _first_lines(source: str) -> Iterator[tuple[int, str]]:
    """Yield the first line of each function's docstring; that of a property is a noun."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_property(node):
            docstring = ast.get_docstring(node)
            if docstring:
                yield node.body[0].lineno, docstring.splitlines()[0]


def _is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def _python_texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield docstrings, comments, and the strings of messages, each with its line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for offset, text in enumerate(node.value.value.splitlines()):
                yield node.lineno + offset, text.strip()
        elif isinstance(node, ast.Call):
            yield from _messages(node)


def _messages(call: ast.Call) -> Iterator[tuple[int, str]]:
    """Yield texts with a space in them that are arguments of a call: messages and help, not names."""
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    for argument in arguments:
        pieces = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
        for piece in pieces:
            if isinstance(piece, ast.Constant) and isinstance(piece.value, str) and " " in piece.value.strip():
                yield piece.lineno, piece.value


def main(names: list[str]) -> int:
    """Print the findings; return 1 if there are any."""
    count = 0
    for path in files(*names):
        for finding in findings(path):
            print(finding)
            count += 1
    print(f"{count} places")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
