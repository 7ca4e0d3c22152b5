"""Dask clusters that exist for the time of a run: create a cluster object of dask-cloudprovider from a description."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from toilfn.cloud.description import Description, PoolDescription, Sizes, read
from toilfn.cloud.policy import KIND, TAG
from toilfn.errors import ClusterError, InputError

__all__ = ["Created", "arguments_of", "create"]

_GIB, _MIB = 2**30, 2**20
_PACKAGES = {"aws": "pip install 'dask-cloudprovider[aws]'", "google": "pip install 'dask-cloudprovider[gcp]'"}
_FARGATE = ((0.25, 0.5, 2), (0.5, 1, 4), (1, 2, 8), (2, 4, 16), (4, 8, 30), (8, 16, 60), (16, 32, 120))
"""The sizes of Fargate's containers: for each number of virtual CPUs, the minimum and maximum memory in GiB."""
_STEPS: dict[float, float] = {8: 4, 16: 8}
"""The steps of the memory of large containers in GiB, by virtual CPUs. The step of smaller containers is 1 GiB."""
_ALONE = 3600
"""Seconds after which a scheduler without tasks ends, for the case that the leader was killed and cannot remove the
machines."""


class Created(NamedTuple):
    """A cluster object, and the resources that its workers will advertise."""

    cluster: Any
    resources: Mapping[str, float]


def create(place: str | os.PathLike[str] | Description, store: str, names: Mapping[str, str]) -> Created:
    """Create the machines of a description, and adapt their number to a run.

    Parameters
    ----------
    place : path or Description
        A description of the kind ``dask`` with one pool.
    store : str
        The URL of the run's store.
    names : mapping of str to str
        The names under which dask workers advertise resources, by toilfn's names.

    Returns
    -------
    Created
        The cluster object, whose ``close`` removes all machines.

    Raises
    ------
    InputError
        If the description is of another kind, or dask-cloudprovider does not support a part of it.
    ClusterError
        If dask-cloudprovider is not installed, or the cloud refuses.
    """
    description = place if isinstance(place, Description) else _read(Path(place))
    size = _size_of(description)
    path, arguments = arguments_of(description, size)
    kind = _class(path, description)
    _check(kind, arguments, description)
    (pool,) = description.pools
    try:
        cluster = kind(**arguments)
    except Exception as error:  # botocore, Google's client and dask raise errors without a common base class
        raise ClusterError(f"cluster {description.name}: {path.rpartition(':')[2]} failed: {error}") from error
    try:
        from toilfn.cloud.adaptive import follow

        follow(cluster, store, {"minimum": pool.min, "maximum": pool.max}, names, description.scaling, size)
    except BaseException:
        cluster.close()
        raise
    return Created(cluster, arguments.get("worker_options", {}).get("resources") or _resources(size))


def _size_of(description: Description) -> Sizes | None:
    """Return the size of a worker from the description, else from AWS; None if it is unknown."""
    pool = description.pools[0]
    if not pool.types:
        return None if description.cloud == "google" else Sizes(*_fargate_size(pool))
    given = description.machines.get(pool.types[0])
    if given is not None or description.cloud == "google":
        return given
    from toilfn.cloud.aws import AmazonCloud

    kind = AmazonCloud(description.name, description.region).machine_types([pool.types[0]])[pool.types[0]]
    return Sizes(kind.cores, kind.memory)


def _resources(size: Sizes | None) -> dict[str, float]:
    """Return the resources that workers of a size advertise, by the names that `DaskCluster` expects."""
    return {} if size is None else {"cores": size.cores, "memory": size.memory}


def _read(path: Path) -> Description:
    try:
        return read(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path}: the description cannot be read: {error.strerror}") from None


def _class(path: str, description: Description) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except ImportError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ClusterError(
            f"cluster {description.name}: needs dask-cloudprovider: {reason}", hint=_PACKAGES[description.cloud]
        ) from error
    return found


def _check(kind: Callable[..., Any], arguments: Mapping[str, Any], description: Description) -> None:
    """Check that the class, or a base class to which it passes keyword arguments, has parameters with these names."""
    known: set[str] = set()
    for base in inspect.getmro(kind) if inspect.isclass(kind) else ():
        if "__init__" in vars(base):
            known |= set(inspect.signature(vars(base)["__init__"]).parameters)
    known -= {"self", "args", "kwargs"}
    if known and (wrong := sorted(arguments.keys() - known)):
        raise InputError(f"cluster {description.name}: dask: {kind.__name__} has no parameter {wrong[0]!r}")


