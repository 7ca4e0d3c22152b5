"""The server's pages in a browser: a run is submitted, watched, searched for its failure, cancelled, run again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pages.browser import SHOTS, barriers, chromium, complaints_of
from tests.server.test_security import token
from tests.server.wes import Server

PATIENCE = 60_000
"""Milliseconds for which a browser waits for what must come."""

FLOW = """\
cwlVersion: v1.2
class: Workflow
label: Wait and count
doc: Waits for a file, and counts the words of another one.
requirements: {ScatterFeatureRequirement: {}, InlineJavascriptRequirement: {}}
inputs:
  text: {type: File, doc: the text whose words are counted}
  folder: {type: string, doc: where the file is expected}
  parts: {type: "int[]", default: [1, 2, 3]}
outputs:
  counts: {type: File, outputSource: count/out}
steps:
  wait:
    run:
      class: CommandLineTool
      requirements: {ShellCommandRequirement: {}}
      inputs: {folder: string}
      outputs: {done: {type: string, outputBinding: {outputEval: $("yes")}}}
      arguments:
        - shellQuote: false
          valueFrom: >-
            echo the waiting begins >&2; until [ -e $(inputs.folder)/go ]; do sleep 0.2; done;
            echo it is over >&2; exit `cat $(inputs.folder)/go`
    in: {folder: folder}
    out: [done]
  check:
    run:
      class: ExpressionTool
      inputs: {part: int, after: string}
      outputs: {value: int}
      expression: "$({value: inputs.part})"
    scatter: part
    in: {part: parts, after: wait/done}
    out: [value]
  count:
    run:
      class: CommandLineTool
      baseCommand: [wc, -w]
      inputs: {text: {type: File, inputBinding: {}}, after: "int[]"}
      outputs: {out: stdout}
      stdout: counts.txt
    in: {text: text, after: check/value}
    out: [out]
