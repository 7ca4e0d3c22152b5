"""Watch for the cloud's notice that it takes a machine away, and then drain the machine's Slurm node.

Each cloud has an address for metadata inside every machine. AWS announces the end of a spot machine there two minutes
before, Google about thirty seconds before.
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
"""Timeout for a request in seconds; short, since the address is local to the machine."""


class Notices(Protocol):
    """The source of a cloud's notices inside a machine.

    Attributes
    ----------
    interval : float
        Seconds between two requests.
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
    """Interruption notices in the metadata of AWS, read with a token (version 2 of the metadata service).

    Parameters
    ----------
    address : str, optional
        The URL of the metadata service. Default: ``AWS_EC2_METADATA_SERVICE_ENDPOINT``, else AWS's usual one.
    """

    interval = 5.0

    def __init__(self, address: str | None = None) -> None:
        given = address or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254"
        self._address = given.rstrip("/")
        self._token = ""

    def look(self) -> str:
        """Return the announcement of AWS, such as ``"terminate at 2026-11-30T12:00:00Z"``; empty without one."""
        try:
            text = self._read("meta-data/spot/instance-action")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return ""
            if error.code == 401:  # the token has expired
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
        The URL of the metadata service. Default: that of ``GCE_METADATA_HOST``, else Google's usual one.
    """

    interval = 1.0

    def __init__(self, address: str | None = None) -> None:
        host = os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"
        self._address = (address or f"http://{host}").rstrip("/")

    def look(self) -> str:
        """Return ``"preempted"`` once Google has begun to preempt the machine, else an empty text."""
        path = f"{self._address}/computeMetadata/v1/instance/preempted"
        return "preempted" if _ask(path, {"Metadata-Flavor": "Google"}).strip().upper() == "TRUE" else ""


def _ask(url: str, headers: Mapping[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=dict(headers), method=method)  # noqa: S310
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would return its own metadata
    with direct.open(request, timeout=_TIMEOUT) as answer:
        return str(answer.read().decode())


def watch(node: str, notices: Notices, pause: Callable[[float], None] = time.sleep) -> str:
    """Wait until the cloud announces that it takes this machine away; then drain its node, and warn its jobs.

    Parameters
    ----------
    node : str
        The name of this machine in Slurm.
    notices : Notices
        The source of the announcement.
    pause : callable, optional
        A function that waits for a number of seconds.

    Returns
    -------
    str
        The announcement.
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
        except ClusterError as error:  # the controller may be unreachable for a moment; there is still time to retry
            _log.warning("%s", error)
        pause(notices.interval)


def _looked(notices: Notices) -> str:
    try:
        return notices.look()
    except (OSError, ValueError) as error:
        _log.info("the machine's metadata cannot be read: %s", error)
        return ""
