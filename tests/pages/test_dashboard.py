"""`toilfn dashboard`: the page of a run in a browser, of one that has ended and of one that another process leads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, Request, build_opener

import pytest

from tests.cli.story import end, epoch, failure, function, outcome, run, task, tell
from tests.pages.browser import SHOTS, barriers, chromium, complaints_of, dashboard
from tests.waiting import wait_for
from toilfn.cli import main
from toilfn.errors import InputError
from toilfn.stores import Store

PATIENCE = 60_000
"""Milliseconds for which a browser waits for what must come."""

FLOW = """
import pathlib, sys, time
import toilfn as toil

@toil.task
def quick(n):
    return n

@toil.task
def slow(xs, folder):
    print("the slow one began", flush=True)
    while not pathlib.Path(folder, "go").exists():
        time.sleep(0.1)
    print("and ends")
    return len(xs)

if __name__ == "__main__":
    toil.compute(slow([quick(n) for n in range(20)], sys.argv[1]), store=sys.argv[1] + "/store", progress=False)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run that failed; its texts would do harm on a careless page."""
    names = [f"t{number}" for number in range(150)]
    records = [
        epoch(), run(*names, "bad"), function("work"), function("<img src=x onerror=alert(1)>"),
        *(task(name, "work") for name in names), task("bad", "<img src=x onerror=alert(1)>"),
        *(outcome(name) for name in names), failure("bad", final=True), end("failed"),
    ]  # fmt: skip
    return tell(tmp_path_factory.mktemp("dashboard") / "store", *records)


@pytest.fixture(scope="module")
def page_url(store: Store) -> Iterator[str]:
    with dashboard(store.url) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def status(url: str, **headers: str) -> int:
    try:
        with build_opener().open(Request(url, headers=headers), timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_only_clients_with_the_secret_see_the_page(page_url: str) -> None:
    base = page_url.partition("?")[0]
    assert status(base) == 401
    assert status(f"{base}tasks") == 401
    assert status(f"{base}?token=wrong") == 401
    assert status(page_url, Host="evil.example") == 403
    opener = build_opener(HTTPCookieProcessor(CookieJar()))
    with opener.open(page_url, timeout=30) as answer:
        assert "token" not in answer.url
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
    with pytest.raises(HTTPError) as refused:  # a page of another site has no Origin that is ours
        opener.open(Request(f"{base}kill", b"", {"Origin": "http://evil.example"}), timeout=30)
    assert refused.value.code == 403


def test_bad_urls_have_one_clear_answer(page_url: str) -> None:
    opener = build_opener(HTTPCookieProcessor(CookieJar()))
    opener.open(page_url, timeout=30).close()
    base = page_url.partition("?")[0]
    for path, code, words in (
        ("tasks?page=0", 400, "is not a number above 0"), ("tasks?state=x", 400, "is not a state"),
        ("tasks?sort=x", 400, "is not a column"), ("task/zz", 404, "not found in this store"),
        (f"task/{'0' * 32}/log/1", 404, "not found in this store"),
    ):  # fmt: skip
        with pytest.raises(HTTPError) as refused:
            opener.open(base + path, timeout=30)
        assert refused.value.code == code
        assert words in refused.value.read().decode()


def test_a_failure_is_found_and_its_log_is_opened(page_url: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints = complaints_of(page)
    page.goto(page_url)
    assert page.title() == "flow.py: failed" or "failed" in page.title()
    page.locator(".curve canvas").first.wait_for(timeout=PATIENCE)
    assert "150" in page.locator(".cards").first.inner_text()
    assert page.locator("img").count() == 0
    assert barriers(page) == []
    page.screenshot(path=SHOTS / "run.png", full_page=True)
    page.get_by_role("link", name="All of its logs").click()
    page.get_by_role("heading", name="Attempt 1").wait_for(timeout=PATIENCE)
    assert barriers(page) == []
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the log").click()
    assert Path(download.value.path()).exists()
    assert complaints == []
    page.close()


def test_the_view_of_the_table_is_in_its_url(page_url: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(page_url)
    page.get_by_role("link", name="Tasks").click()
    page.get_by_role("link", name="Next").click()
    page.wait_for_url("**page=2", timeout=PATIENCE)
    assert page.locator("table.tasks tbody tr").count() == 51
    page.keyboard.press("/")
    page.keyboard.type("onerror")
    page.wait_for_url("**q=onerror**", timeout=PATIENCE)
    page.get_by_text("1 task", exact=True).wait_for(timeout=PATIENCE)
    page.reload()
    assert page.locator("table.tasks tbody tr").count() == 1
    assert page.locator("#q").input_value() == "onerror"
    assert barriers(page) == []
    page.screenshot(path=SHOTS / "tasks.png")
    page.close()


def test_it_is_readable_in_the_dark_and_on_a_phone(page_url: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page.goto(page_url)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert barriers(page) == []
    page.screenshot(path=SHOTS / "phone.png")
    page.close()


@contextmanager
def running_flow(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the script in another process; the block begins when the run has started."""
    script = folder / "flow.py"
    script.write_text(FLOW)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOILFN_")}
    leader = subprocess.Popen([sys.executable, str(script), str(folder)], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: (folder / "store" / "log" / f"{2:016d}").exists(), "the start of the run")
        yield leader
    finally:
        leader.terminate()
        leader.wait(timeout=60)


def test_a_run_with_a_leader_in_another_process_is_live(tmp_path: Path, browser: Any) -> None:
    with running_flow(tmp_path), dashboard(tmp_path / "store") as url:
        context = browser.new_context()
        page = context.new_page()
        complaints = complaints_of(page)
        page.goto(url)
        page.get_by_text("20 of 21").wait_for(timeout=PATIENCE)
        page.goto(f"{url.partition('?')[0]}tasks?state=running")
        page.get_by_role("link", name="slow", exact=True).click()
        page.get_by_text("the slow one began").wait_for(timeout=PATIENCE)
        page.screenshot(path=SHOTS / "live.png")
        other = context.new_page()
        other.goto(url.partition("?")[0])
        other.evaluate("window.mark = 1")
        (tmp_path / "go").touch()
        other.locator(".state.done").first.wait_for(timeout=PATIENCE)
        assert other.evaluate("window.mark") == 1  # it came by itself, the page was not loaded again
        page.get_by_text("and ends").wait_for(timeout=PATIENCE)
        assert complaints == []


def test_its_button_stops_the_run(tmp_path: Path, browser: Any) -> None:
    with running_flow(tmp_path) as leader:
        with dashboard(tmp_path / "store") as url:
            page = browser.new_page()
            page.on("dialog", lambda dialog: dialog.accept())
            page.goto(url)
            page.get_by_role("button", name="Stop the run").click(timeout=PATIENCE)
            page.locator(".state.killed").first.wait_for(timeout=PATIENCE)
            page.close()
        assert leader.wait(timeout=60) != 0


def test_a_wrong_store_or_port_is_an_error_of_the_command(tmp_path: Path, store: Store) -> None:
    assert main(["dashboard", str(tmp_path / "nowhere"), "--no-browser"]) == 2
    assert main(["dashboard", store.url, "--no-browser", "--port", "99999"]) == 2


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    from toilfn.pages.dashboard import command

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(InputError, match="needs more packages") as error:
        command(None)  # type: ignore[arg-type]
    assert "toilfn[server]" in str(error.value.hint)