"""


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with chromium() as found:
        yield found


def click(page: Any, role: str, name: str) -> None:
    page.get_by_role(role, name=name, exact=True).first.click(timeout=PATIENCE)


def fill_in(page: Any, tmp_path: Path, text: Path) -> None:
    page.set_input_files("input[name='file:text']", str(text))
    page.get_by_label("folder").fill(str(tmp_path))


@pytest.mark.slow
def test_a_run_from_the_form_to_its_outputs(server, chrome, tmp_path):
    (tmp_path / "flow.cwl").write_text(FLOW)
    (tmp_path / "text.txt").write_text("five words are in here\n")
    page = chrome.new_page(viewport={"width": 1280, "height": 900})
    complaints = complaints_of(page)
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(server.url)
    click(page, "link", "New run")
    assert barriers(page) == []
    page.screenshot(path=SHOTS / "submit.png")
    page.set_input_files("#files", str(tmp_path / "flow.cwl"))
    click(page, "button", "Continue")
    page.get_by_role("heading", name="Wait and count").wait_for(timeout=PATIENCE)
    fill_in(page, tmp_path, tmp_path / "text.txt")
    assert barriers(page) == []
    page.screenshot(path=SHOTS / "inputs.png", full_page=True)
    click(page, "button", "Start the run")
    page.locator(".state.running").first.wait_for(timeout=PATIENCE)
    page.evaluate("window.mark = 1")
    page.get_by_text("wait", exact=True).first.wait_for(timeout=PATIENCE)
    page.screenshot(path=SHOTS / "served.png", full_page=True)
    assert barriers(page) == []

    # It is cancelled, and run again with the same inputs; that one fails.
    click(page, "button", "Cancel")
    page.get_by_text("CANCELED").first.wait_for(timeout=PATIENCE)
    click(page, "button", "Run again…")
    assert page.get_by_label("folder").input_value() == str(tmp_path)
    assert "given/text/text.txt" in page.content()
    page.get_by_text("Tags and options").click()
    page.get_by_label("Tags").fill("project=apples")
    click(page, "button", "Start the run")
    page.locator(".state.running").first.wait_for(timeout=PATIENCE)
    page.evaluate("window.mark = 2")
    (tmp_path / "go").write_text("7")
    page.get_by_text("EXECUTOR_ERROR").first.wait_for(timeout=PATIENCE)
    assert page.evaluate("window.mark") == 2  # it came by itself
    page.get_by_role("heading", name="Failed tasks").wait_for(timeout=PATIENCE)
    page.screenshot(path=SHOTS / "failed.png", full_page=True)
    assert barriers(page) == []
    click(page, "link", "All of its logs")
    page.get_by_text("it is over").first.wait_for(timeout=PATIENCE)
    page.get_by_label("Search the logs").fill("WAITING")
    page.keyboard.press("Enter")
    page.get_by_text("2 lines with").wait_for(timeout=PATIENCE)
    assert barriers(page) == []
    page.screenshot(path=SHOTS / "search.png")
    with page.expect_download() as download:
        click(page, "link", "Download the log")
    assert "the waiting begins" in Path(download.value.path()).read_text()

    # The list says why it failed; found again, it is resumed, and what it leaves can be fetched.
    click(page, "link", "Runs")
    page.wait_for_url("**/ui", timeout=PATIENCE)  # with its scripts, which know the key
    page.keyboard.press("/")
    page.keyboard.type("apples")
    page.wait_for_url("**q=apples**", timeout=PATIENCE)
    page.locator("table.runs tbody tr").nth(0).locator(".error").wait_for(timeout=PATIENCE)
    assert barriers(page) == []
    page.screenshot(path=SHOTS / "runs.png")
    click(page, "link", "flow.cwl")
    (tmp_path / "go").write_text("0")
    click(page, "button", "Resume…")
    click(page, "button", "Start the run")
    page.get_by_text("COMPLETE").first.wait_for(timeout=PATIENCE)
    page.get_by_role("heading", name="Outputs").wait_for(timeout=PATIENCE)
    with page.expect_download() as download:
        click(page, "link", "counts.txt")
    assert Path(download.value.path()).read_text().split()[0] == "5"
    page.screenshot(path=SHOTS / "complete.png", full_page=True)
    click(page, "link", "Details")
    page.get_by_role("heading", name="Inputs").wait_for(timeout=PATIENCE)
    assert barriers(page) == []
    page.screenshot(path=SHOTS / "details.png", full_page=True)
    click(page, "link", "Run")
    click(page, "link", "Delete…")
    assert barriers(page) == []
    page.screenshot(path=SHOTS / "delete.png")
    click(page, "button", "Delete the run")
    page.get_by_role("heading", name="Runs").wait_for(timeout=PATIENCE)
    assert complaints == []
    page.close()


@pytest.mark.slow
def test_the_list_by_keyboard_in_the_dark_and_on_a_phone(server, chrome):
    client = server.client()
    run = client.script(tags=json.dumps({"<img src=x onerror=alert(1)>": "y"}))
    client.wait(run)
    page = chrome.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    complaints = complaints_of(page)
    page.goto(server.url)
    assert page.locator("img").count() == 0
    for path in ("/ui", f"/ui/runs/{run}", "/ui/submit", "/ui/health", f"/ui/runs/{run}/logs"):
        page.goto(server.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        assert barriers(page) == []
        page.screenshot(path=SHOTS / f"phone-{path.rpartition('/')[2][:8]}.png")
    page.goto(f"{server.url}/ui")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.locator(f"a[href$='{run}']").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="work.py").wait_for(timeout=PATIENCE)
    assert complaints == []
    page.close()


@pytest.mark.slow
def test_a_user_logs_in_and_out(start, chrome, tmp_path):
    secret = token(tmp_path / "place", "add", "ann").stdout.strip()
    server: Server = start()
    server.client = lambda: Server.client(server, headers={"Authorization": f"Bearer {secret}"})  # type: ignore[method-assign]
    context = chrome.new_context()
    page = context.new_page()
    page.goto(f"{server.url}/ui/health")
    page.get_by_label("Your token").fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("unknown token").wait_for(timeout=PATIENCE)
    assert barriers(page) == []
    page.get_by_label("Your token").fill(secret)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Health").wait_for(timeout=PATIENCE)  # the page that was wanted
    page.screenshot(path=SHOTS / "logged-in.png")
    click(page, "button", "Log out")
    page.get_by_role("heading", name="Log in").wait_for(timeout=PATIENCE)
    context.close()
