"""The stream of events from a Mesos master or agent: the endless response to a SUBSCRIBE call.

This module follows "RecordIO" in the Mesos documentation of the scheduler and executor HTTP APIs: each record consists
of its length in decimal digits, a line feed, and that many bytes of JSON.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from toilfn.clusters.common.commands import UnavailableError
from toilfn.clusters.common.http import refusal
from toilfn.errors import ClusterError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Stream", "records"]

_LONGEST = 2**30
"""Maximum length of a record in bytes."""


class Stream:
    """The events that follow a SUBSCRIBE call.

    Parameters
    ----------
    name : str
        The name of the other side in errors.
    url : str
        The URL of the call.
    call : mapping
        The call that subscribes.
    headers : mapping
        Additional headers, such as credentials.
    timeout : float
        Seconds without an event or heartbeat after which the connection counts as lost.

    Raises
    ------
    UnavailableError
        If the other side does not answer at present.
    RefusedError
        If the other side refuses. The error has its message, and the target of a redirect.
    """

    def __init__(
        self, name: str, url: str, call: Mapping[str, Any], headers: Mapping[str, str], timeout: float
    ) -> None:
        self._name, self._url = name, url
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=timeout)
        every = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close", **headers}
        try:
            self._connection.request("POST", parts.path, json.dumps(call), every)
            self._socket: socket.socket = self._connection.sock
            self._response: HTTPResponse = self._connection.getresponse()
        except (OSError, HTTPException) as error:
            self._connection.close()
            raise UnavailableError(f"{name} at {url} does not respond: {error}") from None
        if self._response.status != 200:
            with self:
                raise refusal(name, url, self._response.status, self._response.reason, self._response)
        self.id: str = self._response.getheader("Mesos-Stream-Id", "")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the events until the other side ends the stream.

        Raises
        ------
        UnavailableError
            If the connection is lost.
        """
        try:
            for record in records(self._response):
                yield json.loads(record)
        except (OSError, HTTPException, ValueError) as error:
            raise UnavailableError(f"{self._name} at {self._url} stopped responding: {error}") from None

    def cut(self) -> None:
        """End the stream while another thread reads from it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Free the connection."""
        self._response.close()
        self._connection.close()


def records(source: IO[bytes]) -> Iterator[bytes]:
    """Iterate over the records in a stream of bytes.

    Raises
    ------
    ClusterError
        If the stream is not in RecordIO format, or ends within a record.
    """
    while line := source.readline(20):
        if not line.strip().isdigit() or int(line) > _LONGEST:
            raise ClusterError(f"Mesos sent {line!r} where the length of a record was expected")
        length, data = int(line), b""
        while len(data) < length:
            more = source.read(length - len(data))
            if not more:
                raise ClusterError("Mesos closed its stream in the middle of a record")
            data += more
        yield data
