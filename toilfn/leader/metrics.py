"""``/metrics`` of a leader, for Prometheus.

Finished attempts are counted; everything else is read from the leader's state when Prometheus asks. Labels have few
values: kinds of tasks, states and causes, and of the kinds only the first hundred.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import toilfn
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.model.records import Failure, Outcome, Run
from toilfn.scheduler.states import State
from toilfn.stores.counted import Traffic

if TYPE_CHECKING:
    from toilfn.clusters.base import Cluster
    from toilfn.leader.committer import Committer
    from toilfn.leader.leader import Leader
    from toilfn.stores import Store

__all__ = ["Metrics", "Tally", "Watched", "check_metrics"]

_log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_TASK_SECONDS = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 24 * 3600.0)
_WORK_SECONDS = (0.001, 0.01, 0.1, 1.0, 10.0)
_MOST_KINDS = 100
_OTHERS = "(others)"
"""The kind of all tasks after the first hundred kinds: each would be some twenty time series more."""
_SHARE = 20
"""Counting open tasks takes at most one part in so many of the time, however often Prometheus asks."""


class _Histogram:
    """The number of observations up to each of several bounds."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        return list(zip((*map(str, self._bounds), "+Inf"), accumulate(list(self._counts)), strict=True))


class _Kind:
    """The finished attempts of the tasks of one name."""

    __slots__ = ("cpu", "failed", "seconds", "succeeded")

    def __init__(self) -> None:
        self.succeeded = self.failed = 0
        self.cpu = 0.0
        self.seconds = _Histogram(_TASK_SECONDS)


class Tally:
    """Counts the attempts of a leader, and how long the leader itself works at a time."""

    def __init__(self) -> None:
        self.kinds: dict[str, _Kind] = {}
        self.retries: Counter[str] = Counter({cause.value: 0 for cause in Cause})
        self.given_up = self.retries.copy()
        self.hosts: set[str] = set()
        self.worker_requests = 0
        self.work = _Histogram(_WORK_SECONDS)
        self.looked_at = time.monotonic()

    def ended(self, name: str, attempt: Outcome | Failure) -> None:
        """Count a finished attempt of a task of this name."""
        kind = self._kind(name)
        stats = attempt.stats
        kind.cpu += stats.cpu
        self.worker_requests += stats.requests
        if stats.host:
            self.hosts.add(stats.host)
        if isinstance(attempt, Outcome):
            kind.succeeded += 1
            kind.seconds.add(stats.wall)
        else:
            kind.failed += 1
            (self.given_up if attempt.final else self.retries)[attempt.cause] += 1

    def worked(self, seconds: float) -> None:
        """Note that the leader has worked for so many seconds before it looks for news."""
        self.work.add(seconds)
        self.looked_at = time.monotonic()

    def label(self, name: str) -> str:
        """Return the name under which tasks of this name are counted."""
        return name if name in self.kinds or len(self.kinds) < _MOST_KINDS else _OTHERS

    def _kind(self, name: str) -> _Kind:
        kind = self.kinds.get(name)
        if kind is None:
            kind = self.kinds.setdefault(self.label(name), _Kind())
        return kind


class Watched:
    """The parts of a running leader that another thread reads for its metrics.

    Parameters
    ----------
    leader : Leader
    committer : Committer
    cluster : Cluster
    store : Store
    run : Run
    """

    def __init__(self, leader: Leader, committer: Committer, cluster: Cluster, store: Store, run: Run) -> None:
        self.jobs = leader.jobs
        self.committer = committer
        self.cluster = cluster
        self.store = store
        self.run = run
        self._kind = leader.tasks.kind
        self._open_tasks = leader.open_tasks
        self._counts: Counter[tuple[str, State]] = Counter()
        self._next = 0.0

    def open_tasks(self) -> Mapping[tuple[str, State], int]:
        """Count the tasks that have no outcome by kind and state; the counts may be a little old if they are many."""
        began = time.monotonic()
        if began >= self._next:
            found = ((self._kind(id_), state) for id_, state in self._open_tasks())
            self._counts = Counter((kind, state) for kind, state in found if kind is not None)
            now = time.monotonic()
            self._next = now + (now - began) * _SHARE
        return self._counts


