"""Manual pages are made from the parsers, and troff understands them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.rooms import ROOT
from toilfn.cli import COMMANDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pages = tmp_path_factory.mktemp("pages") / "man"
    subprocess.run([sys.executable, ROOT / "docs/man.py", pages], check=True, timeout=250)
    return pages


def test_every_command_has_a_page(folder: Path) -> None:
    names = {"toilfn.1", *(f"toilfn-{name}.1" for name in COMMANDS)}
    assert {page.name for page in folder.iterdir()} == names


def test_pages_have_the_options_also_those_of_clusters(folder: Path) -> None:
    for command, option in (("status", "--exit-code"), ("cwl", "--outdir"), ("wdl", "--slurm-partition")):
        text = (folder / f"toilfn-{command}.1").read_text().replace("\\-", "-")
        assert re.search(rf"^\.B .*{option}", text, re.MULTILINE), command


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_troff_finds_nothing_wrong(folder: Path) -> None:
    for page in folder.iterdir():
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True, timeout=100, check=True
        )
        wrong = [line for line in done.stderr.splitlines() if "can't break line" not in line and "adjust" not in line]
        assert wrong == [], page.name


def test_a_table_of_cwltool_is_text(folder: Path) -> None:
    page = (folder / "toilfn-cwl.1").read_text()
    assert re.search(r"CWLTOOL_OPTIONS +\| set additional", page)
    assert " object at 0x" not in page
