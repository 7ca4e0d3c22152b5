"""Fixtures of the servers that several rooms' tests use; import those you need into a test module or conftest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.gridengine import GridEngine
from tests.servers.machine import serve
from tests.servers.slurm import Slurm

__all__ = ["gridengine", "slurm"]


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A running Slurm whose commands work in this process."""
    yield from serve(Slurm())


@pytest.fixture(scope="session")
def gridengine() -> Iterator[GridEngine]:
    """A running Grid Engine whose commands work in this process."""
    yield from serve(GridEngine())
