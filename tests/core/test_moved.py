"""A project that was moved or copied resumes and delivers at its new place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from toilfn.moved import moved_from, new_place, relocated

SCRIPT = """
from pathlib import Path

import toilfn as toil


@toil.task(retries=0)
def upper(source: toil.File, extra: Path) -> toil.File:
    if (Path(extra).parent / "broken").exists():
        raise ValueError("not now")
    with toil.open_write("upper.txt") as stream:
        stream.write((source.read_text() + extra.read_text()).upper().encode())
    return stream.file


if __name__ == "__main__":
    result = upper(toil.import_file("in.txt"), Path("extra.txt"))
    toil.compute(toil.export(result, "out/result.txt"), store="runs/one", progress=False, retries=0)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose run has failed."""
    folder = tmp_path / "old"
    (folder / "out").mkdir(parents=True)
    (folder / "flow.py").write_text(SCRIPT)
    (folder / "in.txt").write_text("abc\n")
    (folder / "extra.txt").write_text("def\n")
    (folder / "broken").touch()
    done = subprocess.run([sys.executable, "flow.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert "not now" in done.stderr
    (folder / "broken").unlink()
    return folder


def resume(store: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "toilfn", "resume", store, "--no-progress"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_moved_project_delivers_at_its_new_place(project: Path, tmp_path: Path) -> None:
    new = tmp_path / "elsewhere" / "new"
    shutil.move(project, new)
    resume("runs/one", new)
    assert (new / "out" / "result.txt").read_text() == "ABC\nDEF\n"
    assert not project.exists()


def test_a_copied_project_reads_and_writes_at_its_own_place(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    (copy / "extra.txt").write_text("xyz\n")
    resume(str(copy / "runs" / "one"), tmp_path)
    assert (copy / "out" / "result.txt").read_text() == "ABC\nXYZ\n"
    assert not (project / "out" / "result.txt").exists()


def test_a_project_that_was_moved_twice_is_still_found(project: Path, tmp_path: Path) -> None:
    (project / "broken").touch()
    shutil.move(project, tmp_path / "second")
    command = [sys.executable, "-m", "toilfn", "resume", "runs/one", "--no-progress"]
    subprocess.run(command, cwd=tmp_path / "second", capture_output=True, check=False)
    (tmp_path / "second" / "broken").unlink()
    shutil.move(tmp_path / "second", tmp_path / "third")
    resume("runs/one", tmp_path / "third")
    assert (tmp_path / "third" / "out" / "result.txt").read_text() == "ABC\nDEF\n"


WDL = """
version 1.0
task t { input { File f } command { [ ! -e ~{f}.broken ] && tr a-z A-Z < ~{f} > up.txt } output { File o = "up.txt" } }
workflow w {
  input { File f String flag }
  call gate { input: flag = flag }
  call t { input: f = f }
  output { File o = t.o }
}
task gate { input { String flag } command { [ ! -e ~{flag} ] } output { Boolean done = true } }
"""


def test_outputs_of_wdl_go_to_the_new_place(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "w.wdl").write_text(WDL)
    (folder / "in.txt").write_text("abc\n")
    flag = tmp_path / "flag"
    flag.touch()
    inputs = json.dumps({"w.f": "in.txt", "w.flag": str(flag)})
    command = [
        sys.executable,
        "-m",
        "toilfn",
        "wdl",
        "w.wdl",
        inputs,
        "--container",
        "none",
        "-o",
        "out",
        "--store",
        "st",
    ]
    done = subprocess.run([*command, "--no-progress"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    flag.unlink()
    new = tmp_path / "new"
    shutil.move(folder, new)
    resume("st", new)
    (found,) = (path for path in (new / "out").rglob("up.txt"))
    assert found.read_text() == "ABC\n"
    assert not folder.exists()


def test_paths_outside_of_the_project_stay() -> None:
    with new_place(("/a/b", "/c")):
        assert [relocated(p) for p in ("/a/b", "/a/b/x", "/a/bc", "/x/a/b")] == ["/c", "/c/x", "/a/bc", "/x/a/b"]
    assert relocated("/a/b") == "/a/b"


@pytest.mark.parametrize(
    ("home", "store", "found"),
    [
        (("/p/flow", "/p/flow/s"), "/p/flow/s", None),
        (("/p/flow", "/p/flow/s"), "/q/flow/s", ("/p", "/q")),
        (("/p/flow", "/p/flow/s"), "/p/other/s", ("/p/flow", "/p/other")),
        (("/p/flow", "/p/flow/one"), "/p/flow/two", None),
        (("/home/me", "/scratch/s"), "/scratch2/s", None),
        (("/p", "/s"), "/q/s", None),
    ],
)
def test_only_a_working_directory_that_moved_along_counts(
    home: tuple[str, str], store: str, found: tuple[str, str] | None
) -> None:
    assert moved_from(home, store) == found
    assert os.environ.get("TOILFN_MOVED") is None
