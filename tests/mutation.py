"""A plugin of pytest for mutation testing: quick tests first, few examples of each property, a limit of processor time.

`tests/conftest.py` registers this module when mutmut runs the tests.
"""

from __future__ import annotations

import resource
import time

import hypothesis
import pytest

PROFILE = "mutation"
SECONDS = 30
"""The processor time that one test may take; what takes more is an endless loop, however busy the machine is."""

hypothesis.settings.register_profile(
    PROFILE,
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)


def examples(count: int) -> int:
    """Return the number of examples of a property that has `count` of them with the usual profile."""
    return max(1, count * hypothesis.settings.default.max_examples // 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run properties last: most changes are noticed by a test that takes a moment."""
    items.sort(key=lambda item: getattr(getattr(item, "obj", None), "is_hypothesis_test", False))


def pytest_runtest_setup() -> None:
    """Let the system end this process, with SIGXCPU, when the test takes too much processor time."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(time.process_time()) + SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
