"""`/metrics`: the figures that Prometheus reads from a server."""

from __future__ import annotations

import pytest
import requests

from tests.server.test_security import token
from tests.server.wes import Client

parser = pytest.importorskip("prometheus_client.parser")


def read(url: str, **keywords: object) -> dict[tuple[str, ...], float]:
    answer = requests.get(f"{url}/metrics", timeout=60, **keywords)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(answer.text) for sample in family.samples
    }  # fmt: skip


def test_runs_tasks_and_requests_are_counted(start):
    server = start()
    client = server.client()
    run = client.script()
    client.wait(run)
    live = client.script(params={"seconds": 600})
    client.wait(live, "RUNNING")
    found = read(server.url)
    assert found["toilfn_server_runs", "COMPLETE"] == 1
    assert found["toilfn_server_runs", "RUNNING"] == 1
    assert found["toilfn_server_runs", "CANCELED"] == 0
    assert found["toilfn_server_leaders",] >= 1
    assert found["toilfn_server_run_duration_seconds_count", "PYTHON", "COMPLETE"] == 1
    assert 0 < found["toilfn_server_run_duration_seconds_sum", "PYTHON", "COMPLETE"] < 600
    assert found["toilfn_server_run_queue_seconds_count", "PYTHON", "RUNNING"] == 1
    assert sum(value for name, value in found.items() if name[0] == "toilfn_server_tasks") == 1
    assert found["toilfn_server_request_duration_seconds_count", "POST", "200"] == 2
    assert found["toilfn_server_launcher_alive",] == 1
    assert found["process_resident_memory_bytes",] > 1e6
    client.get("/runs/run-1", status=404)
    assert read(server.url)["toilfn_server_request_duration_seconds_count", "GET", "404"] == 1


def test_metrics_are_for_operators(start, tmp_path):
    user = token(tmp_path / "place", "add", "ann").stdout.strip()
    boss = token(tmp_path / "place", "add", "boss", "--operator").stdout.strip()
    server = start()
    client = Client(server.url, headers={"Authorization": f"Bearer {boss}"})
    server.client = lambda: client
    assert requests.get(f"{server.url}/metrics", timeout=60).status_code == 401
    headers = {"Authorization": f"Bearer {user}"}
    assert requests.get(f"{server.url}/metrics", headers=headers, timeout=60).status_code == 403
    assert read(server.url, headers={"Authorization": f"Bearer {boss}"})["toilfn_server_runs", "QUEUED"] == 0
