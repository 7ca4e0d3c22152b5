"""The right examples of WDL 1.2's specification (``specification_1_2/``, with its licence) that need no network."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest

from tests.wdl.specification import failure, prepare

COPY = Path(__file__).parent / "specification_1_2"

with tempfile.TemporaryDirectory() as place:
    EXAMPLES = prepare(COPY, Path(place))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("specification")
    prepare(COPY, place)
    return place


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_of_the_specification_pass(example, folder):
    assert failure(example, folder, "--container", "none") is None


def test_a_wrong_output_is_noticed(folder):
    """The suite's runner tells a right output from a wrong one."""
    example = next(example for example in EXAMPLES if example.name == "test_length.wdl")
    wrong = dataclasses.replace(example, outputs={"test_length.xlen": 4})
    assert failure(wrong, folder, "--container", "none") == "test_length.xlen: 3 instead of 4"
