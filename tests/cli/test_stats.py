"""`toilfn stats` of real runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import toilfn as toil
from toilfn.cli import main


@toil.task(retries=0, walltime="1s")
def endless() -> None:
    time.sleep(60)


def test_an_attempt_that_was_killed_counts_from_its_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(toil.FailedTasksError, match="walltime"):
        toil.compute(endless(), store=tmp_path / "store", progress=False)
    assert main(["stats", str(tmp_path / "store"), "--attempts", "--json"]) == 0
    (attempt,) = json.loads(capsys.readouterr().out)
    assert attempt["result"] == "walltime"
    assert attempt["wall"] >= 1.0
