"""Packages built from the repository can be installed elsewhere and run."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.house.rooms import ROOT, modules
from tests.house.test_metadata import read_pyproject
from toilfn.cli import COMMANDS

HELLO = """
import toilfn as toil

@toil.task
def greet(name):
    return f"hello {name}"

@toil.task
def loud(text):
    return text.upper()

if __name__ == "__main__":
    print(toil.__file__)
    print(toil.compute(loud(greet("house"))))
"""

EXTRAS = [name for name, needs in read_pyproject()["project"]["optional-dependencies"].items() if needs]
PIPS = ["23.3.2", "26.0"]
COLLECTING = re.compile(r"^\s*Collecting ([A-Za-z0-9._-]+(?:\[[^]]*\])?)", re.MULTILINE)
SELECTING = re.compile(r"Selecting: ([A-Za-z0-9._-]+)==(\S+) \[")

NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "benchmarks", "tests")


def run(*command: object, cwd: Path | None = None, **variables: str) -> str:
    environment = os.environ | variables
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Environment(NamedTuple):
    """A fresh virtual environment that has toilfn's dependencies, but not toilfn."""

    path: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    def install(self, *what: object) -> None:
        """Install without looking anywhere for anything."""
        offline = ("--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", "--no-cache-dir")
        run(sys.executable, "-m", "pip", "--python", self.python, "install", "-q", *offline, *what)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    env = Environment(tmp_path / "env")
    run(sys.executable, "-m", "venv", "--without-pip", env.path)
    site = run(env.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A path in a .pth file brings the packages there, but not the editable toilfn: its own .pth is not read.
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return env


def copy_source(to: Path) -> Path:
    shutil.copytree(ROOT, to, ignore=NOT_SOURCE, symlinks=True)
    return to


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_source(tmp_path_factory.mktemp("source") / "toilfn")


def build(source: Path, folder: Path) -> Path:
    """Build a source distribution, and from that a wheel; return the folder."""
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source)
    run(*command, SOURCE_DATE_EPOCH="1700000000")
    return folder


@pytest.fixture(scope="module")
def dist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_sdist_has_a_manual_page_for_each_command(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        pages = {Path(name).name for name in archive.getnames() if "/man/" in name}
    assert pages == {"toilfn.1", *(f"toilfn-{name}.1" for name in COMMANDS)}


@pytest.mark.slow
def test_a_second_build_in_another_folder_has_the_same_bytes(dist, tmp_path):
    again = build(copy_source(tmp_path / "elsewhere" / "copy"), tmp_path / "dist")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in dist.iterdir()
    }


@pytest.mark.slow
def test_an_sdist_of_an_sdist_has_the_same_files(dist, tmp_path):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
        names = archive.getnames()
    (folder,) = tmp_path.iterdir()
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", tmp_path / "dist", folder)
    with tarfile.open(tmp_path / "dist" / path.name) as archive:
        assert sorted(archive.getnames()) == sorted(names)


@pytest.mark.slow
def test_wheel_holds_every_module_once_and_nothing_else(source, wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    expected = {
        module.name.replace(".", "/") + ("/__init__.py" if module.is_package else ".py")
        for module in modules(source).values()
    }
    assert {name for name in names if name.endswith(".py")} == expected
    assert len(names) == len(set(names))
    assert {"toilfn/py.typed", "toilfn/inspect/status.schema.json"} <= set(names)


@pytest.mark.slow
def test_wheel_runs_a_workflow_in_a_fresh_environment(wheel, environment, tmp_path):
    environment.install(wheel)
    script = tmp_path / "hello.py"
    script.write_text(HELLO)
    home, answer = run(environment.python, script, cwd=tmp_path).splitlines()[-2:]
    assert home.startswith(str(environment.path))
    assert answer == "HELLO HOUSE"


@pytest.mark.slow
def test_editable_install_sees_new_files_at_once(environment, tmp_path):
    source = copy_source(tmp_path / "editable")
    environment.install("-e", source)
    (source / "stores" / "brand_new.py").write_text("answer = 42\n")
    code = "import toilfn.cli, toilfn.stores.brand_new as new; print(new.__file__, new.answer)"
    path, answer = run(environment.python, "-c", code, cwd=tmp_path).split()
    assert Path(path).resolve() == source / "stores" / "brand_new.py"
    assert answer == "42"


@pytest.mark.slow
def test_the_packages_page_has_no_link_that_leads_nowhere(wheel):
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        page = files.read(name).decode().partition("\n\n")[2]
    assert "pip install toilfn" in page
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []


def test_benchmarks_find_the_programs_of_the_environment(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    (programs / "peers-program").write_text("#!/bin/sh\n")
    (programs / "peers-program").chmod(0o755)
    script = tmp_path / "probe.py"
    script.write_text("import shutil; print(shutil.which('peers-program'))")
    made = run("make", "-C", ROOT, "-o", ".venv/bench", "bench", f"BENCHMARKS={script}", f"BIN={programs}")
    assert str(programs / "peers-program") in made


# Installers find the versions of every extra at once: none of them looks at a package twice.


def installer(folder: Path, need: str) -> Path:
    """Put an installer into a folder of its own; `PYTHONPATH` leads there."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, need]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no package index is in reach: {done.stderr[-300:]}")
    return folder


@pytest.fixture(scope="module")
def pips(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return functools.cache(lambda version: installer(tmp_path_factory.mktemp(f"pip-{version}-"), f"pip=={version}"))


def looked_at(pip: Path, needed: str, report: Path) -> tuple[Counter[str], int]:
    """Let pip look for an extra; give how often it looked at each package, and how many it would install."""
    options = ["--dry-run", "--ignore-installed", "--no-color", "--report", str(report)]
    command = [sys.executable, "-m", "pip", "install", *options, needed]
    environment = os.environ | {"PYTHONPATH": str(pip)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(report.read_text())
    assert found["pip_version"] in pip.name
    return Counter(COLLECTING.findall(done.stdout)), len(found["install"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("version", "extra"), [(PIPS[-1], extra) for extra in EXTRAS] + [(version, "all") for version in PIPS[:-1]]
)
def test_pip_finds_an_extra_without_walking_back(pips, wheel, tmp_path, version, extra):
    counts, installed = looked_at(pips(version), f"{wheel}[{extra}]", tmp_path / "report.json")
    assert {name: count for name, count in counts.items() if count > 1} == {}
    assert len(counts) <= installed + 5  # a package is collected once more for its extras


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_uv_finds_all_extras_without_walking_back(wheel, tmp_path):
    uv = installer(tmp_path / "uv", "uv") / "bin" / "uv"
    command = [uv, "pip", "install", "--dry-run", "-v", "--python", sys.executable, "--reinstall", f"{wheel}[all]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = Counter(name for name, _ in set(SELECTING.findall(done.stderr)))
    assert len(counts) > 50
    assert {name: count for name, count in counts.items() if count > 1} == {}
