"""Settings of `MesosCluster`."""

from __future__ import annotations

import base64
import getpass
import math
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from toilfn.clusters.common.settings import ContainerSettings, setting
from toilfn.units import parse_duration

__all__ = ["MesosSettings", "credentials", "endpoints", "framework_info"]

_WEEK = 7 * 86400.0


class MesosSettings(ContainerSettings, total=False):
    """Settings of `MesosCluster` besides those of `ContainerSettings`, of which `image` is optional here.

    Parameters
    ----------
    endpoint : str or sequence of str
        Address of the master, such as ``"10.0.0.1:5050"`` or ``"https://mesos.example.org"``, or addresses of several
        masters. Default: ``TOILFN_MESOS_ENDPOINT``, else ``localhost:5050``.
    role : str
        Role whose resources to use. Default: ``TOILFN_MESOS_ROLE``, else ``*``, the default role.
    name : str
        Name of the framework. Default: ``TOILFN_MESOS_NAME``, else ``toilfn``.
    framework_id : str
        Id of a framework to continue. Default: ``TOILFN_MESOS_FRAMEWORK_ID``, else the one an earlier leader saved in
        the store.
    principal, secret : str
        Principal and secret for basic authentication. Default: ``TOILFN_MESOS_PRINCIPAL`` and ``TOILFN_MESOS_SECRET``.
    user : str
        User who runs the jobs on the nodes. Default: the current user.
    attributes : mapping of str to str
        Attributes that agents must have. Agents whose attribute ``preemptible`` is true get only preemptible tasks.
    failover_timeout : str or float
        How long jobs keep running without a leader. Default: a week.
    containerizer : str
        Containerizer that runs the image: ``"MESOS"`` (the default) or ``"DOCKER"``. Without an image, jobs run
        directly on the nodes, with the leader's Python interpreter unless `python` names another.
    """

    endpoint: str | Sequence[str]
    role: str
    name: str
    framework_id: str
    principal: str
    secret: str
    user: str
    attributes: Mapping[str, str]
    failover_timeout: str | float
    containerizer: str


def endpoints(settings: Mapping[str, Any]) -> list[str]:
    """Return the URLs of the masters."""
    given: Any = setting(settings, "endpoint", "TOILFN_MESOS_ENDPOINT") or "localhost:5050"
    places = given.split(",") if isinstance(given, str) else given
    return [(place if "://" in place else f"http://{place}").strip().rstrip("/") for place in places]


def framework_info(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Build the FrameworkInfo without id."""
    principal = setting(settings, "principal", "TOILFN_MESOS_PRINCIPAL")
    return {
        "user": settings.get("user") or getpass.getuser(),
        "name": f"{setting(settings, 'name', 'TOILFN_MESOS_NAME') or 'toilfn'} {name}",
        "roles": [setting(settings, "role", "TOILFN_MESOS_ROLE") or "*"],
        "hostname": socket.gethostname(),
        "checkpoint": True,  # jobs outlive a restart of their agent
        "failover_timeout": float(math.ceil(parse_duration(settings.get("failover_timeout", _WEEK)))),
        "capabilities": [{"type": "MULTI_ROLE"}, {"type": "RESERVATION_REFINEMENT"}, {"type": "GPU_RESOURCES"}],
        **({"principal": principal} if principal else {}),
    }


def credentials(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the header with the credentials; empty without credentials."""
    principal = setting(settings, "principal", "TOILFN_MESOS_PRINCIPAL")
    secret = setting(settings, "secret", "TOILFN_MESOS_SECRET")
    if not principal or not secret:
        return {}
    return {"Authorization": f"Basic {base64.b64encode(f'{principal}:{secret}'.encode()).decode()}"}
