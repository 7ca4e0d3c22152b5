"""Installers find the versions of every extra at once: none of them looks at a package twice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.house.rooms import ROOT
from tests.house.test_metadata import read_pyproject

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXTRAS = [name for name, needs in read_pyproject()["project"]["optional-dependencies"].items() if needs]
PIPS = ["23.3.2", "26.0"]
COLLECTING = re.compile(r"^\s*Collecting ([A-Za-z0-9._-]+(?:\[[^]]*\])?)", re.MULTILINE)
SELECTING = re.compile(r"Selecting: ([A-Za-z0-9._-]+)==(\S+) \[")


def installer(folder: Path, *needs: str) -> Path:
    """Make an environment with an installer in it."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    command = [folder / "bin" / "python", "-m", "pip", "install", "-q", *needs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no package index is in reach: {done.stderr[-300:]}")
    return folder / "bin"


@pytest.fixture(scope="session")
def pips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {version: installer(tmp_path_factory.mktemp("pip"), f"pip=={version}") for version in PIPS}


def looked_at(python: Path, extra: str, report: Path) -> tuple[Counter[str], int]:
    """Let pip look for an extra; give how often it looked at each package, and how many it would install."""
    options = ["--dry-run", "--ignore-installed", "--no-color", "--report", str(report)]
    command = [python, "-m", "pip", "install", *options, f"{ROOT}[{extra}]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Counter(COLLECTING.findall(done.stdout)), len(json.loads(report.read_text())["install"])


@pytest.mark.parametrize(
    ("version", "extra"), [(PIPS[-1], extra) for extra in EXTRAS] + [(version, "all") for version in PIPS[:-1]]
)
def test_pip_finds_an_extra_without_walking_back(pips, tmp_path, version, extra):
    counts, installed = looked_at(pips[version] / "python", extra, tmp_path / "report.json")
    assert {name: count for name, count in counts.items() if count > 1} == {}
    assert len(counts) <= installed + 5  # a package is collected once more for its extras


def test_uv_finds_all_extras_without_walking_back(tmp_path):
    programs = installer(tmp_path / "uv", "uv")
    command = [programs / "uv", "pip", "install", "--dry-run", "-v", "--python", programs / "python", f"{ROOT}[all]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = Counter(name for name, _ in set(SELECTING.findall(done.stderr)))
    assert len(counts) > 50
    assert {name: count for name, count in counts.items() if count > 1} == {}
