"""The demos run to their end: the leader is killed, the run resumes, and what was done does not run again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def play(kind: str, folder: Path, *options: str) -> str:
    command = [sys.executable, "examples/demo/demo.py", kind, "--folder", str(folder), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["python", "cwl", "wdl"])
def test_a_demo_resumes_what_was_killed(kind, tmp_path):
    printed = play(kind, tmp_path / "demo", "--svg", str(tmp_path / "demo.svg"))
    assert "kill -9" in printed
    assert "Traceback" not in printed
    (counts,) = re.findall(r"(\d+) of (\d+) tasks were done before the kill", printed)
    assert 0 < int(counts[0]) < int(counts[1])
    assert (tmp_path / "demo/report.html").stat().st_size > 10_000
    picture = (tmp_path / "demo.svg").read_text()
    assert "kill" in picture
    assert str(ROOT) not in picture
