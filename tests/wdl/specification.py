"""Runs the examples in a WDL specification (SPEC.md of openwdl/wdl, from 1.1.1 on).

``python -m tests.wdl.specification REPOSITORY [--container none]`` prints what failed; REPOSITORY is a checkout.
The examples' form is that of the WDL Markdown Test Specification (openwdl/wdl-tests).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_EXAMPLE = re.compile(r"^(?P<indent> *)Example: (?P<name>\S+)\s*\n\s*```wdl\n(?P<source>.*?)^ *```", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"^ *(?P<title>Example input|Example output|Test config):?\s*```json\n(?P<json>.*?)^ *```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """One example."""

    name: str
    source: str
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def is_resource(self) -> bool:
        """Whether it is there for others to import."""
        return self.name.endswith("_resource.wdl")

    @property
    def should_fail(self) -> bool:
        return bool(self.config.get("fail", self.name.endswith(("_fail.wdl", "_fail_task.wdl"))))

    @property
    def target(self) -> str | None:
        """The task to run, if it is not the workflow."""
        named = self.config.get("target")
        return named or (self.name.removesuffix(".wdl") if self.name.endswith("_task.wdl") else None)


def examples(text: str) -> Iterator[Example]:
    """Find the examples in a specification's text."""
    found = list(_EXAMPLE.finditer(text))
    for match, following in zip(found, [*found[1:], None], strict=True):
        rest = text[match.end() : following.start() if following else len(text)].split("</details>")[0]
        blocks = {block["title"]: json.loads(block["json"]) for block in _BLOCK.finditer(rest)}
        yield Example(
            match["name"], textwrap.dedent(match["source"]),
            blocks.get("Example input", {}), blocks.get("Example output", {}), blocks.get("Test config", {}),
        )  # fmt: skip


def failure(example: Example, folder: Path, *flags: str) -> str | None:
    """Run an example in a folder with all of them; says what is wrong, or nothing."""
    with tempfile.TemporaryDirectory(prefix="toilfn-spec-") as place:
        work = Path(place) / "work"
        shutil.copytree(folder, work)
        (work / "inputs.json").write_text(json.dumps(example.inputs))
        target = ["--task", example.target] if example.target else []
        words = [example.name, "-i", "inputs.json", "-m", "results.json", "-o", "out", *target, *flags]
        done = subprocess.run(
            [sys.executable, "-m", "toilfn", "wdl", *words], cwd=work, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        if example.should_fail:
            return None if done.returncode else "it should have failed"
        if done.returncode:
            return f"exit status {done.returncode}: {done.stderr[-2000:]}"
        found = json.loads((work / "results.json").read_text())
        left_out = set(example.config.get("exclude_output", []))
        return difference({name: value for name, value in example.outputs.items() if name not in left_out}, found)


def difference(expected: dict[str, Any], found: dict[str, Any]) -> str | None:
    """Compare outputs; says which differ."""
    wrong = [
        f"{name}: {found.get(name, 'missing')!r} instead of {value!r}"
        for name, value in expected.items()
        if not same(value, found.get(name, ...))
    ]
    return "; ".join(wrong) or None


def same(expected: Any, found: Any) -> bool:
    """Say whether two values are the same; a file is known by its name."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            return False
        return all(same(value, found[name]) for name, value in expected.items())
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(same, expected, found))
    if isinstance(expected, float) and isinstance(found, (int, float)):
        return math.isclose(expected, found, rel_tol=1e-6)
    if isinstance(expected, str) and isinstance(found, str) and os.path.isabs(found) and os.path.exists(found):
        return os.path.basename(found) == os.path.basename(expected)
    return bool(expected == found and isinstance(found, bool) == isinstance(expected, bool))


def prepare(repository: Path, folder: Path) -> list[Example]:
    """Write all examples of a specification, and the files they use, into a folder."""
    found = list(examples((repository / "SPEC.md").read_text()))
    data = repository / "tests" / "data"
    if data.is_dir():
        shutil.copytree(data, folder, dirs_exist_ok=True)
    for example in found:
        (folder / example.name).write_text(example.source)
    return [example for example in found if not example.is_resource]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("-n", type=int, default=2)
    parser.add_argument("--container", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="toilfn-spec-") as place, ThreadPoolExecutor(options.n) as pool:
        folder = Path(place)
        chosen = [e for e in prepare(options.repository, folder) if not options.names or e.name in options.names]
        said = list(pool.map(lambda e: failure(e, folder, "--container", options.container), chosen))
    for example, words in zip(chosen, said, strict=True):
        if words is not None:
            print(f"FAILED {example.name}: {words}\n")
    print(f"{said.count(None)} of {len(chosen)}")
    return int(said.count(None) != len(chosen))


if __name__ == "__main__":
    raise SystemExit(main())
