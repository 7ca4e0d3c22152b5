"""The user's own modules reach the workers, also when the script is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HELPER = """
def shout(text):
    return text.upper() + "!"
"""

SCRIPT = """
import sys, toilfn as toil
from pathlib import Path
from helper import shout

@toil.task(retries=0)
def greet(name, path):
    Path(path).read_text()
    return shout(name)

print(toil.compute(greet("ada", sys.argv[2]), store=sys.argv[1], progress=False))
"""


def test_a_resume_needs_neither_the_script_nor_its_modules(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "helper.py").write_text(HELPER)
    script = tmp_path / "code" / "script.py"
    script.write_text(SCRIPT)
    store, needed = tmp_path / "store", tmp_path / "needed"
    first = subprocess.run([sys.executable, str(script), str(store), str(needed)], capture_output=True, text=True)
    assert first.returncode != 0
    assert "FileNotFoundError" in first.stderr

    for path in (tmp_path / "code").iterdir():
        if path.is_file():
            path.unlink()
    needed.touch()
    environment = {**os.environ, "TOILFN_WORK_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "toilfn", "resume", str(store)]
    second = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (second.returncode, second.stdout) == (0, "ADA!\n"), second.stderr