class _Collector:
    """Makes the metrics whenever they are read."""

    def __init__(self, tally: Tally, traffic: Traffic, watched: Watched) -> None:
        self._tally = tally
        self._traffic = traffic
        self._watched = watched

    def describe(self) -> list[Any]:
        """Return nothing, so that registering the collector reads nothing."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield all metrics."""
        yield from self._run()
        yield from self._tasks()
        yield from self._attempts()
        yield from self._store()
        yield from self._loop()

    def _run(self) -> Iterator[Any]:
        watched = self._watched
        cluster = watched.run.settings.get("cluster") or "local"
        labels = {"version": toilfn.__version__, "workflow": watched.run.workflow, "cluster": cluster}
        yield _gauge("info", "The workflow that this leader leads.", {tuple(labels.values()): 1}, *labels)
        yield _gauge("jobs", "Jobs on the cluster, by state.",
                     {(state,): number for state, number in watched.jobs.states().items()}, "state")  # fmt: skip
        yield _gauge("hosts", "Machines on which attempts of this run have finished.", {(): len(self._tally.hosts)})
        with suppress(ClusterError):  # the system does not answer now
            if (nodes := watched.cluster.nodes()) is not None:
                yield _gauge("nodes", "Nodes of the cluster, by state.",
                             {(state,): number for state, number in nodes.items()}, "state")  # fmt: skip

    def _tasks(self) -> Iterator[Any]:
        found: Counter[tuple[str, ...]] = Counter()
        for (kind, state), number in self._watched.open_tasks().items():
            found[self._tally.label(kind), state.name.lower()] += number
        for kind, ended in list(self._tally.kinds.items()):
            found[kind, "done"] = ended.succeeded
        yield _gauge("tasks", "Tasks by kind and state; done are those that this leader has seen succeed.",
                     found, "kind", "state")  # fmt: skip

    def _attempts(self) -> Iterator[Any]:
        from prometheus_client.core import HistogramMetricFamily

        kinds = list(self._tally.kinds.items())
        results = {(kind, "success"): ended.succeeded for kind, ended in kinds}
        results |= {(kind, "failure"): ended.failed for kind, ended in kinds}
        yield _counter("attempts", "Finished attempts, by kind and result.", results, "kind", "result")
        seconds = HistogramMetricFamily(
            "toilfn_leader_attempt_duration_seconds", "Duration of successful attempts, by kind.", labels=["kind"]
        )
        for kind, ended in kinds:
            seconds.add_metric([kind], ended.seconds.buckets(), ended.seconds.total)
        yield seconds
        yield _counter("task_cpu_seconds", "Processor time of finished attempts, by kind.",
                       {(kind,): ended.cpu for kind, ended in kinds}, "kind")  # fmt: skip
        for name, text, causes in (
            ("retries", "Failed attempts that are retried, by cause.", self._tally.retries),
            (
                "given_up_tasks",
                "Tasks that failed permanently, by the cause of their last failure.",
                self._tally.given_up,
            ),
        ):
            yield _counter(name, text, {(cause,): number for cause, number in list(causes.items())}, "cause")

    def _store(self) -> Iterator[Any]:
        traffic, requests = self._traffic, self._watched.store.objects.requests
        yield _counter("store_requests", "Requests to the server of the store, by sender.",
                       {("leader",): requests, ("worker",): self._tally.worker_requests}, "process")  # fmt: skip
        yield _counter("store_operations", "Objects of the store that the leader read, wrote, listed or deleted.",
                       {(kind,): number for kind, number in list(traffic.operations.items())}, "operation")  # fmt: skip
        yield _counter("store_bytes", "Bytes of objects that the leader read and wrote.",
                       {("read",): traffic.read, ("write",): traffic.written}, "operation")  # fmt: skip
        unwritten = {(): self._watched.committer.unwritten}
        yield _gauge("unwritten_records", "Records that are not in the store's log yet.", unwritten)

    def _loop(self) -> Iterator[Any]:
        from prometheus_client.core import HistogramMetricFamily

        work = self._tally.work
        name, text = "loop_duration_seconds", "Time that the leader worked between two polls."
        yield HistogramMetricFamily(f"toilfn_leader_{name}", text, work.buckets(), work.total)
        age = {(): max(0.0, time.monotonic() - self._tally.looked_at)}
        yield _gauge("loop_age_seconds", "Time since the leader last polled.", age)


def _gauge(name: str, text: str, values: Mapping[Any, float], *labels: str) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"toilfn_leader_{name}", text, labels=labels), values)


def _counter(name: str, text: str, values: Mapping[Any, float], *labels: str) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(f"toilfn_leader_{name}", text, labels=labels), values)


def _filled(family: Any, values: Mapping[Any, float]) -> Any:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def check_metrics(port: int | None) -> None:
    """Check that metrics can be served, if a port is given.

    Raises
    ------
    InputError
        If a package is missing.
    """
    if port is not None and find_spec("prometheus_client") is None:
        raise InputError(
            f"metrics_port={port} needs the package prometheus-client", hint="pip install 'toilfn[metrics]'"
        )


class Metrics:
    """The metrics of one leader.

    Parameters
    ----------
    port : int
        Where to serve them, on loopback; 0 for any port that is free.

    Attributes
    ----------
    tally : Tally
    traffic : Traffic
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.tally = Tally()
        self.traffic = Traffic()

    @contextmanager
    def served(self, watched: Watched) -> Iterator[None]:
        """Serve the metrics meanwhile. A port that is in use is reported, and ends nothing."""
        import prometheus_client

        registry = prometheus_client.CollectorRegistry()
        registry.register(_Collector(self.tally, self.traffic, watched))
        prometheus_client.ProcessCollector(registry=registry)
        try:
            server, thread = prometheus_client.start_http_server(self._port, _HOST, registry)
        except OSError as error:
            _log.warning(
                "metrics_port=%d: no metrics are served, because the port cannot be opened (%s); metrics_port=0 uses "
                "any free port", self._port, error.strerror or error,
            )  # fmt: skip
            yield
            return
        _log.warning("metrics of this leader: http://%s:%d/metrics", _HOST, server.server_port)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
