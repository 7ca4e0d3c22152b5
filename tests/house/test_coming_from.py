"""Each command and option of toilfn on the page for people who come from elsewhere exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

import toilfn as toil
from tests.house.rooms import ROOT
from toilfn.cli import COMMANDS

PAGE = (ROOT / "docs/coming-from.md").read_text()
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)]
NAMED = [text for text in re.findall(r"`([^`]+)`", PAGE) if text.startswith("toilfn ")]


def test_there_are_thirty_rows_and_each_says_what_to_use() -> None:
    assert [int(row[0]) for row in ROWS] == list(range(1, 31))
    assert all(len(row[-1]) > 10 for row in ROWS)


@pytest.mark.parametrize("command", sorted({text.split()[1] for text in NAMED}))
def test_the_command_exists_and_its_help_has_the_options(command: str) -> None:
    assert command in COMMANDS
    done = subprocess.run(
        [sys.executable, "-m", "toilfn", command, "--help"], capture_output=True, text=True, timeout=250, check=True
    )
    known = set(re.findall(r"(?<![\w-])-{1,2}[a-z][\w-]*", done.stdout))
    words = [word for text in NAMED if text.split()[1] == command for word in shlex.split(text)]
    assert {word for word in words if word.startswith("-")} <= known


def test_the_names_of_the_library_exist() -> None:
    for name in set(re.findall(r"toil\.(\w+)", PAGE)):
        assert hasattr(toil, name), name
