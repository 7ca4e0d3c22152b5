"""Requests that schemathesis makes of the OpenAPI document, sent to a server: no 500, and no undeclared answer.

``python -m tests.server.fuzz --tool DIR/bin/schemathesis --requests 10000``, with schemathesis in an environment of its
own. The server's traceback is printed if there is one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.server.wes import HERE, INFO, PREFIX, Server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
OPERATIONS = 6
"""Operations of the document that have anything to vary, among which the requests are spread."""


def documents(folder: Path) -> Path:
    """Write the document with a reference to a file instead of an address, so that no network is needed."""
    text = (HERE / "wes-1.1.0.openapi.yaml").read_text().replace(INFO, "service-info.yaml")
    (folder / "service-info.yaml").write_text((HERE / "service-info-1.0.0.yaml").read_text())
    (folder / "wes.yaml").write_text(text)
    return folder / "wes.yaml"


def attack(folder: Path, url: str, options: argparse.Namespace, run: str) -> int:
    """Send half of the requests, for runs by ids that are made up or, if one is given, for a run that there is."""
    inside = folder / (run or "unknown")
    inside.mkdir()
    if run:
        (inside / "schemathesis.toml").write_text(f'[parameters]\nrun_id = "{run}"\n')
    command = [
        options.tool, "run", str(documents(inside)), f"--url={url}{PREFIX}", f"--checks={CHECKS}",
        "--phases=examples,fuzzing", f"--max-examples={options.requests // OPERATIONS // 2}", "--continue-on-failure",
        f"--seed={options.seed}", "--generation-database=none", "--no-color", "--suppress-health-check=all",
    ]  # fmt: skip
    return subprocess.run(command, cwd=inside, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default="schemathesis")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wes-fuzz-") as name:
        folder = Path(name)
        server = Server(folder / "place", "--max-runs=1", log=folder / "server.log").start()
        try:
            client = server.client()
            run = client.script()
            client.wait(run)
            failed = [attack(folder, server.url, options, id) for id in ("", run)]
            log = server.log.read_text(errors="replace")
            if "Traceback" in log:
                print(log[log.index("Traceback") - 500 :][:5000])
            return int(any(failed) or "Traceback" in log)
        finally:
            server.end()


if __name__ == "__main__":
    sys.exit(main())
