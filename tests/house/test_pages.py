"""The names on the pages for people exist, and their links lead somewhere; tests/examples runs their code."""

from __future__ import annotations

import re

import pytest

import toilfn
from tests.house import prose
from tests.house.pages import code, dead_links, pages
from tests.house.rooms import ROOT
from toilfn.cli import main
from toilfn.config.settings import Settings
from toilfn.graph.options import normalise

PAGES = ["README.md", "docs/getting-started.md", "docs/from-toil.md"]


def about_toilfn(page: str) -> str:
    """A page's text; of a table that compares, the column that is about toilfn."""
    text = (ROOT / page).read_text()
    if page != "docs/from-toil.md":
        return text
    rows = re.findall(r"^\|.*\| (.*) \|.*\|$", text, re.MULTILINE)
    return "\n".join(rows)


@pytest.mark.parametrize("page", PAGES)
def test_names_exist(page):
    names = set(re.findall(r"(?<![\w/-])toil\.(\w+)", about_toilfn(page)))
    assert names
    assert names <= set(toilfn.__all__)


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    known = set(re.findall(r"^  (\w+) ", capsys.readouterr().out, re.MULTILINE))
    commands = set(re.findall(r"\btoilfn ([a-z]+) [A-Zr-]", code(about_toilfn(page))))
    assert commands
    assert commands <= known


def flags_of(command, capsys):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))


def test_settings_options_and_flags_exist(capsys):
    text = about_toilfn("docs/from-toil.md")
    names = set(re.findall(r"`(\w+)=", text))
    assert {"max_jobs", "retries"} <= names
    normalise(dict.fromkeys(names - Settings.__dataclass_fields__.keys()))
    commands = {("run",), *(tuple(found.split()) for found in re.findall(r"`toilfn ((?:cluster )?[a-z]+)", text))}
    known = set().union(*(flags_of(command, capsys) for command in commands))
    assert set(re.findall(r"--[a-z][a-z-]*", text)) <= known


HELD = [page for page in pages() if page.parts[0] != "changelog.d" and "decisions" not in page.parts]
"""Decisions and fragments quote messages as they were."""


@pytest.mark.parametrize("page", HELD, ids=str)
def test_pages_have_no_wording_to_avoid(page):
    assert list(map(str, prose.findings(page))) == []


def test_the_architecture_names_files_that_exist():
    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:toilfn|stores|clusters|tests|docs)/[\w/]+(?:\.\w+|/))`", text))
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", pages(), ids=str)
def test_links_lead_somewhere(page):
    assert dead_links(page) == []


def test_dead_links_and_anchors_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `heading`, of sorts\n[a](#a-heading-of-sorts) [b](#none) [c](none.md) [d](page.md#none) `[e](none)`"
    )
    assert dead_links(page) == ["#none", "none.md", "page.md#none"]
