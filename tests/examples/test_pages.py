"""Every block of Python and shell on the pages for people runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.pages import blocks, setup

RUN = ["README.md", "docs/getting-started.md", "docs/guides.md", "docs/tasks.md"]


def execute(command: list[str], folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"


def shell(commands: str) -> list[str]:
    return ["bash", "-euo", "pipefail", "-c", commands]


@pytest.mark.parametrize("page", RUN, ids=str)
def test_blocks_run(page, tmp_path):
    execute(shell(setup(page)), tmp_path)
    script = []
    for block in blocks(page):
        if block.reason or block.language not in ("python", "sh"):
            continue
        if block.language == "sh":
            execute(shell(block.text), tmp_path)
        elif block.title:
            (tmp_path / block.title).write_text(block.text)
        else:
            script.append(block.text)
    if script:
        (tmp_path / "page_.py").write_text("\n\n".join(script))
        execute(["python", "page_.py"], tmp_path)
