"""Fixtures of servers for the tests of several rooms; import them into the test module that needs them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.servers.apptainer import Apptainer
from tests.servers.awsbatch import AWSBatch
from tests.servers.containers import Containers
from tests.servers.docker import DockerEngine
from tests.servers.gcs import GoogleStorage
from tests.servers.gridengine import GridEngine
from tests.servers.images import add_images
from tests.servers.kubernetes import Kubernetes
from tests.servers.machine import ServerMissingError, missing, serve
from tests.servers.moto import Moto
from tests.servers.prometheus import Prometheus
from tests.servers.radosgw import RadosGateway
from tests.servers.slurm import Slurm
from tests.servers.udocker import Udocker

__all__ = [
    "alone", "apptainer", "apptainer_server", "awsbatch_server", "containers", "docker_engine", "gcs_server",
    "gridengine", "gridengine_server", "images", "kubernetes", "kubernetes_server", "moto_server", "prometheus",
    "radosgw_server", "slurm", "slurm_server", "udocker", "udocker_server",
]  # fmt: skip


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
    """Podman with images, which works in this process and its children."""
    yield from serve(Containers())


@pytest.fixture(scope="session")
def apptainer_server() -> Iterator[Apptainer]:
    """Apptainer's programs, which only tests find that request them."""
    yield from serve(Apptainer())


@pytest.fixture(scope="session")
def udocker_server() -> Iterator[Udocker]:
    """Udocker's program, which only tests find that request it."""
    yield from serve(Udocker())


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerEngine]:
    """A Docker daemon with an image, which docker's command finds in this process and its children."""
    yield from serve(DockerEngine())


@pytest.fixture(scope="session")
def images(containers: Containers) -> Containers:
    """Podman, with Debian and Python under the names that public test suites use."""
    try:
        add_images(containers)
    except ServerMissingError as error:
        missing(error)
    return containers


@pytest.fixture(scope="session")
def prometheus() -> Iterator[Prometheus]:
    """A running Prometheus that scrapes the addresses that tests name."""
    yield from serve(Prometheus())


@pytest.fixture(scope="session")
def radosgw_server() -> Iterator[RadosGateway]:
    """A real S3 server, with its credentials in the environment of this process."""
    yield from serve(RadosGateway())


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GoogleStorage]:
    """A stand-in for Google Cloud Storage, which respects its preconditions."""
    yield from serve(GoogleStorage())


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Moto]:
    """A stand-in for AWS, with any credentials in the environment of this process."""
    yield from serve(Moto())


@pytest.fixture(scope="session")
def awsbatch_server(containers: Containers) -> Iterator[AWSBatch]:
    """A stand-in for AWS Batch, with any credentials in the environment of this process."""
    yield from serve(AWSBatch())


@pytest.fixture
def alone() -> None:
    """Keep other tests from using a server while this test disturbs it."""


@pytest.fixture
def apptainer(apptainer_server: Apptainer, containers: Containers, monkeypatch: pytest.MonkeyPatch) -> Containers:
    """Apptainer for one test, also as singularity; yields the server that has the registry."""
    monkeypatch.setenv("PATH", f"{apptainer_server.programs}:{os.environ['PATH']}")
    return containers


@pytest.fixture
def udocker(udocker_server: Udocker, containers: Containers, monkeypatch: pytest.MonkeyPatch) -> Containers:
    """Udocker for one test, with an empty folder of the user; yields the server that has the registry."""
    monkeypatch.setenv("PATH", f"{udocker_server.programs}:{os.environ['PATH']}")
    return containers


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


@pytest.fixture(scope="session")
def kubernetes_server() -> Iterator[Kubernetes]:
    """A running Kubernetes that the client finds in this process."""
    yield from serve(Kubernetes())


@pytest.fixture
def kubernetes(kubernetes_server: Kubernetes, request: pytest.FixtureRequest) -> Iterator[Kubernetes]:
    """Kubernetes, for one test."""
    with kubernetes_server.used(alone="alone" in request.fixturenames):
        yield kubernetes_server
