"""Runs a suite of WDL conformance tests in the form of DataBiosphere's (conformance.yaml and its documents).

``python -m tests.wdl.conformance SUITE [--version 1.1] [--id NAME] [--separately]`` prints a table of what failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.wdl.running import run, served

VERSIONS = ("draft-2", "1.0", "1.1", "1.2")

HOST = "https://raw.githubusercontent.com/chanzuckerberg/miniwdl/main/tests"
"""What some tests read files from."""

NAMES = "Alyssa P. Hacker\nBen Bitdiddle\n"
"""The content of ``alyssa_ben.txt`` there."""


@dataclass(frozen=True)
class Case:
    """One test in one version of WDL."""

    suite: Path
    number: int
    version: str
    entry: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.version}-{self.number}-{self.entry['id']}"


def cases(suite: Path) -> list[Case]:
    """List all tests of a suite, once for each version."""
    entries = yaml.safe_load((suite / "conformance.yaml").read_text())
    return [
        Case(suite, number, version, entry)
        for version in VERSIONS
        for number, entry in enumerate(entries)
        if version in entry["versions"]
    ]


def failure(case: Case, *flags: str, inline: bool = True, server: str = "") -> str | None:
    """Run a test; says what is wrong, or nothing. The server, if given, takes the place of the one in the web."""
    with tempfile.TemporaryDirectory(prefix="toilfn-wdl-") as place:
        work = Path(place)
        own = Path(case.entry["inputs"]["dir"])
        (work / "tests").mkdir()
        for folder in (case.suite / "tests").iterdir():
            if folder.name != own.name:
                (work / "tests" / folder.name).symlink_to(folder)
        shutil.copytree(case.suite / own, work / own, copy_function=shutil.copyfile)
        (work / "run.py").touch()  # the suite's own runner, of which some tests use the name
        document = converted(work / case.entry["inputs"]["dir"] / case.entry["inputs"]["wdl"], case.version)
        inputs = Path(case.entry["inputs"]["dir"]) / case.entry["inputs"]["json"]
        if server:
            (work / inputs).write_text((work / inputs).read_text().replace(HOST, server))
        words = [str(document.relative_to(work)), "-i", str(inputs), "-m", "results.json", "-o", "out", *flags]
        done = run(words, work, inline=inline)
        if case.entry.get("fail"):
            return None if done.status else "it should have failed"
        if done.status:
            return f"exit status {done.status}: {done.stderr[-3000:]}"
        found = json.loads((work / "results.json").read_text())
        return difference(case.entry["outputs"], found, work)


def difference(expected: dict[str, Any], found: dict[str, Any], work: Path) -> str | None:
    """Compare outputs; says what differs first."""
    if expected.keys() != found.keys():
        return f"outputs {sorted(found)} instead of {sorted(expected)}"
    for name, wanted in expected.items():
        said = _differs(wanted["value"], found[name], wanted["type"], work)
        if said:
            return f"{name}: {said}"
    return None


def _differs(wanted: Any, found: Any, kind: Any, work: Path) -> str | None:
    if isinstance(kind, str):
        kind = kind.strip()
        if kind.endswith("?") and wanted is None:
            return None if found is None else f"{found!r} instead of null"
        kind = kind.rstrip("?+")
    if isinstance(kind, dict):
        pairs = [(wanted.get(name), found.get(name), inner) for name, inner in kind.items()]
        same = isinstance(found, dict) and wanted.keys() == found.keys()
    elif kind.startswith("Array["):
        same = isinstance(found, list) and len(found) == len(wanted)
        pairs = [(a, b, kind[6:-1]) for a, b in zip(wanted, found, strict=False)] if same else []
    elif kind == "File":
        return _file_differs(wanted, found, work)
    elif kind == "Directory":
        listing = _listing(work / found)
        return None if _sorted(wanted["listing"]) == listing else f"{listing} instead of {wanted['listing']}"
    else:
        same, pairs = _matches(wanted, found, kind), []
    if not same:
        return f"{found!r} instead of {wanted!r}"
    return next((said for pair in pairs if (said := _differs(*pair, work))), None)


def _matches(wanted: Any, found: Any, kind: str) -> bool:
    types = {"Int": int, "Float": float, "Boolean": bool, "String": str}
    if isinstance(wanted, str):
        wanted = os.path.expandvars(wanted)
    return bool(wanted == found and isinstance(found, types.get(kind, object)))


def _file_differs(wanted: dict[str, str], found: str, work: Path) -> str | None:
    if not isinstance(found, str) or not (work / found).is_file():
        return f"{found!r} is no file"
    content = (work / found).read_bytes()
    if "regex" in wanted:
        text = content.decode()
        return None if re.search(wanted["regex"], text) else f"{text!r} does not match {wanted['regex']!r}"
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return None if digest == wanted["md5sum"] else f"content {content!r} has another checksum"


def _listing(folder: Path) -> list[tuple[str, Any]]:
    return sorted((child.name, _listing(child) if child.is_dir() else None) for child in folder.iterdir())


def _sorted(listing: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return sorted(
        (entry["basename"], _sorted(entry["listing"]) if entry["type"] == "Directory" else None) for entry in listing
    )


def converted(document: Path, version: str) -> Path:
    """Write a document in another version beside it, as the suite's own runner does."""
    lines = [line for line in document.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    own = lines[0].split()[1] if lines[0].startswith("version") else "draft-2"
    if own == version:
        return document
    target = document.with_name(f"version_{version}_{document.name}")
    target.write_text("\n".join(_in_version(lines[1:], version)) + "\n")
    return target


def _in_version(lines: list[str], version: str) -> Iterator[str]:
    section = ""
    if version != "draft-2":
        yield f"version {version}"
    for line in lines:
        word = line.strip()
        if not section and word in ("input {", "command <<<", "command {", "runtime {"):
            section = word.split()[0]
            if not (section == "input" and version == "draft-2"):
                yield line
        elif section and word in ("}", ">>>"):
            if not (section == "input" and version == "draft-2"):
                yield line
            section = ""
        elif section == "command" and version == "draft-2":
            yield line.replace("~{", "${")
        elif section == "runtime" and version in ("draft-2", "1.0"):
            yield line.replace("container", "docker", 1)
        else:
            yield line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--version", action="append", choices=VERSIONS)
    parser.add_argument("--id", action="append")
    parser.add_argument("--separately", action="store_true", help="a process for each test, with a cluster's workers")
    parser.add_argument("--container", default="auto")
    options = parser.parse_args()
    chosen = [
        case for case in cases(options.suite.resolve())
        if case.version in (options.version or VERSIONS) and case.entry["id"] in (options.id or [case.entry["id"]])
    ]  # fmt: skip
    passed = dict.fromkeys(VERSIONS, 0)
    with served({"alyssa_ben.txt": NAMES}) as server:
        for case in chosen:
            flags = ("--container", options.container)
            said = failure(case, *flags, inline=not options.separately, server=server)
            passed[case.version] += said is None
            if said is not None:
                print(f"FAILED {case.name}: {said}\n", flush=True)
    for version in VERSIONS:
        total = sum(case.version == version for case in chosen)
        print(f"{version}: {passed[version]} of {total}")
    return int(sum(passed.values()) != len(chosen))


if __name__ == "__main__":
    raise SystemExit(main())