def arguments_of(description: Description, size: Sizes | None = None) -> tuple[str, dict[str, Any]]:
    """Return the class of dask-cloudprovider for a description, as ``module:name``, and its arguments.

    A pool with types becomes virtual machines (``EC2Cluster``, ``GCPCluster``). On AWS, a pool with cores and memory
    becomes containers without machines (``FargateCluster``). The description's section ``dask`` overrides the
    arguments.

    Parameters
    ----------
    description : Description
        A cluster of the kind ``dask``.
    size : Sizes, optional
        The cores and memory that workers advertise, so that tasks are placed by them. Without a size, each task takes
        one thread.

    Raises
    ------
    InputError
        If the description is of another kind, has several pools or a price limit, or lacks the image.
    """
    name = description.name
    if description.kind != "dask":
        raise InputError(
            f"cluster {name}: its description is of the kind {description.kind}, not dask",
            hint=f"write kind: dask, or run `toilfn cluster launch {name}`",
        )
    if len(description.pools) > 1:
        raise InputError(f"cluster {name}: a dask cluster must have one pool, but the description has several")
    if description.container is None:
        raise InputError(
            f"cluster {name}: the image of the workers is missing",
            hint="write container: REGISTRY/IMAGE:TAG, an image with toilfn, dask and all modules that tasks import",
        )
    (pool,) = description.pools
    if pool.max_price is not None:
        raise InputError(f"pool {pool.name}: dask-cloudprovider does not support price limits", hint="remove max_price")
    if description.cloud == "google":
        path, arguments = "dask_cloudprovider.gcp:GCPCluster", _google(description, pool) | _machine_options(size)
    elif pool.types:
        if not description.network.security_groups:  # dask-cloudprovider 2025.9.0 fails to create one
            raise InputError(
                f"cluster {name}: a dask cluster on EC2 needs a security group",
                hint="list one under network: security_groups; it must allow all connections among its machines, and "
                "connections from the leader's machine to ports 8786 and 8787",
            )
        path, arguments = "dask_cloudprovider.aws:EC2Cluster", _amazon(description, pool) | _machine_options(size)
    else:
        path, arguments = "dask_cloudprovider.aws:FargateCluster", _fargate(description, pool)
    given = {key: value for key, value in arguments.items() if value not in (None, [], {})}
    return path, {**given, "n_workers": pool.min, **description.dask}


def _machine_options(size: Sizes | None) -> dict[str, Any]:
    """Return the options with which workers advertise their size, and machines end if their leader is gone."""
    resources = {"worker_options": {"resources": _resources(size)}} if size else {}
    return {"scheduler_options": {"idle_timeout": f"{_ALONE}s"}, **resources}


def _tags(description: Description) -> dict[str, str]:
    return {**description.tags, TAG: description.name, KIND: "dask"}


def _amazon(description: Description, pool: PoolDescription) -> dict[str, Any]:
    profile = description.profile
    return {
        "region": description.region,
        "availability_zone": list(description.zones),
        "ami": description.image,
        "scheduler_instance_type": description.controller,
        "worker_instance_type": pool.types[0],
        "filesystem_size": -(-pool.disk_of(pool.types[0]) // _GIB),
        "key_name": description.key,
        "iam_instance_profile": profile and ({"Arn": profile} if profile.startswith("arn:") else {"Name": profile}),
        "subnet_id": next(iter(description.network.subnets), None),
        "security_groups": list(description.network.security_groups),
        "use_private_ip": description.network.private,
        "docker_image": description.container,
        "instance_tags": _tags(description),
        "volume_tags": _tags(description),
        "spot": pool.spot,
        "extra_bootstrap": list(description.init),
    }


def _fargate(description: Description, pool: PoolDescription) -> dict[str, Any]:
    cores, memory = _fargate_size(pool)
    return {
        "region_name": description.region,
        "image": description.container,
        "worker_cpu": round(1024 * cores),
        "worker_nthreads": max(1, int(cores)),
        "worker_mem": memory // _MIB,
        "worker_extra_args": ["--resources", f"cores={cores:g},memory={memory}"],
        "scheduler_timeout": f"{_ALONE}s",
        "fargate_spot": pool.spot,
        "fargate_use_private_ip": description.network.private,
        "task_role_arn": description.profile,
        "subnets": list(description.network.subnets),
        "security_groups": list(description.network.security_groups),
        "tags": _tags(description),
    }


def _fargate_size(pool: PoolDescription) -> tuple[float, int]:
    """Return the cores and memory of Fargate's smallest container that is large enough for a pool."""
    wanted = (pool.memory or 0) / _GIB
    for cores, least, most in _FARGATE:
        step = _STEPS.get(cores, 1)
        memory = least if wanted <= least else math.ceil(wanted / step) * step
        if cores >= (pool.cores or 0) and memory <= most:
            return cores, round(memory * _GIB)
    cores, _, most = _FARGATE[-1]
    raise InputError(
        f"pool {pool.name}: Fargate's largest containers have {cores:g} cores and {most:g} GiB of memory",
        hint="use machine types instead of cores and memory",
    )


def _google(description: Description, pool: PoolDescription) -> dict[str, Any]:
    if not pool.types:
        raise InputError(f"pool {pool.name}: on Google, a pool of a dask cluster needs types")
    if not description.zones:
        raise InputError(
            f"cluster {description.name}: on Google, a dask cluster needs a zone, such as zones: [us-east1-c]"
        )
    return {
        "projectid": description.project,
        "zone": description.zones[0],
        "source_image": description.image,
        "scheduler_machine_type": description.controller,
        "worker_machine_type": pool.types[0],
        "filesystem_size": -(-pool.disk_of(pool.types[0]) // _GIB),
        "docker_image": description.container,
        "service_account": description.profile,
        "instance_labels": _tags(description),
        "preemptible": pool.spot,
        "extra_bootstrap": list(description.init),
    }
