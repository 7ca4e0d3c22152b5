"""The pictures of docs/dashboard.md and docs/server.md: ``make screenshots``, with Debian's Chromium.

A server is started in a temporary folder, some runs are submitted, and their pages are photographed.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from toilfn.server.client import Client

IMAGES = Path(__file__).parent / "images"
EXAMPLES = Path(__file__).parents[1] / "examples"
SIZE = {"width": 1180, "height": 700}

SCRIPT = """\
import sys, time
import toilfn as toil

@toil.task(memory="200M")
def align(sample):
    print("reads of", sample)
    time.sleep(0.2 + sample % 7 / 10)
    return sample

@toil.task(memory="300M")
def call(aligned, bad):
    print("calling variants of sample", aligned)
    until = time.monotonic() + 0.4
    while time.monotonic() < until:
        sorted(range(10_000))
    if aligned == bad:
        raise ValueError(f"sample {aligned}: the coverage is below 10")
    return aligned

@toil.task
def merge(calls):
    return len(calls)

if __name__ == "__main__":
    bad = int(dict(word.split("=") for word in sys.argv[1:]).get("--bad", -1))
    toil.compute(merge([call(align(n), bad) for n in range(24)]))
"""


def submit(client: Client, folder: Path, name: str, tags: dict[str, str], **params: str) -> str:
    """Submit a script; returns the run."""
    path = folder / name
    path.write_text(SCRIPT)
    fields = {"workflow_type": "PYTHON", "workflow_type_version": "3", "workflow_url": name, "tags": json.dumps(tags),
              "workflow_params": json.dumps(params), "workflow_engine_parameters": '{"retries": "0"}'}  # fmt: skip
    return client.submit(fields, [(name, path)])


def photograph(page: Any, url: str, name: str) -> None:
    """Open a page, and write a picture of its upper part."""
    page.goto(url)
    page.wait_for_timeout(1500)  # until the curves are drawn
    page.screenshot(path=IMAGES / f"{name}.png")
    print(IMAGES / f"{name}.png")


def main() -> None:
    """Write all pictures."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        command = [sys.executable, "-m", "toilfn", "server", f"--place={folder / 'place'}", f"--port={port}"]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        client = Client(url)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        try:
            while server.poll() is None:
                try:
                    client.get("/service-info")
                    break
                except Exception:
                    time.sleep(0.1)
            good = submit(client, folder, "cohort.py", {"project": "apples"})
            client.wait(good)
            bad = submit(client, folder, "cohort.py", {"project": "pears"}, bad="7")
            client.wait(bad)
            live = submit(client, folder, "nightly.py", {"project": "apples"})
            while client.get(f"/runs/{live}/status")["state"] != "RUNNING":
                time.sleep(0.1)
            photograph(page, f"{url}/ui", "server-runs")
            photograph(page, f"{url}/ui/runs/{bad}", "server-run")
            page.goto(f"{url}/ui/submit")
            page.set_input_files("#files", str(EXAMPLES / "variants.cwl"))
            page.get_by_role("button", name="Continue").click()
            photograph(page, page.url, "server-inputs")
            photograph(page, f"{url}/ui/runs/{good}#h-curves", "dashboard-curves")
            client.cancel(live)
            client.wait(live)
        finally:
            browser.close()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
