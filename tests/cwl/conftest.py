"""Fixtures that run the command as users do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.forked import forks_of

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


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The command that does what ``python -m toilfn.cwl`` does, in half the time."""
    with forks_of(tmp_path_factory.mktemp("forks") / "place", "toilfn.cwl", "toilfn.cwl.runner") as command:
        yield command


@pytest.fixture
def runner(tmp_path: Path, forked: list[str]) -> Callable[..., Done]:
    """Run ``toilfn-cwl-runner`` in the test's own directory, which gets the outputs; by default without containers."""

    def run(*arguments: object, options: tuple[str, ...] = ("--no-container", "--retries", "0")) -> Done:
        (tmp_path / "tmp").mkdir(exist_ok=True)
        # dask reads its variables when it is imported: a test that sets one needs a process of its own.
        is_own = any(name.startswith("DASK_") and name != "DASK_CONFIG" for name in os.environ)
        start = [sys.executable, "-m", "toilfn.cwl"] if is_own else forked
        command = [*start, "--disable-color", *options, *map(str, arguments)]
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
