"""The conformance suite of DataBiosphere (``suite/``, with its licence), in all versions of WDL that we run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wdl.conformance import NAMES, cases, failure
from tests.wdl.running import served

SUITE = Path(__file__).parent / "suite"

WRONG = {
    "as_map": "expects the checksum of JSON without spaces, which no specification asks for",
    "basic_directory": "expects a slash at the end of a Directory, which 1.2 says is removed",
}
"""Tests whose expectation is wrong."""


@pytest.fixture(scope="module")
def server():
    with served({"alyssa_ben.txt": NAMES}) as url:
        yield url


@pytest.mark.parametrize("case", cases(SUITE), ids=lambda case: case.name)
def test_conforms(case, server):
    said = failure(case, "--container", "none", server=server)
    if case.entry["id"] in WRONG:
        assert said is not None, f"it passes: {WRONG[case.entry['id']]} no longer holds"
    else:
        assert said is None, said


def test_a_wrong_result_is_noticed(tmp_path):
    """The suite's runner tells a right output from a wrong one."""
    case = next(case for case in cases(SUITE) if case.entry["id"] == "ceil" and case.version == "1.0")
    wanted = {"ceilWorkflow.int_output": {"type": "Int", "value": 11}}
    wrong = type(case)(case.suite, case.number, case.version, {**case.entry, "outputs": wanted})
    assert failure(case, "--container", "none") is None
    assert "12 instead of 11" in (failure(wrong, "--container", "none") or "")
