"""The common parts of the tests of `KubernetesCluster`: a worker that obeys its batch's name, and waiting for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.servers.kubernetes import IMAGE
from toilfn.clusters.base import Batch, JobState, RunContext, Update
from toilfn.clusters.kubernetes.cluster import KubernetesCluster
from toilfn.resources import Resources

RESOURCES = Resources(cores=1, memory=400 * 2**20, disk=2**20)
WORKER = """\
case $2 in
wait*) while ! test -e "$1/go"; do sleep 0.1; done ;;
fail*) exit 3 ;;
do*) eval "${2#do }" > "$1/output" ;;
esac
"""


@contextlib.contextmanager
def opened(folder: Path, outage: Callable[[str], None] | None = None, **settings: Any) -> Iterator[KubernetesCluster]:
    """Open a cluster whose store is a folder, with a workflow of its own."""
    worker = folder / "worker.sh"
    worker.write_text(WORKER)
    cluster = KubernetesCluster(
        **{"image": IMAGE, "poll_interval": 0.1, "worker_command": ["sh", str(worker)], **settings}
    )
    context = RunContext(str(folder), f"test-{uuid4().hex[:8]}", **({"outage": outage} if outage else {}))
    cluster.open(context)
    try:
        yield cluster
    finally:
        cluster.close()


def submit(cluster: KubernetesCluster, *names: str, resources: Resources = RESOURCES) -> dict[str, str]:
    """Submit batches of one shape; give their jobs."""
    return dict(zip(names, cluster.submit([Batch(name, name, resources) for name in names]), strict=True))


def ends(cluster: KubernetesCluster, jobs: dict[str, str], limit: float = 200) -> dict[str, Update]:
    """Poll until all jobs have ended; give how each did."""
    ended: dict[str, Update] = {}
    end = time.monotonic() + limit
    while len(ended) < len(jobs):
        assert time.monotonic() < end, f"still waiting, have {ended}"
        ended |= {update.job: update for update in cluster.poll(1) if update.state is JobState.ENDED}
    return {name: ended[job] for name, job in jobs.items()}


def run(cluster: KubernetesCluster, name: str, resources: Resources = RESOURCES, limit: float = 200) -> Update:
    """Run one batch to its end."""
    return ends(cluster, submit(cluster, name, resources=resources), limit)[name]


def wait_running(cluster: KubernetesCluster, jobs: dict[str, str], limit: float = 200) -> None:
    """Poll until all jobs run."""
    left = set(jobs.values())
    end = time.monotonic() + limit
    while left:
        assert time.monotonic() < end, f"{left} do not run"
        left -= {update.job for update in cluster.poll(1) if update.state is JobState.RUNNING}
