"""TESCluster, against a strict fake that runs the executors as processes."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from tests.servers.fake.tes import FakeTES
from toilfn.clusters.tes import TESCluster
from toilfn.clusters.testing import ClusterContract


@pytest.fixture
def tes():
    with FakeTES().running() as fake:
        yield fake


class TestTES(ClusterContract):
    @pytest.fixture
    def make_cluster(self, tes):
        return partial(TESCluster, endpoint=tes.url, image="toilfn:test", python=sys.executable)
