"""MesosCluster, against a strict fake of master and agents that runs executors as processes."""

from __future__ import annotations

import pytest

from tests.servers.fake.mesos import FakeMesos
from toilfn.clusters.mesos.cluster import MesosCluster
from toilfn.clusters.testing import ClusterContract


@pytest.fixture
def mesos():
    with FakeMesos().running() as fake:
        yield fake


@pytest.fixture
def make(mesos):
    """Make clusters of this master; all are closed at the end."""
    made = []

    def make(**settings):
        made.append(MesosCluster(**{"endpoint": mesos.address, "poll_interval": 0.1, **settings}))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


class TestMesos(ClusterContract):
    @pytest.fixture
    def make_cluster(self, make):
        return make
