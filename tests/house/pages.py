"""The pages for people: their blocks of code, their links and their headings.

A block of Python with a title is a file. Blocks without one make up one script for each page, and blocks of ``sh`` run
in order, all in one new directory. A comment ``<!-- setup: COMMANDS -->`` is run there first, and a block after a
comment ``<!-- not run: REASON -->`` is for reading only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.house.rooms import ROOT

__all__ = ["Block", "anchors", "blocks", "code", "dead_links", "pages", "setup"]

_FENCE = re.compile(
    r"(?:^[ ]*<!-- not run: (?P<reason>[^>]+?) -->\n)?"
    r'^(?P<indent>[ ]*)```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^(?P=indent)```$',
    re.DOTALL | re.MULTILINE,
)
_SETUP = re.compile(r"<!-- setup: (.*?) -->", re.DOTALL)
_CODE = re.compile(r"(?s:```.*?```)|`[^`\n]+`|^    .*$", re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A block of code on a page."""

    language: str
    title: str | None
    text: str
    reason: str | None
    """Why it is not run, if it is not."""


def pages() -> list[Path]:
    """Return all pages, relative to the repository."""
    found = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("changelog.d/*.md"),
    ]
    return sorted(path.relative_to(ROOT) for path in found)


def blocks(page: Path | str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    for found in _FENCE.finditer((ROOT / page).read_text()):
        text = re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
        yield Block(found["language"], found["title"], text, found["reason"])


def setup(page: Path | str) -> str:
    """Return the commands that prepare a directory for a page's blocks."""
    return "\n".join(_SETUP.findall((ROOT / page).read_text()))


def dead_links(page: Path) -> list[str]:
    """Return a page's relative links that lead to no file, or to no heading of one."""
    dead = []
    for link in _LINK.findall(_CODE.sub("", (ROOT / page).read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            dead.append(link)
    return dead


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and Python-Markdown make them."""
    text = re.sub(r"(?s:```.*?```)", "", page.read_text())
    headings = re.findall(r"^#+ +(.+?)(?: \{#[\w-]+\})?$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]+)\]\([^)]*\)|[`*]", r"\1", heading) for heading in headings)
    made = {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}
    return made | set(re.findall(r"\{#([\w-]+)\}", page.read_text()))


def code(text: str) -> str:
    """Return the code in a page: blocks, indented lines, and words between backquotes."""
    return "\n".join(_CODE.findall(text))
