"""Servers that are killed at any moment: no run is lost, none is led twice, and no state goes back."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import requests

from tests.server.wes import FINAL, Client

KILLS = int(os.environ.get("TOILFN_TEST_KILLS", "10"))
RUNS = max(10, KILLS // 2)
ORDER = ["QUEUED", "INITIALIZING", "RUNNING", "CANCELING", *sorted(FINAL)]
WITNESS = """\
import os, sys, time
import toilfn as toil

@toil.task
def work(folder, seconds):
    open(os.path.join(folder, f"begun-{time.time_ns()}"), "w").close()
    time.sleep(seconds)
    return "worked"

given = dict(word[2:].split("=", 1) for word in sys.argv[1:])
print(toil.compute(work(given["folder"], float(given["seconds"])), retries=0))
"""


def test_runs_continue_without_their_server(start):
    server = start()
    client = server.client()
    run = client.script(params={"seconds": 8})
    client.wait(run, "RUNNING")
    server.stop(signal.SIGKILL)
    time.sleep(0.5)
    server.start()
    assert client.state(run) in ("RUNNING", "COMPLETE")
    assert client.wait(run) == "COMPLETE"
    assert client.get(f"/runs/{run}")["run_log"]["cmd"]
    assert "system_logs" not in client.get(f"/runs/{run}")["run_log"]  # it was never begun again


def test_a_run_is_resumed_after_the_death_of_its_leader(start, tmp_path):
    import psutil

    server = start()
    client = server.client()
    witnesses = tmp_path / "witnesses"
    witnesses.mkdir()
    run = client.script(WITNESS, params={"seconds": 3, "folder": str(witnesses)})
    client.wait(run, "RUNNING")
    leaders = [
        process for process in psutil.process_iter(["cmdline", "cwd"])
        if "toilfn.server.lead" in (process.info["cmdline"] or []) and str(process.info["cwd"] or "").endswith(run)
    ]  # fmt: skip
    assert len(leaders) == 1
    leaders[0].kill()
    assert client.wait(run) == "COMPLETE"
    assert client.get(f"/runs/{run}")["run_log"]["system_logs"] == ["leaders that died before: 1"]


def test_the_index_can_be_deleted(start):
    server = start()
    client = server.client()
    runs = [client.script() for _ in range(3)]
    for run in runs:
        client.wait(run)
    before = client.get("/runs")
    server.stop()
    for path in Path(server.place, "work").glob("index.sqlite*"):
        path.unlink()
    server.start()
    assert client.get("/runs") == before


@pytest.mark.slow
@pytest.mark.timeout(600 + 30 * KILLS)
def test_two_servers_that_are_killed_again_and_again(start, tmp_path):
    random.seed(1)
    servers = [start("--max-runs=2"), start("--max-runs=2")]
    clients = [Client(server.url) for server in servers]
    witnesses, runs, cancelled, seen = tmp_path / "witnesses", [], set(), {}

    def ask(call):
        """Ask one server or the other until one answers: any may be dead."""
        for attempt in range(200):
            try:
                return call(clients[attempt % 2])
            except requests.RequestException:
                time.sleep(0.1)
        raise AssertionError("no server answers")

    def look():
        for run in runs:
            state = ask(lambda client, run=run: client.state(run))
            assert ORDER.index(state) >= ORDER.index(seen.get(run, "QUEUED")), (run, seen[run], state)
            assert seen.get(run) not in FINAL or seen[run] == state
            seen[run] = state

    for number in range(KILLS):
        if len(runs) <= number * RUNS // KILLS:
            folder = witnesses / str(len(runs))
            folder.mkdir(parents=True)
            params = {"seconds": random.choice([0, 1, 2]), "folder": str(folder)}
            runs.append(ask(lambda client, params=params: client.script(WITNESS, params=params)))
        if random.random() < 0.3:
            cancelled.add(chosen := random.choice(runs))
            ask(lambda client, chosen=chosen: client.cancel(chosen))
        victim = random.choice(servers)
        victim.stop(signal.SIGKILL)
        look()
        victim.start()
    assert len(runs) == RUNS
    end = time.monotonic() + 600
    while set(seen.values()) - FINAL or len(seen) < len(runs):
        assert time.monotonic() < end, seen
        look()
        time.sleep(0.5)
    for number, run in enumerate(runs):
        allowed = {"COMPLETE", "CANCELED"} if run in cancelled else {"COMPLETE"}
        assert seen[run] in allowed
        assert len(list((witnesses / str(number)).iterdir())) <= 1, f"{run} was led twice"
