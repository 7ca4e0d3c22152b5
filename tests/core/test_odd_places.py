"""Scripts that are started where few are: without a current directory, with relative places in the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from toilfn.errors import StoreError
from toilfn.stores import open_store

FLOW = """
import os, subprocess, sys
from pathlib import Path
import toilfn as toil


@toil.task(retries=0)
def make():
    with open("out.txt", "w") as file:
        if name := os.environ.get("SHOW"):
            os.environ.pop(name, None)
            subprocess.run([sys.executable, "-c", f"import os; print(os.environ[{name!r}], end='')"], stdout=file)
        else:
            file.write("content")
    return Path("out.txt")


@toil.task(retries=0)
def read(path):
    return path.read_text()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        os.rmdir(os.getcwd())
    try:
        print(toil.compute(read(make()), store=sys.argv[1], cluster=sys.argv[2], progress=False))
    except toil.ToilfnError as error:
        print(error)
"""


def start(place: Path, *words: str, **variables: str) -> str:
    (place / "flow.py").write_text(FLOW)
    command, environment = [sys.executable, "../flow.py", *words], {**os.environ, **variables}
    (place / "cwd").mkdir()
    done = subprocess.run(command, cwd=place / "cwd", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("cluster", ["local", "inline"])
@pytest.mark.parametrize("variable", ["TOILFN_WORK_DIR", "TOILFN_COORDINATION_DIR", "TMPDIR"])
@pytest.mark.parametrize("place", [".", "scratch"])
def test_a_relative_place_in_the_environment_is_below_the_directory_of_the_start(
    tmp_path: Path, variable: str, place: str, cluster: str
) -> None:
    assert start(tmp_path, "../store", cluster, **{variable: place}) == "content"


@pytest.mark.parametrize("cluster", ["local", "inline"])
def test_programs_that_tasks_start_find_modules_in_a_relative_folder_of_the_start(tmp_path: Path, cluster: str) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "sitecustomize.py").write_text("import os; os.environ['FOUND'] = 'in lib'\n")
    assert start(tmp_path, "../store", cluster, PYTHONPATH="../lib", SHOW="FOUND") == "in lib"


@pytest.mark.parametrize("cluster", ["local", "inline"])
def test_a_script_whose_current_directory_was_removed_runs(tmp_path: Path, cluster: str) -> None:
    assert start(tmp_path, str(tmp_path / "store"), cluster, "remove") == "content"


def test_a_relative_store_without_a_current_directory_is_refused(tmp_path: Path) -> None:
    assert "store: the path is relative, and the current directory no longer exists" in start(
        tmp_path, "store", "local", "remove"
    )


def test_places_where_no_store_can_be_are_named(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=f"{tmp_path}/dangling .*a link to {tmp_path}/nowhere, which does not exist"):
        open_store(tmp_path / "dangling")
    with pytest.raises(StoreError, match="File name too long"):
        open_store(tmp_path / ("x" * 300))
