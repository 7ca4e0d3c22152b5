"""Names, messages and logs of tasks do not reach a terminal as control characters."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.story import STATS, epoch, failure, function, id_of, outcome, run, task, tell
from toilfn.cli import main
from toilfn.stores import Store

NASTY = "\x1b[31mre\nd\x9b2J"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return tell(
        tmp_path / "store",
        epoch(),
        function(NASTY),
        task("good", NASTY),
        task("bad", NASTY, needs=["good"]),
        run("good", "bad"),
        outcome("good", log=f"{NASTY}\n".encode()),
        failure("bad", final=True)._replace(message=NASTY, traceback=NASTY, log=NASTY.encode(), stats=STATS),
    )


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["status", "--tree"], ["status", "--json"], ["stats"], ["graph"], ["graph", "--all"],
     ["graph", "--format", "dot"], ["events"], ["explain", "ID"], ["logs", "ID"]],
    ids=" ".join,
)  # fmt: skip
def test_no_command_prints_control_characters(
    store: Store, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = [id_of("bad").hex() if word == "ID" else word for word in arguments]
    main([command, store.url, *rest])
    printed = "".join(capsys.readouterr())
    assert printed
    assert "\x1b" not in printed
    assert "\x9b" not in printed


def test_raw_logs_are_as_the_task_wrote_them(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    main(["logs", store.url, id_of("good").hex(), "--raw"])
    assert capsys.readouterr().out == f"{NASTY}\n"


def test_the_report_has_no_character_that_xml_forbids(store: Store, tmp_path: Path) -> None:
    assert main(["report", store.url, "-o", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "\\x1b[31mre" in page
    assert "\x1b" not in page
