"""Clusters by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from typing import Any, NamedTuple

import pytest

from toilfn import clusters
from toilfn.clusters import REGISTRY, cluster_class, cluster_names, make_cluster
from toilfn.clusters.base import Cluster
from toilfn.clusters.local.cluster import LocalCluster
from toilfn.clusters.local.inline import InlineCluster
from toilfn.clusters.slurm import SlurmCluster
from toilfn.errors import ClusterError


class Settings(NamedTuple):
    cluster: Any = None
    cluster_settings: Any = None
    workers: int | None = None
    poll_interval: float | None = None


def test_names_are_sorted() -> None:
    assert list(REGISTRY) == sorted(REGISTRY)
    assert set(REGISTRY) <= set(cluster_names())


@pytest.mark.parametrize("name", REGISTRY)
def test_every_name_is_a_cluster(name: str) -> None:
    assert issubclass(cluster_class(name), Cluster)


def test_the_local_cluster_is_made_unless_another_one_is_named() -> None:
    cluster = make_cluster(Settings(workers=3))
    assert isinstance(cluster, LocalCluster)
    cluster.open(clusters.base.RunContext("file:///nowhere", "test"))
    assert cluster.capacity().batches == 3
    cluster.close()
    assert isinstance(make_cluster(Settings("inline")), InlineCluster)


def test_the_interval_of_queries_is_a_setting_of_the_run_too() -> None:
    assert make_cluster(Settings("slurm", poll_interval=7)).poll_interval == 7
    assert make_cluster(Settings("slurm")).poll_interval == 2
    own = SlurmCluster(poll_interval=5)
    assert make_cluster(Settings(own)).poll_interval == 5
    assert make_cluster(Settings(own, poll_interval=7)).poll_interval == 7


def test_a_cluster_object_is_taken_as_it_is() -> None:
    cluster = InlineCluster()
    assert make_cluster(Settings(cluster)) is cluster


def test_an_unknown_name_is_answered_with_the_nearest_or_all() -> None:
    with pytest.raises(ClusterError, match=r"unknown cluster 'slrum'; did you mean 'slurm'\?"):
        make_cluster(Settings("slrum"))
    with pytest.raises(ClusterError, match=r"unknown cluster 'moon'; choose from .*inline, .*local"):
        make_cluster(Settings("moon"))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("toilfn.clusters.local.inline:InlineCluster", None),
        ("no_such_package:Cluster", "is not available: No module named 'no_such_package'"),
        ("os:sep", "not a subclass of Cluster"),
    ],
)
def test_other_packages_add_clusters(monkeypatch: pytest.MonkeyPatch, value: str, error: str | None) -> None:
    entry = EntryPoint("mine", value, "toilfn.clusters")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: EntryPoints([entry]))
    assert "mine" in cluster_names()
    if error is None:
        assert cluster_class("mine") is InlineCluster
    else:
        with pytest.raises(ClusterError, match=error):
            cluster_class("mine")
