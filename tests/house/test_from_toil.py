"""The page for people who come from Toil names tests that pytest collects, and has something to say in each row.

`tests/conftest.py` sees to it that none of them is skipped in continuous integration.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.house.parity import ROOT, named_tests, rows, unproven

ROWS = rows()


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_a_row_says_what_to_write(row: tuple[str, str, str]) -> None:
    toil, ours, _ = row
    assert toil
    assert len(ours) > len("``")
    assert not re.search(r"not (yet|supported)", f"{toil} {ours}")


def test_pytest_collects_every_test_that_the_page_names() -> None:
    named = named_tests()
    files = sorted({name.partition("::")[0] for name in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    collected = {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}
    known = collected | {name.partition("::")[0] for name in collected}
    missing = "\n".join(sorted(named - known))
    assert missing == ""


def test_a_skipped_test_proves_nothing_unless_another_form_of_it_passed() -> None:
    named = {"tests/a.py::test_one", "tests/b.py"}
    skipped = ["tests/a.py::test_one[x]", "tests/a.py::test_other", "tests/b.py::test_b"]
    assert unproven(named, passed=[], skipped=skipped) == ["tests/a.py::test_one", "tests/b.py"]
    assert unproven(named, passed=["tests/a.py::test_one[y]", "tests/b.py::test_c"], skipped=skipped) == []
