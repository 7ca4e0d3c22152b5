"""Run the command ``toilfn`` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def toilfn(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``toilfn`` in a folder, without settings in the environment except these variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TOILFN_", "DASK_"))}
    return subprocess.run(
        [sys.executable, "-m", "toilfn", *words], cwd=folder, env=environment | variables, capture_output=True,
        text=True, timeout=200, check=False,
    )  # fmt: skip
