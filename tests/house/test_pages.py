"""The scripts on the pages for people run and print what the pages say."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.house.rooms import ROOT


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_first_script_runs(page, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (script,) = [block for block in blocks if "__main__" in block]
    (tmp_path / "words.py").write_text(script)
    done = subprocess.run([sys.executable, "words.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "6\n"
