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
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.wdl.running import run

_FLAGS = re.DOTALL | re.MULTILINE
_EXAMPLE = re.compile(r"^(?P<indent> *)Example: (?P<name>\S+)\s*\n\s*```wdl\n(?P<source>.*?)^ *```", _FLAGS)
_TITLES = "Example input|Example output|Test config"
_BLOCK = re.compile(rf"^ *(?P<title>{_TITLES}):?\s*```json\n(?P<json>.*?)^ *```", _FLAGS)


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
        stem = self.name.removesuffix(".wdl")
        names = (self.config.get("target"), *((stem, stem.removesuffix("_task")) if stem.endswith("_task") else ()))
        return next((name for name in names if name and re.search(rf"^ *task {name}\b", self.source, re.M)), None)


def examples(text: str) -> Iterator[Example]:
    """Find the examples in a specification's text."""
    found = list(_EXAMPLE.finditer(text))
    for match, following in zip(found, [*found[1:], None], strict=True):
        rest = text[match.end() : following.start() if following else len(text)].split("</details>", maxsplit=1)[0]
        blocks = {block["title"]: _parsed(block["json"]) for block in _BLOCK.finditer(rest)}
        yield Example(
            match["name"], textwrap.dedent(match["source"]),
            blocks.get("Example input", {}), blocks.get("Example output", {}), blocks.get("Test config", {}),
        )  # fmt: skip


def _parsed(text: str) -> dict[str, Any]:
    """Read JSON; some of it in the specifications is none, and expects nothing then."""
    try:
        found: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return found


def failure(example: Example, folder: Path, *flags: str, inline: bool = True) -> str | None:
    """Run an example in a folder with all of them; says what is wrong, or nothing."""
    with tempfile.TemporaryDirectory(prefix="toilfn-spec-") as place:
        work = Path(place) / "work"
        shutil.copytree(folder, work)
        (work / "inputs.json").write_text(json.dumps(example.inputs))
        target = ["--task", example.target] if example.target else []
        words = [example.name, "-i", "inputs.json", "-m", "results.json", "-o", "out", *target, *flags]
        done = run(words, work, inline=inline)
        if example.should_fail:
            return None if done.status else "it should have failed"
        if done.status:
            return f"exit status {done.status}: {done.stderr[-2000:]}"
        found = json.loads((work / "results.json").read_text())
        excluded = example.config.get("exclude_output", [])
        left_out = {excluded} if isinstance(excluded, str) else set(excluded)
        return difference({k: v for k, v in example.outputs.items() if k.split(".")[-1] not in left_out}, found)


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
    parser.add_argument("--container", default="auto")
    options = parser.parse_args()
    passed = 0
    with tempfile.TemporaryDirectory(prefix="toilfn-spec-") as place:
        chosen = [e for e in prepare(options.repository, Path(place)) if not options.names or e.name in options.names]
        for example in chosen:
            words = failure(example, Path(place), "--container", options.container)
            passed += words is None
            if words is not None:
                print(f"FAILED {example.name}: {words}\n", flush=True)
    print(f"{passed} of {len(chosen)}")
    return int(passed != len(chosen))


if __name__ == "__main__":
    raise SystemExit(main())
