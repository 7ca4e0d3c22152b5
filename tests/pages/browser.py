"""Debian's Chromium, without a window, for tests of pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SHOTS = Path(__file__).parents[2] / "build" / "pages"
"""Where screenshots are kept, to be looked at."""


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser. Without one, a test is skipped; in CI it fails."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None and not os.environ.get("CI"):
        pytest.skip("chromium is not installed")
    assert program is not None, "chromium is missing: install it with make test"
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


def complaints_of(page: Any) -> list[str]:
    """Return a list that fills with errors of scripts and of the Content-Security-Policy."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def barriers(page: Any) -> list[str]:
    """Return the serious faults that axe-core finds for people who cannot see or point."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # The policy of the page allows no script of ours: axe is brought in by the debugger, past it.
    found = axe.run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in ("serious", "critical")]


@contextmanager
def dashboard(store: object) -> Iterator[str]:
    """Run `toilfn dashboard`, and return its URL."""
    command = [sys.executable, "-m", "toilfn", "dashboard", str(store), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.terminate()
