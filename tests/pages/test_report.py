"""`toilfn report`: one page that needs nothing from elsewhere, looked at in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.cli.story import end, epoch, function, half_done, outcome, run, task, tell
from toilfn.cli import main
from toilfn.model.records import BlobRef
from toilfn.pages.charts import Markup, element

SCREENSHOT = Path(__file__).parents[2] / "build" / "report.png"

SCRIPT = """
import time
import toilfn as toil

@toil.task
def split(n):
    time.sleep(0.05)
    return list(range(n))

@toil.task(memory="500M")
def sort_chunk(parts, i):
    work = bytes(10_000_000)
    end = time.monotonic() + 0.05 + 0.02 * (i % 4)
    while time.monotonic() < end:
        pass
    return i

@toil.task
def merge(parts):
    with open(toil.current().temp_dir / "merged", "wb") as stream:
        stream.write(bytes(1_000_000))
    time.sleep(0.03)
    return sum(parts)

@toil.task(retries=1)
def check(total):
    print("<script>alert(1)</script>")
    raise ValueError("bad <checksum>")

@toil.task
def publish(total, checked):
    return total

@toil.task
def expand(n):
    return merge([sort_chunk(0, i) for i in range(n)])

if __name__ == "__main__":
    parts = split(8)
    total = merge([sort_chunk(parts, i) for i in range(8)])
    toil.compute(publish(total, check(total)), expand(4), store="store")
"""


class Page(HTMLParser):
    """Checks that elements are closed in order; notes their names and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[str] = []
        self.links: list[str | None] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "link", "rect", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a workflow that failed."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "flow.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOILFN_")}
    subprocess.run(
        [sys.executable, "flow.py"], cwd=folder, env=environment, capture_output=True, check=False, timeout=60
    )
    assert main(["report", str(folder / "store"), "-o", str(folder / "report.html")]) == 0
    return folder / "report.html"


def test_the_page_shows_everything_escaped(report: Path) -> None:
    page = Page(report.read_text())
    assert page.seen.count("script") == 2  # our own, and the numbers of the curves
    assert "<script>alert(1)</script>" in page.text
    assert "ValueError: bad <checksum>" in page.text
    for title in ("Failed tasks", "Kinds of tasks", "Over time", "Workers", "Graph", "Details", "usual wait"):
        assert title in page.text
    assert page.seen.count("svg") == 3


def test_the_page_needs_nothing_from_elsewhere(report: Path) -> None:
    text = report.read_text()
    page = Page(text)
    assert page.links == ["#main"]
    assert not [name for name in page.attributes if name.startswith("on")]
    assert "url(" not in text
    assert set(re.findall(r"https?://[\w.]*", text)) <= {
        "http://www.w3.org",
        "https://github.com",
    }  # the name of SVG, and uPlot's own


def test_disk_use_of_tasks_is_measured(report: Path) -> None:
    command = [sys.executable, "-m", "toilfn", "stats", str(report.parent / "store"), "--csv"]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    (written,) = [row for row in rows if row.startswith("merge,") and ",written," in row]
    least, *_ = written.split(",")[4:]
    assert 1_000_000 <= float(least) < 1_100_000


def test_a_browser_shows_it(report: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None and not os.environ.get("CI"):
        pytest.skip("chromium is not installed")
    assert browser is not None, "chromium is missing: install it with make test"
    SCREENSHOT.parent.mkdir(exist_ok=True)
    shot = tmp_path / "report.png"
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--window-size=1160,1900"]  # fmt: skip
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", *quiet, f"--user-data-dir={tmp_path / 'profile'}",
         f"--screenshot={shot}", report.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert shot.exists(), done.stderr
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 50_000  # an empty page of this size has a tenth of that
    shutil.copy(shot, SCREENSHOT)


def test_stores_with_little_in_them_have_a_report_too(tmp_path: Path) -> None:
    circle = [task("a", "f", ["b"]), task("b", "g", ["a"])]
    stores = [
        tell(tmp_path / "empty", epoch()),
        tell(tmp_path / "waiting", epoch(), run("a"), *map(function, "fg"), *circle, end("killed")),
        tell(tmp_path / "half", *half_done()),
    ]
    for number, store in enumerate(stores):
        file = tmp_path / f"{number}.html"
        assert main(["report", store.url, "-o", str(file)]) == 0
        Page(file.read_text())
    assert "Nothing was run in this store yet" in (tmp_path / "0.html").read_text()
    assert "stopped" in (tmp_path / "2.html").read_text()


def test_the_size_of_the_store_is_drawn_if_tasks_left_files(tmp_path: Path) -> None:
    made = outcome("a")._replace(blobs=(BlobRef("blobs/00/x", 3 * 2**20, bytes(16)),))
    store = tell(tmp_path / "store", epoch(), run("a"), function("f"), task("a", "f"), made, end("done"))
    assert main(["report", store.url, "-o", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Size of the store over time" in page
    numbers = json.loads(page.split('id="curves">')[1].split("</script>")[0])
    assert numbers["charts"]["store"]["stored, MiB"]["means"][-1] == 3.0


def test_only_markup_is_not_escaped() -> None:
    assert element("p", "<", Markup("<br>"), title='"') == '<p title="&quot;">&lt;<br></p>'
