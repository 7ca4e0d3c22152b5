"""The conformance suites of CWL, run by cwltest in containers, offline.

``python -m tests.cwl.conformance SUITE`` runs the suite in a folder or a list of tests, and prints what failed.
``--third`` takes every third test, ``--sample 40`` so many spread over the suite; ``--interrupted`` kills each run
half-way and resumes it; ``--cluster slurm`` runs every task as a job of a real Slurm. Needs root on Debian, for podman
and for a network of its own, where one test finds the only name that the suite asks for; Slurm is in the machine's.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import yaml

from tests.servers.containers import Containers
from tests.servers.images import add_images
from tests.servers.machine import Server
from tests.servers.slurm import Slurm

NAMES = ("conformance_tests.yaml", "conformance_test_v1.0.yaml", "v1.0/conformance_test_v1.0.yaml")
"""What the lists of tests are called in the published suites."""

ROOT = Path(__file__).parents[2]
RELAXED = "--relax-path-checks"
"""One of the tests needs it, and cwltool with it: a name with a space."""

NETWORK = """\
set -e
ip link set lo up
mount --bind {folder}/hosts /etc/hosts
{python} -m http.server 80 --bind 127.0.0.1 --directory {folder}/www 2>{folder}/http.log &
started=$!
trap 'kill $started' EXIT
until {python} -c 'import socket; socket.create_connection(("127.0.0.1", 80))' 2>/dev/null; do sleep 0.1; done
"""

FORKS = """\
{python} -m tests.forked {folder}/forks toilfn.cwl toilfn.cwl.runner </dev/null >{folder}/forks.log 2>&1 &
started="$started $!"
until grep -q ready {folder}/forks.log; do kill -0 $!; sleep 0.1; done
"""
"""Starts the process that has imported the runner."""


class Results(NamedTuple):
    """How a run of the suite went."""

    passed: list[str]
    failed: dict[str, str]
    """With what cwltest says."""


def tests_of(suite: Path) -> Path:
    """Find the list of tests in a folder."""
    if suite.is_file():
        return suite
    return next(path for name in NAMES if (path := suite / name).exists())


def count(tests: Path) -> int:
    """Count a list's tests, also those in lists that it imports."""
    entries = yaml.safe_load(tests.read_text())
    return sum(count(tests.parent / entry["$import"]) if "$import" in entry else 1 for entry in entries)


def spread(total: int, wanted: int) -> list[int]:
    """Choose so many numbers from 1 to the total, evenly."""
    return sorted({1 + i * total // wanted for i in range(min(wanted, total))})


def run(
    tests: Path,
    numbers: Sequence[int],
    runner: Sequence[str],
    *,
    jobs: int = 2,
    own_network: bool = True,
    is_forked: bool = False,
) -> Results:
    """Have cwltest run tests of a list by their numbers.

    Parameters
    ----------
    tests : Path
        The list.
    numbers : sequence of int
        Counted from 1; all when empty.
    runner : sequence of str
        The command; cwltest adds its own options.
    jobs : int
        How many at one time.
    own_network : bool
        Whether all of it is in a network with nothing but the server that one test needs.
    is_forked : bool
        Whether ``python -m toilfn.cwl`` is forked from a process that has imported it (`tests.forked`); this takes
        half of the time, and needs the network of its own.
    """
    with tempfile.TemporaryDirectory(prefix="cwl-conformance-") as name:
        folder = Path(name)
        if is_forked:
            place = [sys.executable, "-SI", str(ROOT / "tests" / "forked.py"), str(folder / "forks")]
            runner = [*place, *runner[runner.index("toilfn.cwl") + 1 :]]
        script = folder / "runner"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(runner)} "$@"\n')
        script.chmod(0o755)
        command = ["cwltest", "--test", tests, "--tool", script, f"-j{jobs}", "--timeout", "280"]
        command += ["--junit-xml", folder / "report.xml", *([f"-n{','.join(map(str, numbers))}"] if numbers else [])]
        whole = list(map(str, [sys.executable, "-m", *command]))
        if own_network:
            forks = FORKS.format(folder=folder, python=sys.executable) if is_forked else ""
            whole = ["unshare", "--net", "--mount", "sh", "-c", network(folder) + forks + shlex.join(whole)]
        done = subprocess.run(
            whole, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": name}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if not (folder / "report.xml").exists():
            raise RuntimeError(f"cwltest did not run: {done.stderr[-2000:]}")
        return _results(folder / "report.xml")


def network(folder: Path) -> str:
    """Give commands that make a network with a server that has the name which a test asks for."""
    (folder / "hosts").write_text("127.0.0.1 localhost\n127.0.0.1 commonwl.org\n")
    (folder / "www").mkdir()
    (folder / "www" / "index.html").write_text("<html></html>\n")
    return NETWORK.format(folder=folder, python=sys.executable)


def _results(report: Path) -> Results:
    passed, failed = [], {}
    for case in ET.parse(report).iter("testcase"):
        name = case.get("file") or case.get("name") or ""
        problem = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        if problem is None:
            passed.append(name)
        else:
            failed[name] = f"{problem.get('message', '')} {''.join(problem.itertext())}"[-2000:]
    return Results(passed, failed)


@contextmanager
def servers(*wanted: Server) -> Iterator[None]:
    """Have servers running, and their variables in this process's environment."""
    with ExitStack() as stack:
        for server in wanted:
            server.acquire(str(os.getpid()))
            stack.callback(server.release, str(os.getpid()))
            os.environ.update(server.environment)
            if isinstance(server, Containers):
                add_images(server)
        yield


def command(*options: str, interrupted: bool = False) -> list[str]:
    """Give the command that is under test."""
    module = "tests.cwl.interrupted" if interrupted else "toilfn.cwl"
    return [sys.executable, "-m", module, "--podman", RELAXED, "--disable-color", *options]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("-j", type=int, default=2, dest="jobs")
    parser.add_argument("-n", default="", dest="numbers", help="numbers of tests, with commas")
    parser.add_argument("--third", action="store_true")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--interrupted", action="store_true")
    parser.add_argument("--cluster", choices=("local", "slurm"), default="local")
    options = parser.parse_args()
    tests = tests_of(options.suite.resolve())
    total, begin = count(tests), time.monotonic()
    numbers = [int(number) for number in options.numbers.split(",") if number]
    numbers = spread(total, options.sample) if options.sample else numbers
    numbers = list(range(1, total + 1, 3)) if options.third else numbers
    slurm = [Slurm()] if options.cluster == "slurm" else []
    with servers(Containers(), *slurm):
        more = ["--cluster", "slurm"] if slurm else []
        runner = command(*more, interrupted=options.interrupted)
        results = run(tests, numbers, runner, jobs=options.jobs, own_network=not slurm)
    for name, text in results.failed.items():
        print(f"failed: {name}\n{text}\n")
    ran = len(results.passed) + len(results.failed)
    print(f"{tests}: {len(results.passed)} of {ran} passed in {time.monotonic() - begin:.0f} s")
    return 1 if results.failed or not results.passed else 0


if __name__ == "__main__":
    sys.exit(main())
