"""Runs the tests of another engine, sprocket (its ``crates/wdl-engine/tests``): a folder for each document.

``python -m tests.wdl.sprocket FOLDER [NAME...] [--container none]`` prints what failed, and a table.
Documents of WDL 1.3, as most of them are, run as 1.2: what is new in 1.3 fails.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.wdl.running import run
from tests.wdl.specification import difference

KINDS = ("tasks", "workflows", "inputs")

_VERSION = re.compile(r"^version (\S+)", re.MULTILINE)
_PLACED = re.compile(r"\.wdl(:\d+:\d+:)? |inputs\.json|task \w+: requests ")
"""What an error has that says where it is, or what is not to be had."""


def failure(case: Path, *flags: str) -> str | None:
    """Run a test; says what is wrong, or nothing."""
    with tempfile.TemporaryDirectory(prefix="toilfn-sprocket-") as place:
        tests = Path(place) / "tests"
        for folder in _needed(case):
            shutil.copytree(folder, tests / folder.parent.name / folder.name, symlinks=True)
        for document in tests.rglob("*.wdl"):
            document.write_text(re.sub(r"^version 1\.3\b", "version 1.2", document.read_text(), flags=re.MULTILINE))
        work = tests / case.parent.name / case.name
        words = ["source.wdl", "-i", "inputs.json", "-m", "results.json", "-o", "out", *_target(work), *flags]
        done = run(words, work)
        error = work / "error.txt"
        if error.exists() and error.read_text().strip():
            return _refusal(done.status, done.stderr)
        if done.status:
            return f"exit status {done.status}: {done.stderr[-2000:]}"
        expected = work / "outputs.json"
        return _difference(expected, work / "results.json") if expected.exists() else None


def _needed(case: Path) -> set[Path]:
    """Give a test's folder, and those that it imports from."""
    found, stack = {case}, [case]
    while stack:
        folder = stack.pop()
        for name in re.findall(r'^import "((?:\.\./)+[^"]+)"', (folder / "source.wdl").read_text(), re.MULTILINE):
            other = (folder / name).resolve().parent
            if other not in found:
                found.add(other)
                stack.append(other)
    return found


def _target(work: Path) -> list[str]:
    """Name what the inputs are for, if they name one task or workflow."""
    inputs = work / "inputs.json"
    given = json.loads(inputs.read_text()) if inputs.exists() else {}
    names = {name.partition(".")[0] for name in given if "." in name}
    tasks = re.findall(r"^task (\w+)", (work / "source.wdl").read_text(), re.MULTILINE)
    if not names and work.parent.name == "tasks":
        names = set(tasks)
    return ["--task", names.pop()] if len(names) == 1 and names <= set(tasks) else []


def _refusal(status: int, said: str) -> str | None:
    if status == 0:
        return "it should have failed"
    return None if _PLACED.search(said) else f"an error without a place: {said}"


def _difference(expected: Path, found: Path) -> str | None:
    try:
        wanted = json.loads(expected.read_text())
    except json.JSONDecodeError:
        return "what it expects is no JSON"
    return difference(_slashed(wanted), _slashed(json.loads(found.read_text())))


def _slashed(value: Any) -> Any:
    """Write line breaks and backslashes in texts as sprocket's baselines do, whose paths have slashes only."""
    if isinstance(value, dict):
        return {name: _slashed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_slashed(item) for item in value]
    return value.replace("\n", "/n").replace("\t", "/t").replace("\\", "/") if isinstance(value, str) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--container", default="auto")
    options = parser.parse_args()
    passed: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    for case in (case for kind in KINDS for case in sorted((options.folder.resolve() / kind).iterdir())):
        if options.names and case.name not in options.names:
            continue
        version = _VERSION.search((case / "source.wdl").read_text())
        group = (case.parent.name, version[1] if version else "draft-2")
        said = failure(case, "--container", options.container)
        total[group] += 1
        passed[group] += said is None
        if said is not None:
            print(f"FAILED {case.parent.name}/{case.name}: {said}\n", flush=True)
    for group, count in sorted(total.items()):
        print(f"{' '.join(group)}: {passed[group]} of {count}")
    return int(passed != total)


if __name__ == "__main__":
    raise SystemExit(main())
