"""A third of the conformance suite of CWL v1.2 passes, in containers; docs/conformance.md has the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cwl import conformance
from tests.servers.fixtures import containers, images  # noqa: F401 - used as fixtures

SUITE = Path(__file__).parent / "suite" / "conformance_tests.yaml"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_third_of_the_suite_passes_in_containers(images):  # noqa: F811 - the fixture
    results = conformance.run(SUITE, [], conformance.command("--quiet"), jobs=2, is_forked=True)
    assert results.failed == {}
    assert len(results.passed) == conformance.count(SUITE) == 126
