"""`toilfn config`, and files of settings."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from toilfn.cli import main
from toilfn.config.settings import SETTINGS_VARIABLE, Settings
from toilfn.errors import InputError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)


def test_every_setting_is_there_with_its_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    text = capsys.readouterr().out
    names = "|".join(entry.name.replace("_", "-") for entry in fields(Settings))
    active = re.sub(rf"^  # (({names}): .*)$", r"  \1", text, flags=re.MULTILINE)
    (tmp_path / "all.yaml").write_text(active)
    (tmp_path / "none.yaml").write_text(text)
    for file in ("all.yaml", "none.yaml"):
        config = str(tmp_path / file)
        assert Settings.resolve(config=config) == Settings(config=config)
    for entry in fields(Settings):
        assert entry.name in ("config", "cluster_settings") or f"\n  {entry.name.replace('_', '-')}: " in active


def test_every_variable_is_in_the_manual() -> None:
    root = Path(__file__).parents[2]
    code = [file for room in ("toilfn", "clusters", "stores", "cwl", "wdl") for file in (root / room).rglob("*.py")]
    read = {name for file in code for name in re.findall(r'"(TOILFN_[A-Z_]+)"', file.read_text())}
    told = {name for page in (root / "docs").glob("*.md") for name in re.findall(r"TOILFN_[A-Z_]+", page.read_text())}
    words = ("BATCHES", "CHECK_SCHEDULER", "CONTRACT", "FAULT", "INDEX", "JOB", "OWN_BUFFERS", "PROCESS", "STORE_META")
    assert read - told == {f"TOILFN_{word}" for word in words}


def test_flags_and_keywords_win_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("toilfn:\n  retries: 5\n  max-jobs: 6\n  set-env: {A: 1}\n  slurm: {partition: long}\n")
    monkeypatch.setenv(SETTINGS_VARIABLE, f'{{"config": "{file}", "max_jobs": 7}}')
    found = Settings.resolve(workers=8)
    assert (found.retries, found.max_jobs, found.workers, found.set_env) == (5, 7, 8, {"A": "1"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "settings file not found"),
        ("toilfn: {retires: 1}", "my.yaml is unknown; did you mean 'retries'?"),
        ("toilfn: [", "cannot be read"),
        ("retries: 1", "has no top-level section 'toilfn:'"),
        ("", "has no top-level section 'toilfn:'"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "my.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=re.escape(words)):
        Settings.resolve(config=file)
