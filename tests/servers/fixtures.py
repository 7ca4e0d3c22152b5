"""Fixtures of the servers that several rooms' tests use; import them into the test module that needs them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.containers import Containers
from tests.servers.gridengine import GridEngine
from tests.servers.images import add_images
from tests.servers.machine import ServerMissingError, missing, serve
from tests.servers.slurm import Slurm

__all__ = ["alone", "containers", "gridengine", "gridengine_server", "images", "slurm", "slurm_server"]


@pytest.fixture(scope="session")
def slurm_server() -> Iterator[Slurm]:
    """A running Slurm whose commands work in this process."""
    yield from serve(Slurm())


@pytest.fixture(scope="session")
def gridengine_server() -> Iterator[GridEngine]:
    """A running Grid Engine whose commands work in this process."""
    yield from serve(GridEngine())


@pytest.fixture(scope="session")
def containers() -> Iterator[Containers]:
    """Podman, which works in this process and in what it starts, with images."""
    yield from serve(Containers())


@pytest.fixture(scope="session")
def images(containers: Containers) -> Containers:
    """Podman, with Debian and Python under the names that public suites of tests ask for."""
    try:
        add_images(containers)
    except ServerMissingError as error:
        missing(error)
    return containers


@pytest.fixture
def alone() -> None:
    """For tests that disturb a server: no other test uses it meanwhile."""


@pytest.fixture
def slurm(slurm_server: Slurm, request: pytest.FixtureRequest) -> Iterator[Slurm]:
    """Slurm, for one test."""
    with slurm_server.used(alone="alone" in request.fixturenames):
        yield slurm_server


@pytest.fixture
def gridengine(gridengine_server: GridEngine, request: pytest.FixtureRequest) -> Iterator[GridEngine]:
    """Grid Engine, for one test."""
    with gridengine_server.used(alone="alone" in request.fixturenames):
        yield gridengine_server
