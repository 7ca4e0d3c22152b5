"""Finding a cluster again from what the record of a run says of it: another process ends the run's jobs then."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from toilfn.clusters import REGISTRY, cluster_class
from toilfn.clusters.base import Cluster
from toilfn.errors import ClusterError

__all__ = ["make_again", "name_of"]


def name_of(cluster: object) -> str:
    """Name a cluster's class for `make_again`: as users do, or ``module:class`` where it is not registered."""
    path = f"{type(cluster).__module__}:{type(cluster).__qualname__}"
    return next((name for name, (place, _) in REGISTRY.items() if place == path), path)


def make_again(name: str, address: Mapping[str, Any]) -> Cluster:
    """Make a cluster with which the jobs of an earlier one can be found.

    Parameters
    ----------
    name : str
        From `name_of`, or a user's own word.
    address : mapping
        From `Cluster.address`. All else comes from the configuration.

    Raises
    ------
    ClusterError
        If there is no such class any more.
    """
    found: Any = _load(name) if ":" in name else cluster_class(name)
    cluster: Cluster = found(**address)
    return cluster


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ClusterError(f"the cluster {path}, on which the run was led, is not to be found: {error}") from None
