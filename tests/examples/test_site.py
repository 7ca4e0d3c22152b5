"""The site builds without a network and without a warning, and has everything that is public."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import toilfn
from toilfn.cli import COMMANDS
from toilfn.config.settings import Settings

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    # Whatever asks for a host gets an error at once.
    env = {
        **os.environ,
        "NO_MKDOCS_2_WARNING": "1",
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def reference(site):
    return {page.stem: page.read_text() for page in (site / "reference").glob("*.html")}


def test_every_public_name_has_an_entry(reference):
    text = reference["python"] + reference["clusters"] + reference["exceptions"]
    shown = set(re.findall(r'<h2 id="toilfn\.[\w.]*?(\w+)"', text))
    assert set(toilfn.__all__) - {"__version__"} == shown & set(toilfn.__all__)
    assert set(toilfn.__all__) - shown == {"__version__"}


def test_every_command_and_setting_is_listed(reference):
    for name in COMMANDS:
        assert f"usage: toilfn {name}" in re.sub(r"<[^>]+>", "", reference["commands"]), name
    for name in Settings.__dataclass_fields__:
        assert f"<code>{name}</code>" in reference["settings"], name
        assert f"DASK_TOILFN__{name.upper()}" in reference["settings"], name


def test_the_settings_of_clusters_are_listed(reference):
    assert {"partition", "queue", "namespace"} <= set(re.findall(r"\w+", reference["clusters"]))


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]* (?:src|href)="(https?:[^"]+)"', page.read_text()
        )
        assert fetched == [], page


def test_links_to_the_repository_lead_to_its_address_or_are_text(site):
    first = (site / "index.html").read_text()
    assert "CONTRIBUTING.md" not in re.findall(r'href="([^"]+)"', first)
    assert (site / "images/demo.svg").exists()
    assert 'src="images/demo.svg"' in first
