"""``/metrics``: the metrics of the server, for Prometheus. Each request computes them from the index."""

from __future__ import annotations

import shutil
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from toilfn.errors import InputError, ToilfnError
from toilfn.server.forms import user_of
from toilfn.server.records import State

if TYPE_CHECKING:
    from toilfn.server.app import Service

__all__ = ["Traffic", "metrics_route"]


class Traffic:
    """Counts the server's responses by method and status, and adds up the seconds until each response began.

    Several threads may use it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    def add(self, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        with self._lock:
            self._counts[method, str(status)] += 1
            self._seconds[method, str(status)] += seconds

    def read(self) -> list[tuple[list[str], int, float]]:
        """Return, for each method and status, the number of requests so far, and their total seconds."""
        with self._lock:
            return [(list(key), count, self._seconds[key]) for key, count in self._counts.items()]


class _Collector:
    """Computes the metrics of a server whenever they are read."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> list[Any]:
        """Return nothing, so that registering the collector does not read the server."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield all metrics."""
        from prometheus_client.core import GaugeMetricFamily, SummaryMetricFamily

        service = self._service
        counts = service.index.counts()
        runs = GaugeMetricFamily("toilfn_server_runs", "Runs that the server has, by state.", labels=["state"])
        for state in State:
            runs.add_metric([state.value], counts.get(state.value, 0))
        yield runs
        tasks = GaugeMetricFamily("toilfn_server_tasks", "Tasks of runs that are running, by state.", labels=["state"])
        for name, count in self._tasks().items():
            tasks.add_metric([name], count)
        yield tasks
        for name, text, rows in (
            ("run_duration", "Time from the start of a run to its end, by kind and state.", service.index.durations()),
            ("run_queue", "Time that runs waited for their start, by kind and state.", service.index.waits()),
        ):
            summary = SummaryMetricFamily(f"toilfn_server_{name}_seconds", text, labels=["kind", "state"])
            for kind, state_name, number, seconds in rows:
                summary.add_metric([kind, state_name], count_value=number, sum_value=seconds)
            yield summary
        requests = SummaryMetricFamily(
            "toilfn_server_request_duration_seconds", "Time until a response began, by method and status.",
            labels=["method", "status"],
        )  # fmt: skip
        for labels, number, seconds in service.traffic.read():
            requests.add_metric(labels, count_value=number, sum_value=seconds)
        yield requests
        yield from self._plain()

    def _tasks(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for row in self._service.index.page(self._service.launch.limit * 4, wanted=self._running):
            try:
                summary = self._service.view(self._service.place.run(row.id)).summary()
            except ToilfnError:
                continue  # the run was deleted after it was listed, or its store is unreadable; the run's page says so
            found.update({state.value: count for state, count in summary.counts.items()})
        return found

    @property
    def _running(self) -> Any:
        from toilfn.server.index import Filter

        return Filter(state=State.RUNNING.value)

    def _plain(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        service = self._service
        gauges: list[tuple[str, str, float]] = [
            (
                "leaders",
                "Leaders that this server has started and that are still running.",
                service.launcher.busy(),
            ),
            ("leaders_limit", "Maximum number of leaders at one time.", service.launch.limit),
            ("unread_runs", "Runs that are not in the index yet.", service.unread),
            ("disk_free_bytes", "Free disk space for the files of runs.", shutil.disk_usage(service.place.work).free),
            ("launcher_alive", "1 while the server can start runs, else 0.", service.launcher.is_alive),
        ]
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"toilfn_server_{name}", text, value)
        sent = service.place.store.objects.requests
        yield CounterMetricFamily("toilfn_server_store_requests", "Requests to the place of the records.", sent)


def metrics_route(service: Service) -> Any:
    """Return the route of the metrics. On a server with tokens, it requires an operator's token.

    Parameters
    ----------
    service : Service
    """
    from starlette.responses import Response
    from starlette.routing import Route

    make = _maker(service)

    def answer(request: Any) -> Any:
        if not user_of(request).is_operator:
            return Response("metrics are for operators; give this scraper an operator's token\n", 403)
        content, kind = make()
        return Response(content, media_type=kind)

    return Route("/metrics", answer)


def _maker(service: Service) -> Callable[[], tuple[bytes, str]]:
    try:
        import prometheus_client
    except ImportError:

        def refuse() -> tuple[bytes, str]:
            raise InputError("metrics need the package prometheus-client", hint="pip install 'toilfn[server]'")

        return refuse
    registry = prometheus_client.CollectorRegistry()
    registry.register(_Collector(service))
    prometheus_client.ProcessCollector(registry=registry)
    return lambda: (prometheus_client.generate_latest(registry), prometheus_client.CONTENT_TYPE_LATEST)
