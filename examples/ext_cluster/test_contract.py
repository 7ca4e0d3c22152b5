"""Check that the cluster meets the contract of clusters."""

import functools

import pytest
from toilfn_processes import ProcessCluster

from toilfn.clusters.testing import ClusterContract


class TestProcessCluster(ClusterContract):
    """Run all tests of the contract; they are inherited."""

    @pytest.fixture
    def make_cluster(self, tmp_path):
        return functools.partial(ProcessCluster, folder=str(tmp_path / "jobs"))
