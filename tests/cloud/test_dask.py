"""Clusters of dask that are created for a run: what dask-cloudprovider is given, and a run on such a cluster."""

from __future__ import annotations

import asyncio
import sys
import types
import uuid

import distributed
import pytest

import toilfn as toil
from tests.servers.fixtures import moto_server
from toilfn import cli
from toilfn.cloud import dask as created_dask
from toilfn.cloud.dask import arguments_of, create
from toilfn.cloud.description import Sizes, read
from toilfn.clusters.awsbatch.aws import Amazon
from toilfn.errors import ClusterError, InputError

__all__ = ["moto_server"]

GIB = 2**30
TEXT = """\
name: lab
kind: dask
region: eu-central-1
zones: [eu-central-1a]
container: registry.example/worker:1
image: ami-03cf127a
tags: {team: genomics}
init: ["echo ready"]
network: {security_groups: [sg-0123]}
pools:
  - name: cpu
    types: [c6i.xlarge]
    max: 2
    spot: true
    disk: 60Gi
machines:
  c6i.xlarge: {cores: 4, memory: 8Gi}
"""
GOOGLE = TEXT.replace("region:", "cloud: google\nregion:").replace("c6i.xlarge", "n2-standard-4")
FARGATE = TEXT.replace("types: [c6i.xlarge]", "cores: 3\n    memory: 20Gi").replace("init:", "#init:")


def test_the_description_reaches_the_machines_of_aws():
    path, arguments = arguments_of(read(TEXT), Sizes(4, 8 * GIB))
    assert path == "dask_cloudprovider.aws:EC2Cluster"
    assert arguments["worker_instance_type"] == "c6i.xlarge"
    assert arguments["scheduler_instance_type"] == "t3.medium"
    assert arguments["availability_zone"] == ["eu-central-1a"]
    assert arguments["filesystem_size"] == 60
    assert arguments["spot"] is True
    assert arguments["instance_tags"] == {"team": "genomics", "toilfn-cluster": "lab", "toilfn-kind": "dask"}
    assert arguments["worker_options"] == {"resources": {"cores": 4, "memory": 8 * GIB}}


@pytest.mark.parametrize(
    ("cores", "memory", "cpu", "mib"),
    [("0.2", "100Mi", 256, 512), ("1", "9Gi", 2048, 9216), ("3", "20Gi", 4096, 20480), ("8", "30Gi", 8192, 32768)],
)
def test_sizes_become_the_smallest_container_of_fargate_that_has_them(cores, memory, cpu, mib):
    text = FARGATE.replace("cores: 3", f"cores: {cores}").replace("20Gi", memory)
    path, arguments = arguments_of(read(text))
    assert path == "dask_cloudprovider.aws:FargateCluster"
    assert (arguments["worker_cpu"], arguments["worker_mem"]) == (cpu, mib)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: dask", "kind: slurm", "its description is of the kind slurm, not dask"),
        ("network:", "#network:", "a dask cluster on EC2 needs a security group"),
        ("container:", "#container:", "the image of the workers is missing"),
        ("    disk:", "    max_price: 0.1\n    disk:", "dask-cloudprovider does not support price limits"),
        ("machines:", "  - name: more\n    cores: 1\nmachines:", "a dask cluster must have one pool"),
        ("types: [c6i.xlarge]", "cores: 17", "Fargate's largest containers have 16 cores and 120 GiB"),
    ],
)
def test_requirements_that_dask_cannot_satisfy_are_refused(old, new, said):
    with pytest.raises(InputError, match=said):
        arguments_of(read(TEXT.replace(old, new, 1)))


@pytest.mark.parametrize("text", [TEXT, FARGATE, GOOGLE])
def test_dask_cloudprovider_accepts_all_arguments(text):
    path, arguments = arguments_of(read(text), Sizes(4, 8 * GIB))
    description = read(text)
    kind = created_dask._class(path, description)
    created_dask._check(kind, arguments, description)
    with pytest.raises(InputError, match="has no parameter 'instnace_tags'"):
        created_dask._check(kind, {**arguments, "instnace_tags": {}}, description)


