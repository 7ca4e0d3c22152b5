"""KubernetesCluster against a real control plane: contract, settings, exit reasons, wrong settings."""

from __future__ import annotations

import pytest

from tests.servers.fixtures import kubernetes, kubernetes_server
from tests.servers.kubernetes import IMAGE
from toilfn.clusters.kubernetes import KubernetesCluster
from toilfn.clusters.testing import ClusterContract

__all__ = ["kubernetes", "kubernetes_server"]


class TestContract(ClusterContract):
    @pytest.fixture
    def make_cluster(self, kubernetes):
        return lambda **settings: KubernetesCluster(image=IMAGE, **settings)
