"""The scripts on the pages for people run and print what the pages say."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import toilfn
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
    commands = set(re.findall(r"\btoilfn ([a-z]+) [A-Zr-]", about_toilfn(page)))
    assert commands
    assert commands <= known


def flags_of(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))


def test_settings_options_and_flags_exist(capsys):
    text = about_toilfn("docs/from-toil.md")
    names = set(re.findall(r"`(\w+)=", text))
    assert {"max_jobs", "retries"} <= names
    normalise(dict.fromkeys(names - Settings.__dataclass_fields__.keys()))
    commands = {"run", *re.findall(r"`toilfn ([a-z]+)", text)}
    known = set().union(*(flags_of(command, capsys) for command in commands))
    assert set(re.findall(r"--[a-z][a-z-]*", text)) <= known


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_first_script_runs(page, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (script,) = [block for block in blocks if "__main__" in block]
    (tmp_path / "words.py").write_text(script)
    done = subprocess.run([sys.executable, "words.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "6\n"
