"""`/metrics` of a leader."""

from __future__ import annotations

import logging
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import toilfn as toil
from tests.waiting import wait_for
from toilfn.errors import InputError
from toilfn.leader.metrics import Tally
from toilfn.model.records import Failure, Outcome, Stats

parser = pytest.importorskip("prometheus_client.parser")


@toil.task(retries=1)
def double(x: int, flag: str) -> int:
    if x == 3 and not Path(flag).exists():
        Path(flag).touch()
        raise ValueError("once")
    return 2 * x


@toil.task(name="the sum")
def total(xs: list[int], go: str) -> int:
    wait_for(Path(go).exists)
    return sum(xs)


@toil.task(retries=0)
def fail(x: int) -> int:
    raise ValueError(x)


@toil.task
def one() -> int:
    return 1


def found_url(caplog: pytest.LogCaptureFixture) -> str:
    return re.search(r"metrics of this leader: (http://127\.0\.0\.1:\d+/metrics)", caplog.text)[1]


def read(url: str) -> dict[tuple[str, ...], float]:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name.removeprefix("toilfn_leader_"), *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(text) for sample in family.samples
    }  # fmt: skip


def test_a_run_is_seen_while_it_runs(tmp_path, caplog):
    go = tmp_path / "go"
    doubled = [double(x, str(tmp_path / "flag")) for x in range(20)]
    run = toil.submit(
        total(doubled, str(go)), fail(1), store=tmp_path / "store", workflow="doubling", metrics_port=0, workers=2
    )
    try:
        wait_for(lambda: "metrics of this leader" in caplog.text)
        url = found_url(caplog)
        states = {("double", "done"): 20, ("fail", "failed"): 1, ("the sum", "running"): 1}
        wait_for(lambda: states.items() <= {key[1:]: value for key, value in read(url).items()}.items())
        found = read(url)
        assert found["attempts_total", "double", "success"] == 20
        assert found["attempts_total", "double", "failure"] == 1
        assert found["retries_total", "error"] == 1
        assert found["retries_total", "memory"] == 0
        assert found["given_up_tasks_total", "error"] == 1
        assert found["attempt_duration_seconds_count", "double"] == 20
        assert found["attempt_duration_seconds_bucket", "double", "+Inf"] == 20
        assert 0 < found["attempt_duration_seconds_sum", "double"] < 600
        assert found["task_cpu_seconds_total", "double"] > 0
        assert found["jobs", "running"] == 1
        assert found["jobs", "queued"] == 0
        assert found["hosts",] == 1
        assert found["store_operations_total", "write"] > 1
        assert found["store_bytes_total", "write"] > 1000
        assert found["loop_duration_seconds_count",] > 0
        assert 0 <= found["loop_age_seconds",] < 600
        assert found["info", "local", toil.__version__, "doubling"] == 1
        assert found["process_resident_memory_bytes",] > 1e6
    finally:
        go.touch()
    with pytest.raises(toil.FailedTasksError):
        run.result()
    with pytest.raises(urllib.error.URLError):
        read(url)  # it ends with the run


def test_a_busy_port_does_not_end_the_run(tmp_path, caplog):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert toil.compute(one(), store=tmp_path / "store", cluster="inline", metrics_port=port) == 1
    assert f"metrics_port={port}: no metrics are served, because the port cannot be opened" in caplog.text


def test_a_missing_package_is_named_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("toilfn.leader.metrics.find_spec", lambda name: None)
    with pytest.raises(InputError, match="metrics_port=0 needs the package prometheus-client") as caught:
        toil.compute(one(), store=tmp_path / "store", cluster="inline", metrics_port=0)
    assert caught.value.hint == "pip install 'toilfn[metrics]'"
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("port", [-1, 65536, "http"])
def test_a_wrong_port_is_refused(port):
    with pytest.raises(InputError, match="metrics_port"):
        toil.compute(one(), metrics_port=port)


def test_a_run_without_metrics_serves_none(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG):
        assert toil.compute(one(), store=tmp_path / "store", cluster="inline") == 1
    assert "metrics of this leader" not in caplog.text


def test_kinds_are_few_however_many_names_there_are():
    tally = Tally()
    for i in range(1000):
        tally.ended(f"sample {i}", Outcome(b"", 1, b"", (), (), (), (), (), b"", Stats(wall=2.0)))
        tally.ended(f"sample {i}", Failure(b"", 1, "memory", "", "", b"", Stats(), final=i % 2 == 0))
    assert len(tally.kinds) == 101
    assert sum(kind.succeeded for kind in tally.kinds.values()) == 1000
    assert tally.kinds["(others)"].succeeded == 900
    assert tally.retries["memory"] == tally.given_up["memory"] == 500
