"""Folders whose prose is free of the wordings that `tests.house.prose` lists. A folder joins when it is at zero."""

from __future__ import annotations

import pytest

from tests.house import prose
from tests.house.rooms import ROOT

CLEAN = ("toilfn", "stores", "clusters", "cwl", "wdl", "examples", "benchmarks", "docs", *prose.PAGES)
HISTORY = ROOT / "docs" / "decisions"  # which quotes wordings of its time


@pytest.mark.parametrize("folder", CLEAN)
def test_docstrings_comments_and_messages_are_plain_english(folder: str) -> None:
    found = [
        str(finding)
        for path in prose.files(folder)
        if HISTORY not in (ROOT / path).parents
        for finding in prose.findings(path)
    ]
    assert not found, "\n".join(found)
