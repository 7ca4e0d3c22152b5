"""Errors of type checkers about users' programs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from toilfn.config import keywords
from toilfn.config.keywords import ResumeSettings, RunSettings
from toilfn.config.settings import Settings
from toilfn.graph import options

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "typed_user_code.py"


def wrong_lines() -> set[int]:
    return {n for n, line in enumerate(PROGRAM.read_text().splitlines(), 1) if line.endswith("# wrong")}


def test_mypy_refuses_wrong_options_and_values(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent",
        f"--cache-dir={tmp_path}/cache", str(PROGRAM),
    ]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, timeout=240).stdout
    found = {int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line}
    assert found == wrong_lines(), said


def test_pyright_refuses_wrong_options_and_values(tmp_path: Path) -> None:
    pytest.importorskip("basedpyright", reason="pip install basedpyright")
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps({"typeCheckingMode": "basic", "include": [str(PROGRAM)], "extraPaths": [str(ROOT)]}))
    command = [
        sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(project),
    ]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, timeout=240)
    found = json.loads(said.stdout)["generalDiagnostics"]
    errors = [entry for entry in found if entry["severity"] == "error"]
    assert {entry["range"]["start"]["line"] + 1 for entry in errors} == wrong_lines(), said.stdout


def test_the_keywords_of_compute_are_the_settings() -> None:
    names = {entry.name for entry in fields(Settings)}
    assert set(RunSettings.__annotations__) | set(ResumeSettings.__annotations__) == names
    assert set(ResumeSettings.__annotations__) == names - {"store"}


def test_an_editor_shows_the_help_text_of_each_keyword_of_compute() -> None:
    helps = {entry.name: entry.metadata["help"] for entry in fields(Settings)}
    shown = documented_keys(Path(keywords.__file__).read_text())
    assert shown.keys() == helps.keys()
    for name, text in shown.items():
        assert text.lower().startswith(helps[name].lower()), name


def documented_keys(source: str) -> dict[str, str]:
    """Return the docstring of each annotated name of a module's classes, on one line."""
    bodies = [node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {
        key.target.id: " ".join(text.value.value.split())
        for body in bodies
        for key, text in pairwise(body)
        if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def test_the_keywords_of_task_are_the_options_that_are_read() -> None:
    assert set(options.ServiceOptions.__annotations__) | set(options.TaskOptions.__annotations__) == set(
        options._READERS
    )
    assert set(options.TaskOptions.__annotations__) == set(options._READERS) - {options.SERVICE}