def test_without_dask_cloudprovider_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_cloudprovider.aws", None)
    with pytest.raises(ClusterError, match="cluster lab: needs dask-cloudprovider") as caught:
        create(read(TEXT), "memory://store", {})
    assert caught.value.hint == "pip install 'dask-cloudprovider[aws]'"


def test_a_worker_on_aws_is_found_and_removed_by_its_tag(moto_server, monkeypatch, capsys):
    """As when the leader was killed and could not remove it."""
    from dask_cloudprovider.aws import EC2Cluster

    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    name = f"c{uuid.uuid4().hex[:12]}"
    groups = Amazon("eu-central-1").ask("ec2", "describe_security_groups")["SecurityGroups"]
    text = TEXT.replace("lab", name).replace("sg-0123", groups[0]["GroupId"])
    _, arguments = arguments_of(read(text), Sizes(4, 8 * GIB))

    async def make_worker():
        cluster = EC2Cluster(**arguments, asynchronous=True, security=False)
        worker = cluster.worker_class("tcp://192.0.2.1:8786", **cluster.worker_options)
        await worker.create_vm()
        cluster.status = distributed.core.Status.closed  # it was never started
        return worker.command

    assert '"cores": 4' in asyncio.run(make_worker())
    assert cli.main(["cluster", "list", "--region", "eu-central-1"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if name in line]
    assert line.split() == [name, "dask", "1", "no"]
    assert cli.main(["cluster", "destroy", name, "--region", "eu-central-1"]) == 0
    assert cli.main(["cluster", "show", name, "--region", "eu-central-1"]) == 2


@toil.task(cores=2, memory="1Gi")
def double(x):
    return 2 * x


@pytest.fixture
def machines(monkeypatch):
    """A stand-in for dask-cloudprovider whose machines are processes here; everything else is as in a cloud."""
    made = []

    class EC2Cluster(distributed.LocalCluster):
        def __init__(self, n_workers, worker_options, **more):
            super().__init__(
                n_workers=n_workers, threads_per_worker=4, processes=False, dashboard_address=None, **worker_options
            )
            made.append(self)
            self.adapted = None

        def adapt(self, **limits):
            self.adapted = limits
            return super().adapt(**limits | {"interval": "100ms"})

    package = types.ModuleType("dask_cloudprovider")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "dask_cloudprovider", package)
    module = types.ModuleType("dask_cloudprovider.aws")
    module.EC2Cluster = EC2Cluster
    monkeypatch.setitem(sys.modules, "dask_cloudprovider.aws", module)
    monkeypatch.setattr(created_dask, "_check", lambda *arguments: None)
    return made


@pytest.mark.timeout(300)
def test_the_machines_exist_as_long_as_the_run(machines, tmp_path):
    (tmp_path / "cluster.yaml").write_text(TEXT)
    cluster = toil.DaskCluster(description=tmp_path / "cluster.yaml")
    assert machines == []
    assert toil.compute(double(21), store=tmp_path / "store", cluster=cluster) == 42
    (made,) = machines
    assert (made.adapted["minimum"], made.adapted["maximum"]) == (0, 2)
    assert made.status.name == "closed"


@pytest.mark.timeout(300)
def test_a_run_that_fails_removes_the_machines(machines, tmp_path):
    (tmp_path / "cluster.yaml").write_text(TEXT)
    big = double.options(cores=64)(1)
    with pytest.raises(toil.ToilfnError, match="64 cores"):
        toil.compute(big, store=tmp_path / "store", cluster=toil.DaskCluster(description=tmp_path / "cluster.yaml"))
    assert [made.status.name for made in machines] == ["closed"]


def test_a_cluster_and_a_description_exclude_each_other():
    with pytest.raises(InputError, match="cannot be combined"):
        toil.DaskCluster("tcp://127.0.0.1:8786", description="cluster.yaml")


def test_launch_names_the_way_to_a_dask_cluster(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text(TEXT)
    assert cli.main(["cluster", "launch", "lab"]) == 2
    assert "toilfn run SCRIPT --cluster dask --dask-description cluster.yaml" in capsys.readouterr().err
