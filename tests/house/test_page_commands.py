"""What the pages that tests do not run show can be run: their commands parse, and their Python has the right names."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import toilfn
from tests.examples.test_pages import RUN
from tests.house.pages import blocks, pages
from tests.house.rooms import ROOT
from toilfn.cli import COMMANDS, parser_of
from toilfn.config.flags import add_all_flags
from toilfn.config.keywords import RunSettings

OTHER_NAMES = {"toilfn-cwl-runner": "cwl", "toilfn-wdl-runner": "wdl", "toilfn-wes-cwl-runner": "wes"}
PAGES = [
    page for page in pages() if page.parts[0] in ("README.md", "benchmarks", "docs") and "decisions" not in page.parts
]
"""Decisions quote what was once so."""


def texts(page: Path) -> Iterator[str]:
    """Yield all blocks of code of a page, fenced and indented ones."""
    text = (ROOT / page).read_text()
    yield from (block.text for block in blocks(page))
    plain = re.sub(r"(?ms)^ *```.*?^ *```$", "", text)
    for found in re.finditer(r"(?:^|\n)\n((?:(?:    [^\n]*)?\n)*    [^\n]+\n)", plain):
        yield textwrap.dedent(found[1])


def commands(page: Path) -> Iterator[str]:
    """Yield the command lines of toilfn on a page."""
    for text in texts(page):
        for line in text.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|[;&|$(] ?)((?:toilfn|toilfn-[a-z-]+) .*)", line)
            if found:
                yield found[1]


def words_of(line: str) -> list[str]:
    """Split a line as a shell does, up to what ends the command."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = []
    for word in lexer:
        if word[0] in "|&;)>":
            break
        words.append(word)
    return words


LINES = sorted({(str(page), line) for page in PAGES for line in commands(page)})


def test_pages_show_commands():
    assert len(LINES) > 60


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line[:60]}" for page, line in LINES])
def test_commands_parse(page, line):
    program, *words = words_of(line)
    name = OTHER_NAMES.get(program) or (words.pop(0) if words else "")
    if not name or name.startswith("-"):
        return
    assert name in COMMANDS
    if words[:1] == ["token"]:  # a command of the server's own
        return
    words = words[: words.index("--")] if "--" in words else words
    parser = parser_of(name)
    add_all_flags(parser)
    said = io.StringIO()
    status = 0
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parser.parse_args(words)
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 0, said.getvalue()[-600:]


def python_of(text: str) -> str:
    """Return the Python of a block; of one that has shell commands, too, the lines that use the library."""
    try:
        ast.parse(text)
    except SyntaxError:
        return "\n".join(line for line in text.splitlines() if re.match(r"toil(fn)?\.\w+\(.*\)", line))
    return text


PYTHON = [
    (str(page), code)
    for page in PAGES
    for code in map(python_of, texts(page))
    if str(page) not in RUN and re.search(r"\btoil(fn)?\.\w+\(", code)
]


def calls(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each call in toilfn, and its keywords."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="toil" | "toilfn"), attr=name), keywords=keywords):
                yield name, [keyword.arg for keyword in keywords if keyword.arg]


def test_pages_show_python():
    assert len(PYTHON) > 10


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[f"{page}: {code[:40]!r}" for page, code in PYTHON])
def test_python_has_the_right_names(page, code):
    for name, keywords in calls(ast.parse(code)):
        parameters = inspect.signature(getattr(toilfn, name)).parameters
        takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        settings = RunSettings.__annotations__.keys() if name in ("compute", "submit") else set()
        if settings or not takes_any:
            assert set(keywords) <= parameters.keys() | settings, name
