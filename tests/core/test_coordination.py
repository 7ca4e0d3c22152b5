"""A work directory that machines share, with the locks of each in a place of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import toilfn as toil
from toilfn.files import room
from toilfn.files.scratch import Scratch, base_dir, state_dir, sweep


def on_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Be on another machine, as far as directories tell."""
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "shared"))
    monkeypatch.setenv("TOILFN_COORDINATION_DIR", str(tmp_path / name))


KILLED = """
import os, signal
from toilfn.files.scratch import Scratch

Scratch().new_dir()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_another_machine_does_not_sweep_what_it_cannot_see_the_locks_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_node(monkeypatch, tmp_path, "one")
    scratch = Scratch()
    made = scratch.new_dir()
    mark = tmp_path / "mark"
    scratch.defer(mark.touch, (), {})
    subprocess.run([sys.executable, "-c", KILLED], check=False)
    ours = set(base_dir().iterdir())
    assert len(ours) == 2
    on_node(monkeypatch, tmp_path, "two")
    sweep()
    assert all(path.exists() for path in ours)
    on_node(monkeypatch, tmp_path, "one")
    sweep()
    assert list(base_dir().iterdir()) == [made.parent]
    scratch.close()
    assert mark.exists()
    assert list(base_dir().iterdir()) == list(state_dir().glob("*.lock")) == []


@toil.task
def places(folder: str) -> tuple[str, list[str]]:
    toil.current().defer(Path(folder, "mark").touch)
    temporary = toil.current().temp_dir
    locks = [path.name for path in state_dir().glob("*.lock")]
    if toil.current().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return str(temporary), locks


def test_the_setting_reaches_the_workers(tmp_path: Path) -> None:
    settings = {"work_dir": str(tmp_path / "shared"), "coordination_dir": str(tmp_path / "local"), "clean": "always"}
    temporary, locks = toil.compute(places(str(tmp_path)), progress=False, **settings)
    assert Path(temporary).is_relative_to(tmp_path / "shared")
    assert f"{Path(temporary).parent.name}.lock" in locks
    assert (tmp_path / "mark").exists()
    assert not list((tmp_path / "local").rglob("*.lock"))


def test_files_are_cached_where_the_work_is_and_locked_where_the_locks_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_node(monkeypatch, tmp_path, "one")
    with room.filling(room.cache_dir() / "store" / "entry"):
        assert room.reserve(100)
    assert room.cache_dir().is_relative_to(tmp_path / "shared")
    assert not list(room.cache_dir().iterdir())
    assert list(state_dir().glob("files/locks/*"))
    assert (state_dir() / "files" / "used").read_text() == "100"
