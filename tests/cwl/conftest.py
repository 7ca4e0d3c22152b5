"""Running the command as users do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DOCUMENTS = Path(__file__).parent / "documents"


class Done(NamedTuple):
    status: int
    printed: str
    messages: str

    @property
    def result(self) -> dict[str, Any]:
        """The result object."""
        assert self.status == 0, self.messages
        return json.loads(self.printed)


@pytest.fixture
def runner(tmp_path: Path) -> Callable[..., Done]:
    """Runs ``toilfn-cwl-runner`` in the test's own directory, which gets the outputs; by default without containers."""

    def run(*arguments: object, options: tuple[str, ...] = ("--no-container", "--retries", "0")) -> Done:
        (tmp_path / "tmp").mkdir(exist_ok=True)
        command = [sys.executable, "-m", "toilfn.cwl", "--disable-color", *options, *map(str, arguments)]
        environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a document into the test's own directory."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write
