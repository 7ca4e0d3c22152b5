"""Hooks hear once how a run ended, and never change its result."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import toilfn as toil
from toilfn.inspect.stores import schema
from toilfn.model.index import Index
from toilfn.stores import open_store


@toil.task
def double(x: int) -> int:
    return 2 * x


@toil.task(retries=0)
def broken(x: int) -> int:
    raise ValueError("no good")


def keep(file: Path) -> list[str]:
    """Build a command that appends the summary to a file."""
    return [sys.executable, "-c", f"import sys; open({str(file)!r}, 'a').write(sys.stdin.read() + chr(10))"]


def kept(file: Path) -> list[Any]:
    """Return the summaries that a hook got."""
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for each in found:
        jsonschema.validate(each, schema())
    return found


def test_success_is_reported_once_with_the_summary(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    settings: Any = {"store": tmp_path / "s", "cluster": "inline", "on_success": keep(good), "on_failure": keep(bad)}
    assert toil.compute(double(double(1)), **settings) == 4
    (summary,) = kept(good)
    assert (summary["state"], summary["run"], summary["tasks"]["done"]) == ("done", 1, 2)
    assert summary["ended"] >= summary["started"]
    toil.compute(double(double(1)), **settings)  # nothing had to run
    assert len(kept(good)) == 1
    toil.compute(double(2), double(3), **settings)
    assert [each["run"] for each in kept(good)] == [1, 2]
    assert kept(bad) == []


def test_a_failure_is_reported_with_the_tasks_that_failed(tmp_path: Path) -> None:
    file = tmp_path / "bad"
    with pytest.raises(toil.FailedTasksError):
        toil.compute(double(broken(1)), store=tmp_path / "s", cluster="inline", on_failure=keep(file))
    (summary,) = kept(file)
    assert summary["state"] == "failed"
    assert [(task["name"], task["error"]) for task in summary["failed"]] == [("broken", "ValueError: no good")]


def test_a_text_is_a_line_for_the_shell(tmp_path: Path) -> None:
    file = tmp_path / "good"
    toil.compute(double(1), store=tmp_path / "s", cluster="inline", on_success=f"cat | cat > '{file}'")
    assert kept(file)[0]["state"] == "done"


def test_a_hook_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hooks = ["exit 7", ["no-such-command", "secret"], "http://127.0.0.1:9/secret"]
    for number, hook in enumerate(hooks):
        with caplog.at_level(logging.WARNING, "toilfn"):
            assert toil.compute(double(number), store=tmp_path / "s", cluster="inline", on_success=hook) == 2 * number
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert "the hook on_success failed: it exited with status 7; this does not change the result of the run" in said[0]
    assert "no-such-command" in said[1]
    assert "127.0.0.1: " in said[2]
    assert "secret" not in "".join(said)


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        got: list[Any] = self.server.got  # type: ignore[attr-defined]
        got.append((self.path, self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def receiver() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Receiver) as server:
        server.got = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_url_gets_the_summary_by_post_and_stays_secret(tmp_path: Path, receiver: HTTPServer) -> None:
    url = f"http://127.0.0.1:{receiver.server_port}/hook/secret"
    toil.compute(double(1), store=tmp_path / "s", cluster="inline", on_success=url)
    ((path, kind, body),) = receiver.got  # type: ignore[attr-defined]
    assert (path, kind) == ("/hook/secret", "application/json")
    jsonschema.validate(json.loads(body), schema())
    run = Index.load(open_store(str(tmp_path / "s"), create=False).log).runs[0]
    assert (run.settings["on_success"], run.settings["on_failure"]) == (True, False)
    assert not any(b"secret" in file.read_bytes() for file in (tmp_path / "s").rglob("*") if file.is_file())


@pytest.mark.parametrize("value", ["", [], 3, ["a", 1]])
def test_a_wrong_hook_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(toil.InputError, match=r"on_success.*write a command"):
        toil.compute(double(1), store=tmp_path / "s", on_success=value)
