"""The connection to a scheduler of dask.distributed, renewed after a loss of the scheduler."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from toilfn.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["DaskLink"]

_PAUSE = 0.1


class DaskLink:
    """Provides a connected client: its own, or the user's.

    Parameters
    ----------
    place : str, distributed.Client, cluster object or None
        The scheduler; None means the configured ``scheduler-address``.
    timeout : float
        Seconds to wait for the scheduler, at the start and after its loss.
    """

    def __init__(self, place: Any, timeout: float) -> None:
        self._place = place
        self._timeout = timeout
        self._client: Client | None = None
        self._loop: _Loop | None = None
        self._lock = threading.RLock()
        """Guards the client, since submissions may run in another thread."""

    @property
    def is_up(self) -> bool:
        """Whether the client is connected, as far as it knows."""
        return self._client is not None and self._client.status == "running"

    def client(self) -> Client:
        """Return a connected client.

        Raises
        ------
        ClusterError
            If the scheduler does not answer in time.
        """
        with self._lock:
            if self._client is None or not self.is_up:
                self.close()
                self._client = self._users_client() or self._own_client()
            return self._client

    def address(self) -> dict[str, Any] | None:
        """Return the argument for finding the scheduler from another process; None if it ends with this one."""
        if self._place is None:
            return {}
        if isinstance(self._place, str):
            return {"cluster": self._place}
        from distributed import Client

        return {"cluster": self._address()} if isinstance(self._place, Client) else None

    def close(self) -> None:
        """Disconnect, but leave a user's client open. May be called twice."""
        with self._lock:
            client, loop = self._client, self._loop
            self._client = self._loop = None
        if loop is not None:
            try:
                if client is not None:
                    with suppress(OSError, TimeoutError):  # the scheduler is gone
                        client.close(timeout=self._timeout)
            finally:
                loop.stop()

    def _users_client(self) -> Client | None:
        """Return the user's client, if there is one, once it is connected (again)."""
        from distributed import Client

        if not isinstance(self._place, Client):
            return None
        end = time.monotonic() + self._timeout
        while self._place.status == "connecting" and time.monotonic() < end:
            time.sleep(_PAUSE)
        if self._place.status != "running":
            raise ClusterError(f"dask client {self._place} is {self._place.status}: its scheduler was lost")
        return self._place

    def _own_client(self) -> Client:
        from distributed import Client

        address = self._address()
        self._loop = _Loop()
        try:
            return Client(
                address,
                timeout=self._timeout,
                set_as_default=False,
                security=getattr(self._place, "security", None),
                loop=self._loop.loop,
            )
        except (OSError, TimeoutError) as error:
            self.close()
            raise ClusterError(f"dask scheduler at {address} does not respond: {error}") from error
        except BaseException:
            self.close()
            raise

    def _address(self) -> str:
        import dask.config

        address = getattr(self._place, "scheduler_address", None)  # of a cluster object
        address = address or getattr(getattr(self._place, "scheduler", None), "address", self._place)  # of a client
        address = address or dask.config.get("scheduler-address", None)
        if not address:
            raise ClusterError(
                "no dask scheduler is set",
                hint="use DaskCluster('tcp://host:8786'), pass a client or a cluster object, or set"
                " DASK_SCHEDULER_ADDRESS",
            )
        return str(address)


class _Loop:
    """An event loop in a thread of its own that can be ended whatever the state of the client in it.

    A client with its own loop leaves the thread running when it loses its scheduler permanently.
    """

    def __init__(self) -> None:
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="toilfn-dask", daemon=True)
        self._thread.start()
        self._started.wait()

    async def _run(self) -> None:
        from tornado.ioloop import IOLoop

        self.loop = IOLoop.current()
        self._stop = asyncio.Event()
        self._started.set()
        await self._stop.wait()

    def stop(self) -> None:
        """End the thread, and all coroutines in it."""
        self.loop.add_callback(self._stop.set)
        self._thread.join()
