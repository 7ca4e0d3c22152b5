"""What is built from the repository installs elsewhere and runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.house.rooms import ROOT, modules

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

NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "benchmarks", "docs", "tests")


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
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


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is made from the source distribution that is made from the repository."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_holds_every_module_once_and_nothing_else(source, wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    expected = {
        module.name.replace(".", "/") + ("/__init__.py" if module.is_package else ".py")
        for module in modules(source).values()
    }
    assert {name for name in names if name.endswith(".py")} == expected
    assert len(names) == len(set(names))
    assert "toilfn/py.typed" in names


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
