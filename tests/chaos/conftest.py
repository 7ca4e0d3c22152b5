"""Fixtures that make every leader of these tests check the state of its scheduler."""

from __future__ import annotations

import os

import pytest

from toilfn.leader.cluster_context import CHECK_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def _checked_schedulers():
    os.environ[CHECK_VARIABLE] = "1"
    yield
    del os.environ[CHECK_VARIABLE]
