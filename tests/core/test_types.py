"""What a type checker says to users' programs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PREAMBLE = """
    from __future__ import annotations
    import toilfn as toil

    @toil.task
    def text(x: int) -> str:
        return str(x)

    @toil.task(cores=2, memory="1G")
    def length(s: str) -> int:
        return len(s)
"""


def check(folder: Path, program: str) -> str:
    """Run mypy --strict over a user's program and give what it says."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(PREAMBLE) + textwrap.dedent(program))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={folder}/cache", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240).stdout


@pytest.mark.timeout(300)
def test_promises_are_typed_as_what_they_stand_for(tmp_path: Path) -> None:
    said = check(
        tmp_path,
        """
        promise: toil.Promise[str] = text(3)
        number: int = toil.compute(length(promise))
        both: tuple[str, int] = toil.compute(text(1), length(text(2)))
        many: list[str] = text.map([1, 2, 3])
        bigger: int = toil.compute(length.options(memory="8G", after=[promise])("x"))
        plain: str = text.__wrapped__(3)
        """,
    )
    assert said.startswith("Success"), said


@pytest.mark.timeout(300)
def test_wrong_types_are_found(tmp_path: Path) -> None:
    said = check(
        tmp_path,
        """
        length(3)
        length(length("x"))
        text("3")
        text()
        """,
    )
    assert said.count("error:") == 4, said
