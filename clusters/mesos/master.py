"""A framework's connection to a Mesos master: one subscription with its stream of events, and calls.

This module follows the documentation of the scheduler HTTP API (v1): redirects to the leading master,
Mesos-Stream-Id, heartbeats, and resubscribing with the same framework id. `Stream` is the endless response to a
SUBSCRIBE call, which executors read, too. Its records have the form "RecordIO": the length in decimal digits, a line
feed, and that many bytes of JSON.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from toilfn.clusters.common.commands import UnavailableError
from toilfn.clusters.common.http import JsonService, RefusedError, refusal
from toilfn.errors import ClusterError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Master", "Stream", "records"]

_log = logging.getLogger(__name__)

NAME = "the Mesos master"
_PATH = "/api/v1/scheduler"
_SILENCE = 75.0
"""Seconds without an event after which the connection counts as lost: five heartbeats of the master."""
_PAUSE = 1.0
"""Seconds between two attempts to subscribe."""


class Master:
    """Keeps a framework subscribed, in a thread of its own.

    Parameters
    ----------
    endpoints : sequence of str
        URLs of masters; each of them redirects to the leading master.
    framework : mapping
        The FrameworkInfo without id.
    headers : mapping
        Headers with credentials.
    on_event : callable
        Called with each event, in the thread.

    Raises
    ------
    InputError
        If an endpoint is not a valid URL.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        framework: Mapping[str, Any],
        headers: Mapping[str, str],
        on_event: Callable[[dict[str, Any]], None],
    ) -> None:
        self._endpoints = [JsonService(NAME, endpoint).url for endpoint in endpoints]
        self._framework = framework
        self._headers = headers
        self._on_event = on_event
        self._changed = threading.Condition()
        """Guards `_service`, `_problem` and `framework_id`, which the thread changes; `start` waits for a change."""
        self._stopped = threading.Event()
        self._stream: Stream | None = None
        self._service: JsonService | None = None
        self._problem: ClusterError = UnavailableError(f"{NAME} has not responded yet")
        self._thread = threading.Thread(target=self._run, name="toilfn-mesos", daemon=True)
        self.framework_id = ""

    def start(self, framework_id: str, timeout: float) -> None:
        """Subscribe, and wait for the answer. With an id, subscribe as that framework, to continue an earlier run's.

        Raises
        ------
        ClusterError
            If the master refuses, or does not answer within `timeout` seconds.
        """
        self.framework_id = framework_id
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._service is not None or self._is_refused, timeout)
        if self._service is None:
            self.stop()
            raise self._problem

    def stop(self) -> None:
        """End the subscription without changing the framework."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.cut()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def check(self) -> None:
        """Check that the framework is subscribed.

        Raises
        ------
        UnavailableError
            If the master does not answer at present.
        ClusterError
            If the master has refused the framework permanently.
        """
        if self._service is None:
            raise self._problem

    def call(self, kind: str, **body: Any) -> None:
        """Send a call of the scheduler API. Raises like `check`, and `RefusedError`."""
        self._post(_PATH, {"type": kind, "framework_id": {"value": self.framework_id}, **body})

    def ask(self, kind: str) -> dict[str, Any]:
        """Send a call of the operator API, and return its answer."""
        answer: dict[str, Any] = self._post("/api/v1", {"type": kind})[kind.lower()]
        return answer

    @property
    def _is_refused(self) -> bool:
        return not isinstance(self._problem, UnavailableError)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        service, stream = self._service, self._stream
        if service is None or stream is None:
            raise self._problem
        return service.post(path, body, {"Mesos-Stream-Id": stream.id} if path == _PATH else {})

    def _run(self) -> None:
        place = 0
        while not self._stopped.is_set():
            endpoint = self._endpoints[place % len(self._endpoints)]
            try:
                self._listen(endpoint)
            except UnavailableError as error:
                self._lost(error)
            except ClusterError as error:
                self._lost(error)
                return
            place += 1
            self._stopped.wait(_PAUSE)

    def _lost(self, error: ClusterError) -> None:
        """Record the loss of the subscription. `_on_event` is called without the lock, since it takes the cluster's."""
        with self._changed:
            self._problem, self._service = error, None
            self._changed.notify_all()
        if not self._stopped.is_set():
            _log.warning("%s", error)
            self._on_event({"type": "DISCONNECTED"})

    def _listen(self, endpoint: str) -> None:
        """Subscribe, and handle events until the stream ends."""
        endpoint, self._stream = self._subscribe(endpoint)
        with self._stream as events:
            for event in events:
                if event["type"] == "SUBSCRIBED":
                    self._subscribed(endpoint, event["subscribed"]["framework_id"]["value"])
                if event["type"] == "ERROR":
                    raise ClusterError(f"{NAME} at {endpoint} closed the subscription: {event['error']['message']}")
                self._on_event(event)
        raise UnavailableError(f"{NAME} at {endpoint} closed its stream")

    def _subscribed(self, endpoint: str, framework_id: str) -> None:
        with self._changed:
            self.framework_id = framework_id
            self._service = JsonService(NAME, endpoint, lambda: self._headers)
            self._changed.notify_all()

    def _subscribe(self, endpoint: str) -> tuple[str, Stream]:
        """Subscribe at the leading master; return its address and the stream."""
        id_ = {"value": self.framework_id}
        known = {"framework_id": id_} if self.framework_id else {}
        info = {**self._framework, **({"id": id_} if self.framework_id else {})}
        call = {"type": "SUBSCRIBE", "subscribe": {"framework_info": info}, **known}
        try:
            return endpoint, Stream(NAME, endpoint + _PATH, call, self._headers, _SILENCE)
        except RefusedError as error:
            if error.location:
                leader = urlsplit(urljoin(endpoint, error.location))
                endpoint = f"{leader.scheme}://{leader.netloc}"
                return endpoint, Stream(NAME, endpoint + _PATH, call, self._headers, _SILENCE)
            if error.status in (401, 403):
                hint = "pass principal=... and secret=..., or set TOILFN_MESOS_PRINCIPAL and TOILFN_MESOS_SECRET"
                raise ClusterError(str(error), hint=hint) from None
            raise


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
