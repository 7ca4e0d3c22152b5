"""The user's own modules reach workers on machines that have none of them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import toilfn as toil
from toilfn.graph import code as deploy

FILES = {
    "script.py": """
import sys
import cloudpickle
import beside
import tool.inner.deep
from space import member
from toilfn import task
from toilfn.graph import code as deploy

@task(version="1")
def f(x):
    import later
    return later.add(beside.one(), tool.inner.deep.two(), member.three(), x)

if __name__ == "__main__":
    import time
    start = time.perf_counter()
    packed = deploy.archive([f])
    print(time.perf_counter() - start)
    open("code.zip", "wb").write(packed)
    open("f.pickle", "wb").write(cloudpickle.dumps(f.__wrapped__))
""",
    "beside.py": "def one(): return 1\n",
    "later.py": "import latest\ndef add(*x): return latest.total(x)\n",
    "latest.py": "def total(x): return sum(x)\n",
    "unused.py": "",
    "this.py": "",
    "notes.txt": "not code",
    "tool/__init__.py": "from pathlib import Path\nDATA = Path(__file__).with_name('data.txt')\n",
    "tool/data.txt": "2",
    "tool/huge.bin": "x" * (2**20 + 1),
    "tool/.hidden": "",
    "tool/.git/config": "",
    "tool/venv/pyvenv.cfg": "",
    "tool/venv/lib.py": "",
    "tool/unused.py": "",
    "tool/inner/__init__.py": "",
    "tool/inner/deep.py": "import tool\ndef two(): return int(tool.DATA.read_text())\n",
    "space/member.py": "def three(): return 3\n",
}
EXPECTED = [
    "beside.py", "later.py", "latest.py", "space/member.py", "tool/__init__.py", "tool/data.txt",
    "tool/inner/__init__.py", "tool/inner/deep.py", "tool/unused.py", "unused.py",
]  # fmt: skip

LOAD = """
import pickle, sys
from pathlib import Path
from toilfn.graph import code as deploy
folder = deploy.install(Path("code.zip").read_bytes(), sys.argv[1])
assert sys.path[0] == str(folder), sys.path
print(pickle.loads(Path("f.pickle").read_bytes())(4))
"""


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, check=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        for file, source in FILES.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(source)
        return tmp_path / name

    return make


def test_a_script_with_siblings_and_a_package_runs_elsewhere(project: Callable[[str], Path], tmp_path: Path) -> None:
    here, there = project("here"), project("there")
    seconds = float(run(here, "script.py"))
    run(there, "script.py")
    packed = (here / "code.zip").read_bytes()
    assert packed == (there / "code.zip").read_bytes()
    assert zipfile.ZipFile(io.BytesIO(packed)).namelist() == EXPECTED
    assert seconds < 1

    node = tmp_path / "node"
    node.mkdir()
    for name in ("code.zip", "f.pickle"):
        os.rename(here / name, node / name)
    assert run(node, "-c", LOAD, str(node / "cache")) == "10\n"


def test_modules_in_a_zip_archive_reach_workers_and_their_edits_count(tmp_path: Path) -> None:
    script = """
import sys
import beside, packed
import toilfn as toil

@toil.task
def total(x):
    from packed import late
    return x + beside.VALUE + packed.VALUE + late.VALUE

if __name__ == "__main__":
    print(toil.compute(total(1), store=sys.argv[1], progress=False, workers=1))
"""
    for value in (10, 20):
        with zipfile.ZipFile(tmp_path / "app.pyz", "w") as app:
            app.writestr("__main__.py", script)
            app.writestr("beside.py", f"VALUE = {value}")
            app.writestr("packed/__init__.py", "VALUE = 100")
            app.writestr("packed/late.py", "VALUE = 1000")
        assert run(tmp_path, "app.pyz", "store") == f"{1101 + value}\n"


def test_a_script_without_own_modules_needs_no_archive(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(
        "import json, numpy\nfrom toilfn.graph import code as deploy\nprint(deploy.archive([len]))\n"
    )
    assert run(tmp_path, "alone.py") == "None\n"


def test_a_package_that_is_the_home_folder_is_not_taken_whole(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "__init__.py").touch()
    (home / "private.py").touch()
    (home / "wanted.py").touch()
    code = "import home.wanted, io, zipfile\nfrom toilfn.graph import code as deploy\n"
    code += "print(zipfile.ZipFile(io.BytesIO(deploy.archive([]))).namelist())"
    environment = {**os.environ, "HOME": str(home)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=True)
    assert done.stdout == "['home/__init__.py', 'home/wanted.py']\n"


def test_modules_beside_a_script_are_left_out_where_they_are_too_large(tmp_path: Path) -> None:
    (tmp_path / "generated.py").write_text("#" * (4 * 2**20 + 1))
    (tmp_path / "alone.py").write_text("from toilfn.graph import code\nprint(code.archive([]))\n")
    assert run(tmp_path, "alone.py") == "None\n"
    (tmp_path / "generated.py").write_text("#")
    assert run(tmp_path, "alone.py") != "None\n"


def test_modules_packages_files_and_folders_are_sent_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where only the leader's environment has them: in a site-packages folder, which nothing is taken from."""
    installed, here = tmp_path / "site-packages", tmp_path / "here"
    for name in ("only_here/sub/deep.py", "only_here/__init__.py", "only_here/huge.bin", "single.py", "space/part.py"):
        (installed / name).parent.mkdir(parents=True, exist_ok=True)
        (installed / name).write_text("x = 1\n")
    (installed / "only_here/huge.bin").write_bytes(bytes(2 * 2**20))
    for name in ("table.csv", "data/deep/one.txt"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("1")
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.chdir(here)
    packed = deploy.archive([], ["only_here", "single", "space", "table.csv", "data"])
    assert packed is not None
    names = set(zipfile.ZipFile(io.BytesIO(packed)).namelist())
    assert {name.name for name in tmp_path.iterdir()} == {"site-packages", "here"}
    wanted = {
        "only_here/__init__.py", "only_here/huge.bin", "only_here/sub/deep.py", "single.py", "space/part.py",
        "table.csv", "data/deep/one.txt",
    }  # fmt: skip
    assert wanted <= names
    with pytest.raises(toil.InputError, match="deploy='no_such': there is neither a file or folder"):
        deploy.archive([], ["no_such"])


@pytest.fixture
def packed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"made_{os.getpid()}.py", f"# {time.time()}\n")
    return buffer.getvalue()


def test_an_archive_is_unpacked_once_by_many_at_a_time(
    packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: deploy.install(packed, tmp_path / "cache"), range(16)))
    (folder,) = folders
    assert list((tmp_path / "cache").iterdir()) == [folder]
    assert folder.stat().st_mode & 0o777 == 0o700
    before = next(folder.iterdir()).stat()
    assert deploy.install(packed, tmp_path / "cache") == folder
    assert next(folder.iterdir()).stat() == before
    assert sys.path.count(str(folder)) == 1


def test_a_bad_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(zipfile.BadZipFile):
        deploy.install(b"not a zip", tmp_path)
    assert list(tmp_path.iterdir()) == []
