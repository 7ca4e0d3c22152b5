"""All batch systems keep the contract that `toilfn.clusters.testing` writes down: two real ones, five fakes."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.servers.fake.systems import system
from tests.servers.fixtures import gridengine, gridengine_server, slurm, slurm_server
from toilfn.clusters.gridengine import GridEngineCluster
from toilfn.clusters.htcondor import HTCondorCluster
from toilfn.clusters.lsf import LSFCluster
from toilfn.clusters.parasol import ParasolCluster
from toilfn.clusters.pbs import PBSCluster, TorqueCluster
from toilfn.clusters.slurm import SlurmCluster
from toilfn.clusters.testing import ClusterContract

__all__ = ["gridengine", "gridengine_server", "slurm", "slurm_server"]


class TestSlurm(ClusterContract):
    @pytest.fixture
    def make_cluster(self, slurm):
        return SlurmCluster


class TestGridEngine(ClusterContract):
    @pytest.fixture
    def make_cluster(self, gridengine):
        return GridEngineCluster


class TestLSF(ClusterContract):
    @pytest.fixture
    def make_cluster(self):
        for _ in system("lsf"):
            yield LSFCluster


class TestTorque(ClusterContract):
    @pytest.fixture
    def make_cluster(self):
        for _ in system("torque"):
            yield TorqueCluster


class TestPBS(ClusterContract):
    @pytest.fixture
    def make_cluster(self):
        for _ in system("pbs"):
            yield PBSCluster


class TestHTCondor(ClusterContract):
    @pytest.fixture
    def make_cluster(self):
        for _ in system("htcondor"):
            yield HTCondorCluster


class TestHTCondorsBindings(ClusterContract):
    settings: ClassVar = {**ClusterContract.settings, "bindings": True}

    @pytest.fixture
    def make_cluster(self, monkeypatch):
        bindings = pytest.importorskip("htcondor2", reason="the package htcondor is not installed")
        from tests.servers.fake.schedd import Schedd

        for spool in system("htcondor"):
            monkeypatch.setattr(bindings, "Schedd", Schedd)
            yield HTCondorCluster
            assert not (spool.parent / "calls").exists()


class TestParasol(ClusterContract):
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "store").mkdir()
        return tmp_path / "store"

    @pytest.fixture
    def make_cluster(self):
        for _ in system("parasol"):
            yield ParasolCluster
