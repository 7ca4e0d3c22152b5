"""The page for people who come from Toil names tests that exist, and has something to say in each row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [line for line in (ROOT / "docs/from-toil.md").read_text().splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_a_row_says_what_to_write_and_names_tests_that_exist(row: str) -> None:
    toil, ours, shown = (cell.strip() for cell in row.strip().strip("|").split("|"))
    assert toil
    assert len(ours) > len("``")
    assert not re.search(r"not (yet|supported)", row)
    for test in shown.split():
        path, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / path).read_text()
