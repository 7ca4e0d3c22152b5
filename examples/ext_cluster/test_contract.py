"""The contract of clusters, kept by this one."""

import functools

import pytest
from toilfn_processes import ProcessCluster

from toilfn.clusters.testing import ClusterContract


class TestProcessCluster(ClusterContract):
    """All tests are inherited."""

    @pytest.fixture
    def make_cluster(self, tmp_path):
        return functools.partial(ProcessCluster, folder=str(tmp_path / "jobs"))
