"""A task is charged for the memory that it adds to its worker, with every store and on every cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.fixtures import kubernetes, kubernetes_server, radosgw_server
from tests.servers.kubernetes import IMAGE, Kubernetes
from tests.servers.radosgw import RadosGateway
from toilfn.config.settings import Settings
from toilfn.leader.batches import resources
from toilfn.leader.cluster_context import worker_memory
from toilfn.resources import Resources
from toilfn.scheduler.events import Submit

__all__ = ["kubernetes", "kubernetes_server", "radosgw_server"]

EXAMPLES = Path(__file__).parents[2] / "examples"

SCRIPT = """\
import json
import sys
import time

import toilfn as toil

@toil.task(memory="50M", disk="100M")
def modest():
    with toil.open_write("numbers.txt") as file:
        for number in range(200):
            file.write(bytes(100_000))
    time.sleep(0.5)
    return file.file

@toil.task(memory="50M", disk="100M")
def size(file):
    with file.open() as stream:
        return sum(map(len, iter(lambda: stream.read(100_000), b"")))

@toil.task(memory="100M", disk="100M", retries=0)
def greedy():
    data = bytearray(200_000_000)
    data[:] = b"1" * len(data)
    time.sleep(60)

if __name__ == "__main__":
    what, store, settings = sys.argv[1:]
    promise = size(modest()) if what == "modest" else greedy()
    print(toil.compute(promise, store=store, **json.loads(settings)))
"""

Runs = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=["directory", pytest.param("bucket", marks=pytest.mark.servers)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A store, and how it is reached."""
    if request.param == "directory":
        yield str(tmp_path / "store"), {}
    else:
        server: RadosGateway = request.getfixturevalue("radosgw_server")
        options = {"endpoint_url": server.url, "create_bucket": True}
        yield f"s3://memory/{uuid.uuid4().hex}", {"store_options": options}


@pytest.fixture
def run(radosgw_server: RadosGateway) -> Runs:
    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {**os.environ, **radosgw_server.environment, **environment}
        return subprocess.run([sys.executable, *words], env=given, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def pods(kubernetes: Kubernetes, radosgw_server: RadosGateway) -> Iterator[dict[str, Any]]:
    """Settings with which pods have the bucket's credentials."""
    name, secrets = f"bucket-{uuid.uuid4().hex[:8]}", "/api/v1/namespaces/default/secrets"
    secret = {"metadata": {"name": name}, "stringData": radosgw_server.environment}
    kubernetes.ask(secrets, method="POST", body=secret)
    yield {"image": IMAGE, "python": sys.executable, "poll_interval": 0.5, "secret_env": [name]}
    kubernetes.ask(f"{secrets}/{name}", method="DELETE")


def check(run: Runs, tmp_path: Path, place: tuple[str, dict[str, Any]], asked: str, **cluster: Any) -> None:
    """See that a task with little memory succeeds, and that one dies that really takes more than it asked for."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    store, settings = place
    settings = json.dumps({**settings, "workers": 1, "retries": 0} | ({"cluster": "kubernetes"} if cluster else {}))
    variables = {f"DASK_TOILFN__KUBERNETES__{name.upper()}": str(value) for name, value in cluster.items()}
    done = run(str(script), "modest", store, settings, **variables)
    assert done.stdout == "20000000\n", done.stderr
    failed = run(str(script), "greedy", f"{store}-2", settings, **variables)
    assert "requested 95.4 MiB" in failed.stderr, failed.stderr
    assert asked in failed.stderr
    assert "request more with the option memory" in failed.stderr


def test_only_memory_that_a_task_adds_counts_on_this_machine(
    run: Runs, tmp_path: Path, place: tuple[str, dict[str, Any]]
) -> None:
    check(run, tmp_path, place, "MiB of its worker")


def test_the_memory_of_the_worker_is_added_to_the_requests_of_pods(
    run: Runs, tmp_path: Path, place: tuple[str, dict[str, Any]], pods: dict[str, Any]
) -> None:
    added = 150 if place[1] else 64
    check(run, tmp_path, place, f"plus {added} MiB for its worker", **pods)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("where", ["local", "kubernetes"])
def test_the_example_that_sorts_a_file_works_in_a_bucket(
    where: str, run: Runs, tmp_path: Path, radosgw_server: RadosGateway, request: pytest.FixtureRequest
) -> None:
    settings = request.getfixturevalue("pods") if where == "kubernetes" else {}
    variables = {f"DASK_TOILFN__KUBERNETES__{name.upper()}": str(value) for name, value in settings.items()}
    bucket = ["--store-options", f"endpoint_url={radosgw_server.url}", "--store-options", "create_bucket=true"]
    example = [str(EXAMPLES / "merge_sort.py"), "--", "--lines", "400000", "-o", str(tmp_path / "sorted.txt")]
    store = ["--store", f"s3://memory/{uuid.uuid4().hex}"]
    done = run("-m", "toilfn", "run", "--cluster", where, *bucket, *store, *example, **variables)
    assert "the same as sorted() gives" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("given", "is_local", "expected"), [(None, True, 64 << 20), (None, False, 150 << 20), ("1Gi", True, 1 << 30)]
)
def test_jobs_ask_for_their_workers_memory_too(given: str | None, is_local: bool, expected: int) -> None:
    added = worker_memory(Settings.resolve(worker_memory=given), is_local=is_local)
    assert added == expected
    asked = resources(Submit(1, (bytes(16),), Resources(memory=1 << 30, walltime=60.0), 90.0), added)
    assert asked == Resources(memory=(1 << 30) + expected, walltime=90.0)
    unlimited = resources(Submit(1, (bytes(16),), Resources(memory=1 << 30, walltime=60.0), None), added)
    assert unlimited == Resources(memory=(1 << 30) + expected, walltime=60.0)
