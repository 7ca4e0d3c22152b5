"""Part of the conformance suite of CWL v1.2, sent to a server by a client of WES.

``python -m tests.server.conformance`` runs the third of the suite that the tests run, with ``toilfn-wes-cwl-runner``;
``--tool DIR/bin/toil-wes-cwl-runner`` takes Toil's client, from an environment that has ``toil[server,cwl]``. Needs
root on Debian, as `tests.cwl.conformance` does.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cwl.conformance import Results, network, run, servers
from tests.server.wes import Server
from tests.servers.containers import Containers

SUITE = Path(__file__).parents[1] / "cwl" / "suite" / "conformance_tests.yaml"
OURS = Path(sys.executable).parent / "toilfn-wes-cwl-runner"
OPTIONS = ("--max-runs=2", "--opt=--podman", "--opt=--relax-path-checks")


def send(tool: Path, numbers: list[int], jobs: int) -> Results:
    """Start a server in this network, and have cwltest send it tests by their numbers; all when there are none."""
    with tempfile.TemporaryDirectory(prefix="wes-conformance-") as name:
        server = Server(Path(name, "place"), *OPTIONS, log=Path(name, "server.log")).start()
        try:
            endpoints = [f"TOIL_WES_ENDPOINT={server.url}", f"TOILFN_WES_ENDPOINT={server.url}"]
            path = f"PATH={tool.parent}:{os.environ['PATH']}"  # Toil's client calls cwltool
            return run(SUITE, numbers, ["env", path, *endpoints, str(tool)], jobs=jobs, own_network=False)
        finally:
            server.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", type=Path, default=OURS)
    parser.add_argument("-n", default="", dest="numbers", help="numbers of tests, with commas")
    parser.add_argument("-j", type=int, default=2, dest="jobs")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        with servers(Containers()), tempfile.TemporaryDirectory() as folder:
            again = [sys.executable, "-m", "tests.server.conformance", "--inside", *sys.argv[1:]]
            command = ["unshare", "--net", "--mount", "sh", "-c", network(Path(folder)) + shlex.join(again)]
            return subprocess.run(command, check=False).returncode
    began = time.monotonic()
    results = send(options.tool.absolute(), [int(n) for n in options.numbers.split(",") if n], options.jobs)
    for name, text in results.failed.items():
        print(f"failed: {name}\n{text}\n")
    ran = len(results.passed) + len(results.failed)
    print(f"{options.tool.name}: {len(results.passed)} of {ran} passed in {time.monotonic() - began:.0f} s")
    return 1 if results.failed or not results.passed else 0


if __name__ == "__main__":
    sys.exit(main())
