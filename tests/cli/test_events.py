"""`toilfn events`: what happened, as JSON lines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.story import end, half_done, id_of, outcome, started, task, tell
from toilfn.cli import main
from toilfn.model.records import Forget
from toilfn.stores.lease import Lease


def events(url: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["events", url]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_all_events_are_reported_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = task("extra", "split", parent="sort 4")
    again = [outcome("sort 4", [child]), outcome("sort 4"), Forget((id_of("split"),)), outcome("split"), end("failed")]
    store = tell(tmp_path / "store", *half_done(), *again)
    told = events(store.url, capsys)
    kinds = [event["event"] for event in told]
    assert kinds[:2] == ["leader", "run"]
    assert kinds[-5:] == ["done", "task", "forgotten", "done", "end"]
    assert kinds.count("started") == 6
    merge = next(event for event in told if event.get("name") == "merge")
    assert merge["needs"] == [id_of(f"sort {n}").hex() for n in range(5)]
    assert next(event for event in told if event.get("parent"))["parent"] == id_of("sort 4").hex()
    failed = [event for event in told if event["event"] == "failed"]
    assert [(event["attempt"], event["final"], event["message"]) for event in failed] == [
        (1, False, "ValueError: bad"),
        (2, True, "ValueError: bad"),
    ]


def test_the_manual_names_every_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tell(tmp_path / "store", *half_done(), Forget((id_of("split"),)), end("failed"))
    manual = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    words = set(re.findall(r"`(\w+)`", manual))
    for event in events(store.url, capsys):
        assert {event["event"], *event} <= words


def test_following_ends_with_the_leader(tmp_path: Path) -> None:
    store = tell(tmp_path / "store", *half_done())
    command = [sys.executable, "-m", "toilfn", "events", store.url, "--follow"]
    lease = Lease.acquire(store)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, lease:
        assert process.stdout is not None
        told = (json.loads(line) for line in process.stdout)
        assert any(event["event"] == "failed" and event["final"] for event in told)
        tell(tmp_path / "store", started("report"))
        assert next(told)["name"] == "report"
        tell(tmp_path / "store", end("failed"))
        assert next(told)["event"] == "end"
    assert process.returncode == 0
