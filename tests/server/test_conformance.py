"""CWL's conformance suite through a server, by the client for cwltest; docs/conformance.md has the whole."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.cwl import conformance
from tests.servers.fixtures import containers, images  # noqa: F401 - used as fixtures

SUITE = Path(__file__).parents[1] / "cwl" / "suite" / "conformance_tests.yaml"
_OF_THE_NETWORK = "networkaccess"
"""The beginning of the names of tests that need a network of their own."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_part_of_the_suite_passes_through_a_server(images, start):  # noqa: F811 - the fixture
    server = start("--max-runs=4")
    program = os.path.join(os.path.dirname(sys.executable), "toilfn-wes-cwl-runner")
    numbers = conformance.spread(conformance.count(SUITE), 30)
    results = conformance.run(SUITE, numbers, [program, f"--endpoint={server.url}"], jobs=2, own_network=False)
    assert {name: why for name, why in results.failed.items() if not name.startswith(_OF_THE_NETWORK)} == {}
    assert len(results.passed) >= 29
