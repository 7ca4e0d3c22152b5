"""Clusters by name. Each is imported when it is first used."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from toilfn.clusters.base import Cluster
from toilfn.errors import ClusterError, InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["REGISTRY", "ClusterSelection", "cluster_class", "cluster_names", "local_cluster", "make_cluster"]

REGISTRY: dict[str, tuple[str, str]] = {
    "awsbatch": ("toilfn.clusters.awsbatch.cluster:AWSBatchCluster", "pip install 'toilfn[aws]'"),
    "dask": ("toilfn.clusters.dask:DaskCluster", "pip install distributed"),
    "gridengine": ("toilfn.clusters.gridengine:GridEngineCluster", ""),
    "htcondor": ("toilfn.clusters.htcondor:HTCondorCluster", ""),
    "inline": ("toilfn.clusters.local.inline:InlineCluster", ""),
    "kubernetes": ("toilfn.clusters.kubernetes.cluster:KubernetesCluster", "pip install 'toilfn[kubernetes]'"),
    "local": ("toilfn.clusters.local.cluster:LocalCluster", ""),
    "lsf": ("toilfn.clusters.lsf:LSFCluster", ""),
    "mesos": ("toilfn.clusters.mesos.cluster:MesosCluster", ""),
    "parasol": ("toilfn.clusters.parasol:ParasolCluster", ""),
    "pbs": ("toilfn.clusters.pbs:PBSCluster", ""),
    "slurm": ("toilfn.clusters.slurm:SlurmCluster", ""),
    "tes": ("toilfn.clusters.tes:TESCluster", ""),
    "torque": ("toilfn.clusters.pbs:TorqueCluster", ""),
}
"""The import path of each cluster's class, and the command to show when importing it fails.

Other packages add clusters with entry points of the group ``toilfn.clusters``.
"""


class ClusterSelection(Protocol):
    """The settings that select and configure a cluster."""

    @property
    def cluster(self) -> Cluster | str | None:
        """A cluster or its name; None is the local cluster."""

    @property
    def cluster_settings(self) -> Mapping[str, Mapping[str, Any]] | None:
        """Settings of clusters, by their names."""

    @property
    def workers(self) -> int | None:
        """Maximum number of worker processes of the local cluster."""

    @property
    def poll_interval(self) -> float | None:
        """Seconds between two queries of a batch system; None means the cluster's default."""


def make_cluster(wanted: ClusterSelection) -> Cluster:
    """Build the cluster that the settings select.

    Parameters
    ----------
    wanted : ClusterSelection
        Usually `toilfn.config.settings.Settings`.

    Raises
    ------
    ClusterError
        If there is no cluster of that name, or a package it needs is not installed.
    """
    if wanted.cluster in (None, "local"):
        return local_cluster(wanted)
    name = wanted.cluster
    cluster = name if isinstance(name, Cluster) else cluster_class(str(name))(**_section(wanted, str(name)))
    if wanted.poll_interval is not None:
        cluster.poll_interval = wanted.poll_interval
    return cluster


def local_cluster(wanted: ClusterSelection, **more: Any) -> Cluster:
    """Build the local cluster. Settings of the section ``local`` override `more`, which overrides `workers`."""
    from toilfn.clusters.local.cluster import LocalCluster

    return LocalCluster(**{"workers": wanted.workers, **more, **_section(wanted, "local")})


def _section(wanted: ClusterSelection, name: str) -> dict[str, Any]:
    """Return a cluster's settings from flags and files, converted to the right types."""
    own = dict((wanted.cluster_settings or {}).get(name) or {})
    if not own:
        return own
    from toilfn.clusters.common.settings import SECTIONS, checked, settings_of

    if name not in SECTIONS:
        return own
    known = settings_of(name)
    if wrong := [key for key in own if key not in known]:
        near = get_close_matches(wrong[0], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known))}"
        raise InputError(f"cluster {name} has no setting {wrong[0]!r}", hint=hint)
    return checked(name, own, known)


def cluster_class(name: str) -> type[Cluster]:
    """Return a cluster's class by its name.

    Raises
    ------
    ClusterError
        If there is no cluster of that name (the hint suggests the nearest one), or a package it needs is not installed.
    """
    added = _added()
    if name not in REGISTRY and name not in added:
        near = get_close_matches(name, cluster_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(cluster_names())}"
        raise ClusterError(f"unknown cluster {name!r}", hint=hint)
    try:
        found = _load(REGISTRY[name][0]) if name in REGISTRY else added[name].load()
    except ImportError as error:
        hint = REGISTRY[name][1] if name in REGISTRY else f"see the package {added[name].value.partition('.')[0]}"
        raise ClusterError(f"cluster {name!r} is not available: {error}", hint=hint) from error
    if not (isinstance(found, type) and issubclass(found, Cluster)):
        raise ClusterError(f"entry point {name!r} of toilfn.clusters is {found!r}, not a subclass of Cluster")
    return found


def cluster_names() -> list[str]:
    """Return the names of all clusters in alphabetical order."""
    return sorted({*REGISTRY, *_added()})


def _added() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # slow to import, and workers import this package

    return {entry.name: entry for entry in entry_points(group="toilfn.clusters")}


def _load(path: str) -> object:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
