"""What a type checker says to users' programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from __future__ import annotations
import toilfn as toil

@toil.task
def text(x: int) -> str:
    return str(x)

@toil.task(cores=2, memory="1G")
def length(s: str) -> int:
    return len(s)

promise: toil.Promise[str] = text(3)
number: int = toil.compute(length(promise))
both: tuple[str, int] = toil.compute(text(1), length(text(2)))
many: list[str] = text.map([1, 2, 3])
bigger: int = toil.compute(length.options(memory="8G", after=[promise])("x"))
plain: str = text.__wrapped__(3)

length(3)  # wrong
length(length("x"))  # wrong
text("3")  # wrong
text()  # wrong
"""


@pytest.mark.timeout(300)
def test_promises_are_typed_as_what_they_stand_for(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    command = [
        sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent",
        f"--cache-dir={tmp_path}/cache", str(path),
    ]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, timeout=240).stdout
    found = {int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line}
    wrong = {number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wrong, said
