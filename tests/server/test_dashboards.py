"""The dashboards under docker/: Debian's Prometheus scrapes a leader and a server, and each panel has a series."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import yaml

from tests.servers.fixtures import prometheus
from tests.waiting import wait_for

__all__ = ["prometheus"]

DOCKER = Path(__file__).parents[2] / "docker"
DASHBOARDS = sorted((DOCKER / "grafana" / "dashboards").glob("*.json"))

WORKFLOW = """
import sys, time
from pathlib import Path
from distributed import LocalCluster
import toilfn as toil

@toil.task(retries=1, memory="64Mi", disk="64Mi")
def unsteady(x, folder):
    if not (Path(folder) / f"tried-{x}").exists():
        (Path(folder) / f"tried-{x}").touch()
        raise ValueError("the first attempt fails")
    return x

@toil.task(retries=0, memory="64Mi", disk="64Mi")
def fails():
    raise ValueError("always")

@toil.task(memory="64Mi", disk="64Mi")
def last(x, folder):
    limit = time.monotonic() + 600
    while not (Path(folder) / "go").exists() and time.monotonic() < limit:
        time.sleep(0.1)
    return x

if __name__ == "__main__":
    folder = sys.argv[1]
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        promises = [last(unsteady(x, folder), folder) for x in range(3)]
        toil.compute(promises, fails(), store=folder + "/store", cluster=toil.DaskCluster(cluster), metrics_port=0)
"""


def expressions(path: Path) -> list[str]:
    """List the expressions of a dashboard, for all leaders and servers."""
    found = [target["expr"] for panel in json.loads(path.read_text())["panels"] for target in panel["targets"]]
    return [re.sub(r"\$(leader|server)\b", ".*", expression) for expression in found]


@pytest.fixture
def leader(tmp_path):
    """The URL of a leader's metrics, while its run has tasks that wait, run, failed and were tried again."""
    (tmp_path / "work.py").write_text(WORKFLOW)
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "work.py"), str(tmp_path)], stdout=stream, stderr=stream
        )
    try:
        pattern = re.compile(r"metrics of this leader: (http://\S+)")
        wait_for(lambda: pattern.search(log.read_text()) or process.poll() is not None, "the leader")
        yield pattern.search(log.read_text())[1]
    finally:
        (tmp_path / "go").touch()
        process.wait(120)


def asked_in_vain(prometheus, asked: list[str]) -> list[str]:
    """Ask until each expression has a series; return those that have none in the end."""
    left = list(asked)

    def ask() -> bool:
        left[:] = [expression for expression in left if not prometheus.ask(expression)]
        return not left

    try:
        wait_for(ask, limit=90, interval=1)
    except AssertionError:
        return left
    return []


@pytest.mark.slow
def test_each_panel_about_leaders_has_a_series(prometheus, leader):
    prometheus.scrape("toilfn-leaders", leader)
    assert asked_in_vain(prometheus, expressions(DOCKER / "grafana/dashboards/leaders.json")) == []
    wait_for(lambda: prometheus.ask('toilfn_leader_retries_total{cause="error"} > 0'), "a retry")
    (nodes,) = prometheus.ask("toilfn_leader_nodes")
    assert (nodes["metric"]["state"], nodes["value"][1]) == ("running", "1")
    check_metrics(leader)


@pytest.mark.slow
def test_each_panel_about_a_server_has_a_series(prometheus, start):
    server = start()
    client = server.client()
    client.wait(client.script())
    client.wait(client.script(params={"seconds": 600}), "RUNNING")
    prometheus.scrape("toilfn-server", server.url)
    assert asked_in_vain(prometheus, expressions(DOCKER / "grafana/dashboards/server.json")) == []
    check_metrics(f"{server.url}/metrics")


def check_metrics(url: str) -> None:
    text = requests.get(url, timeout=60).text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_promtool_finds_no_fault_in_the_configuration(prometheus):
    command = ["promtool", "check", "config", "--syntax-only", str(DOCKER / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_are_complete(path):
    board = json.loads(path.read_text())
    assert board["uid"] == f"toilfn-{path.stem}"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    sources = {target["datasource"]["uid"] for panel in board["panels"] for target in panel["targets"]}
    provisioned = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert sources == {provisioned["datasources"][0]["uid"]}
    jobs = {job["job_name"] for job in yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"]}
    assert set(re.findall(r'job="([^"]+)"', " ".join(expressions(path)))) <= jobs


def test_the_compose_file_mounts_files_that_exist():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    mounts = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    assert all((DOCKER / mount).exists() for mount in mounts if mount.startswith("."))
    assert {mount for mount in mounts if not mount.startswith(".")} == {"data", "prometheus", "grafana"}
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/toilfn.yaml").read_text())["providers"][0]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
