"""Notices that a cloud takes a machine away, and what a node of Slurm does about one.

Each cloud answers on an address of its own inside every machine. AWS announces the end of a spot machine two minutes
ahead, Google about thirty seconds.
"""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Protocol

from toilfn.cloud.power import drain, warn
from toilfn.errors import ClusterError

__all__ = ["AmazonNotices", "GoogleNotices", "Notices", "watch"]

_log = logging.getLogger(__name__)

_TIMEOUT = 5.0
"""Seconds for one answer; the address is inside the machine."""


class Notices(Protocol):
    """Where a machine learns that it will be taken away.

    Attributes
    ----------
    interval : float
        Seconds between two questions.
    """

    interval: float

    def look(self) -> str:
        """Return the text of the cloud's announcement, or an empty string without one.

        Raises
        ------
        OSError
            If the cloud does not answer.
        """


class AmazonNotices:
    """Interruption notices in the metadata of AWS, read with a token (version 2 of its service).

    Parameters
    ----------
    address : str, optional
        Of the metadata; by default that of ``AWS_EC2_METADATA_SERVICE_ENDPOINT``, or the one that AWS uses.
    """

    interval = 5.0

    def __init__(self, address: str | None = None) -> None:
        given = address or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254"
        self._address = given.rstrip("/")
        self._token = ""

    def look(self) -> str:
        """Return what AWS announces, such as ``"terminate at 2026-11-30T12:00:00Z"``."""
        try:
            text = self._read("meta-data/spot/instance-action")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return ""
            if error.code == 401:  # the token is too old
                self._token = ""
            raise
        said = json.loads(text)
        return f"{said.get('action', 'terminate')} at {said.get('time', 'an unknown time')}"

    def _read(self, path: str) -> str:
        if not self._token:
            lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
            self._token = _ask(f"{self._address}/latest/api/token", lifetime, "PUT")
        return _ask(f"{self._address}/latest/{path}", {"X-aws-ec2-metadata-token": self._token})


class GoogleNotices:
    """The attribute ``preempted`` in the metadata of Google.

    Parameters
    ----------
    address : str, optional
        Of the metadata; by default that of ``GCE_METADATA_HOST``, or the one that Google uses.
    """

    interval = 1.0

    def __init__(self, address: str | None = None) -> None:
        host = os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"
        self._address = (address or f"http://{host}").rstrip("/")

    def look(self) -> str:
        """Return that Google has begun to preempt the machine, once it has."""
        path = f"{self._address}/computeMetadata/v1/instance/preempted"
        return "preempted" if _ask(path, {"Metadata-Flavor": "Google"}).strip().upper() == "TRUE" else ""


def _ask(url: str, headers: Mapping[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=dict(headers), method=method)  # noqa: S310
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has another machine's metadata
    with direct.open(request, timeout=_TIMEOUT) as answer:
        return str(answer.read().decode())


def watch(node: str, notices: Notices, pause: Callable[[float], None] = time.sleep) -> str:
    """Wait until the cloud announces that it takes this machine away, then drain its node and warn its jobs.

    Returns the announcement.

    Parameters
    ----------
    node : str
        Slurm's name for this machine.
    notices : Notices
        Where the cloud announces it.
    pause : callable, optional
        Waits for some seconds.
    """
    while True:
        if announced := _looked(notices):
            break
        pause(notices.interval)
    _log.warning("the cloud is taking this machine away: %s", announced)
    is_drained, warned = False, set[str]()
    while True:
        try:
            if not is_drained:
                drain(node, f"the cloud is taking this machine away: {announced}")
                is_drained = True
            if not warn(node, warned):
                return announced
        except ClusterError as error:  # the controller may be away for a moment; the machine still is not
            _log.warning("%s", error)
        pause(notices.interval)


def _looked(notices: Notices) -> str:
    try:
        return notices.look()
    except (OSError, ValueError) as error:
        _log.info("the machine's metadata cannot be read: %s", error)
        return ""
