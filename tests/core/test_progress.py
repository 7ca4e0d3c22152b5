"""Progress: the output on a terminal, elsewhere, and with --no-progress."""

from __future__ import annotations

import io

import pytest

from toilfn.leader import notifications as module
from toilfn.leader.notifications import Progress

NAMES = ["sort[x]", "merge", "sort[x]"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", -1.0)
    monkeypatch.setattr(module, "_INTERVAL", 0.0)


def told(stream: io.StringIO, show: bool | None = None) -> str:
    progress = Progress(show, stream)
    progress.start()
    progress.update({"waiting": 2, "complete": 5, "expanded": 1, "running": 3, "failed": 1}, lambda: NAMES)
    progress.message("task [red]merge failed")
    progress.stop()
    return stream.getvalue()


def test_plain_lines_say_it_all(at_once: None) -> None:
    first, message, last = told(io.StringIO()).splitlines()
    assert first.startswith("6/12 tasks, 3 running, 1 failed, ")
    assert first.endswith(" tasks/s (sort[x] x 2, merge)")
    assert message == "task [red]merge failed"
    assert last.startswith("6/12 tasks")


def test_a_terminal_gets_a_bar(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    text = told(Terminal())
    assert "━" in text
    assert "6/12 tasks, 3 running, 1 failed, " in text
    assert "task [red]merge failed\n" in text


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_false_shows_messages_only(at_once: None, stream: io.StringIO) -> None:
    assert told(stream, show=False) == "task [red]merge failed\n"


def test_a_run_that_is_over_at_once_shows_nothing_unless_asked() -> None:
    assert told(io.StringIO()) == "task [red]merge failed\n"
    assert told(io.StringIO(), show=True).splitlines()[-1].startswith("6/12 tasks")


def test_lines_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", -1.0)
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress.start()
    for done in range(1000):
        progress.update({"complete": done})
    assert stream.getvalue() == ""
    progress.stop()
    progress.stop()
    assert len(stream.getvalue().splitlines()) == 1


def test_only_the_most_frequent_names_are_shown(at_once: None) -> None:
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress.start()
    progress.update({"running": 5}, lambda: ["a", "b", "b", "c", "d"])
    assert "(b x 2, a, c, ...)" in stream.getvalue()


def test_stop_without_start_prints_nothing() -> None:
    stream = io.StringIO()
    Progress(True, stream=stream).stop()
    assert stream.getvalue() == ""
