"""Patterns of file names have the same meaning as in bash."""

from __future__ import annotations

import glob
import subprocess
from pathlib import Path

import pytest

from toilfn.patterns import expand_braces, from_posix

NAMES = [
    "a.bam", "a.bam.bai", "b.bam", "^x", "x1", "x2", "x10", "A", "a b", "[x]", "*", "q?", "a-b", "a]b", "é", "x{1}",
    "01.t", "02.t", "{}",
]  # fmt: skip


@pytest.mark.parametrize(
    "pattern",
    [
        "*.bam", "*.{bam,bam.bai}", "{b,a}.bam", "[^a]*", "[!a]*", "x[[:digit:]]", "[[:upper:]]",
        "[[:alpha:][:digit:]]?", "[]x]*", r"\*", r"q\?", "[[]x]", r"\[x\]", "x{1..2}", "x{10..1..9}", "x{1}",
        "{a,{b,x}}*", "a{.bam,}*", "{01..02}.t", "{", "{}", "{a", "a}", r"a\ b", "[a-c].bam", "?", "[é]",
        r"[\]a]*", "a[]-]b", "{a.bam,{x1}",
    ],
)  # fmt: skip
def test_patterns_match_as_in_bash(tmp_path: Path, pattern: str) -> None:
    for name in NAMES:
        (tmp_path / name).touch()
    program = f'shopt -s nullglob; for name in {pattern}; do [ -f "$name" ] && printf \'%s\\n\' "$name"; done'
    environment = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    expected = subprocess.run(["bash", "-c", program], cwd=tmp_path, env=environment, text=True, capture_output=True)
    found = [name for each in expand_braces(pattern) for name in sorted(glob.glob(from_posix(each), root_dir=tmp_path))]
    assert found == expected.stdout.splitlines()
