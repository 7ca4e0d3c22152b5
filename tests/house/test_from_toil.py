"""The tests that docs/from-toil.md names exist."""

from __future__ import annotations

import re

from tests.house.rooms import ROOT


def test_named_tests_exist():
    named = set(re.findall(r"\btests/[\w/]+\.py", (ROOT / "docs" / "from-toil.md").read_text()))
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def test_every_row_says_something():
    rows = re.findall(r"^\| (.*) \| (.*) \|$", (ROOT / "docs" / "from-toil.md").read_text(), re.MULTILINE)
    unclear = [toil for toil, here in rows if not here.strip() or "not supported" in here]
    assert len(rows) > 100
    assert unclear == []
