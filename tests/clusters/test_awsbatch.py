"""AWSBatchCluster, against moto with podman behind it: jobs run in containers."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from tests.servers.awsbatch import QUEUE
from tests.servers.containers import IMAGE
from tests.servers.fixtures import awsbatch_server, containers
from toilfn.clusters.awsbatch import AWSBatchCluster
from toilfn.clusters.testing import ClusterContract

__all__ = ["awsbatch_server", "containers"]


@pytest.fixture
def settings(awsbatch_server, tmp_path):
    folders = {**awsbatch_server.folders, str(tmp_path): str(tmp_path)}
    return {
        "endpoint_url": awsbatch_server.url, "queue": QUEUE, "image": IMAGE, "volumes": folders,
        "python": sys.executable,
    }  # fmt: skip


class TestAWSBatch(ClusterContract):
    @pytest.fixture
    def make_cluster(self, settings):
        return partial(AWSBatchCluster, **settings)
