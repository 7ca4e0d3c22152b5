"""Files that a document names: what may read them runs again when they change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.wdl.running import run

SOURCE = """\
version 1.2
task own {
  input { File data = "data.txt" }
  command <<< echo own >> RAN; cat ~{data} >>>
  output { String s = read_string(stdout()) }
}
task given {
  input { File data }
  command <<< echo given >> RAN; cat ~{data} >>>
  output { String s = read_string(stdout())  File? made = "made.txt" }
}
task other {
  input { String word = "data.txt" }
  command <<< echo other >> RAN; echo ~{word} >>>
  output { String s = read_string(stdout()) }
}
workflow inner { call own call given { input: data = "more.txt" } call other
  output { Array[String] s = [own.s, given.s, read_string("read.txt"), other.s] } }
"""
OUTER = """\
version 1.2
import "parts/inner.wdl"
workflow w { call inner.inner output { Array[String] s = inner.s } }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/inner.wdl").write_text(SOURCE.replace("RAN", f"{tmp_path}/ran"))
    (tmp_path / "w.wdl").write_text(OUTER)
    for name in ("data", "more", "read"):
        (tmp_path / f"parts/{name}.txt").write_text(name)
    return tmp_path


def words(folder: Path, *options: str) -> list[str]:
    done = run(["w.wdl", "--container", "none", *options], folder)
    assert done.status == 0, done.stderr
    return list(json.loads(done.stdout)["w.s"])


def ran(folder: Path) -> list[str]:
    log = folder / "ran"
    names = sorted(log.read_text().split()) if log.exists() else []
    log.unlink(missing_ok=True)
    return names


def test_on_the_same_store(folder):
    assert words(folder, "--store", "run") == ["data", "more", "read", "data.txt"]
    assert ran(folder) == ["given", "other", "own"]
    (folder / "made.txt").touch()
    (folder / "parts/made.txt").touch()
    assert words(folder, "--store", "run") == ["data", "more", "read", "data.txt"]
    assert ran(folder) == []
    (folder / "parts/data.txt").write_text("new")
    assert words(folder, "--store", "run") == ["new", "more", "read", "data.txt"]
    assert ran(folder) == ["own"]
    for name in ("more", "read"):
        (folder / f"parts/{name}.txt").write_text(f"{name} news")
    assert words(folder, "--store", "run") == ["new", "more news", "read news", "data.txt"]
    assert ran(folder) == ["given"]


def test_in_the_cache_of_calls(folder):
    assert words(folder, "--call-cache", "cache") == ["data", "more", "read", "data.txt"]
    (folder / "parts/data.txt").write_text("new")
    (folder / "parts/more.txt").write_text("news")
    ran(folder)
    assert words(folder, "--call-cache", "cache") == ["new", "news", "read", "data.txt"]
    assert ran(folder) == ["given", "own"]
