"""Commands that only report do not run code that a store holds: docs/trust.md."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from tests.cli.story import end, epoch, failure, function, id_of, outcome, run, task, tell
from toilfn.cli import main


class Bomb:
    """Makes a directory when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self._path,)


REPORTING = ["status", "logs ID", "stats", "events", "graph", "report", "explain ID", "files", "kill", "clean --yes"]


@pytest.mark.parametrize("command", REPORTING)
def test_a_command_that_reports_loads_no_pickle(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))

    store = tell(
        tmp_path / "store",
        epoch(),
        function("sort"),
        task("good", "sort")._replace(args=bomb),
        task("bad", "sort", needs=["good"])._replace(args=bomb),
        run("good", "bad")._replace(results=bomb),
        outcome("good", value=bomb),
        failure("bad", final=True),
        end("failed"),
    )
    name, *rest = command.replace("ID", id_of("bad").hex()).split()
    if name == "report":
        rest = ["-o", "report.html"]
    assert main([name, store.url, *rest]) == 0
    assert not (tmp_path / "exploded").exists()


def test_loading_a_harmful_payload_would_be_noticed(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()
