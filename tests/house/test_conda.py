"""rattler-build makes a package from the conda recipe, installs it, and runs the recipe's tests.

No channel of conda's is needed: a local one has stand-ins for the packages that the recipe requires. The stand-in for
Python finds the real dependencies where this Python has them; the others are empty.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from tests.house.rooms import ROOT

rattler_build = pytest.importorskip("rattler_build")

DISTRIBUTIONS = {"dask-core": "dask", "msgpack-python": "msgpack"}
"""Packages whose names differ from those of their distributions."""

NOT_SOURCE = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")


def required(recipe: str) -> set[str]:
    """Return the names of all packages that a recipe requires to build and to run."""
    section = recipe.partition("\nrequirements:\n")[2].partition("\ntests:\n")[0]
    return set(re.findall(r"^    - ([\w-]+)(?: >=[\d.]+)?$", section, re.MULTILINE))


def python(folder: Path) -> None:
    """Write an installation of this Python, as a virtual environment is one, into a folder."""
    real = Path(sys.executable).resolve()
    short = ".".join(platform.python_version_tuple()[:2])
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(real)
    for name in ("python3", f"python{short}"):
        (folder / "bin" / name).symlink_to("python")
    (folder / "pyvenv.cfg").write_text(f"home = {real.parent}\n")
    site = folder / f"lib/python{short}/site-packages"
    site.mkdir(parents=True)
    # A path in a .pth file brings the packages there, but not the editable toilfn: its own .pth is not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")


def channel(folder: Path, versions: Mapping[str, str]) -> str:
    """Write a channel with stand-ins; return its URL."""
    for name, version in versions.items():
        files = folder / "files" / name
        if name == "python":
            python(files)
        else:
            (files / "share").mkdir(parents=True)
            (files / "share" / name).touch()
        subdir = "linux-64" if name == "python" else "noarch"
        noarch = None if name == "python" else "generic"
        rattler_build.assemble_package(name, version, subdir, "0", folder / subdir, files_dir=files, noarch=noarch)
    for subdir in ("linux-64", "noarch"):
        found = {path.name: entry(path, subdir) for path in (folder / subdir).glob("*.conda")}
        text = json.dumps({"info": {"subdir": subdir}, "packages": {}, "packages.conda": found, "repodata_version": 1})
        (folder / subdir / "repodata.json").write_text(text)
    return folder.as_uri()


def entry(path: Path, subdir: str) -> dict[str, object]:
    """Return the entry of a package in the index of a channel."""
    made = rattler_build.Package.from_file(path)
    return {
        "name": made.name, "version": made.version, "build": made.build_string, "build_number": 0, "depends": [],
        "subdir": subdir, "size": path.stat().st_size, **({"noarch": "generic"} if subdir == "noarch" else {}),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the channel is for Linux on x86-64"
)
def test_the_recipe_builds_a_package_that_passes_its_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATTLER_CACHE_DIR", str(tmp_path / "cache"))  # another run's stand-ins have the same names
    source = shutil.copytree(ROOT, tmp_path / "toilfn", ignore=NOT_SOURCE, symlinks=True)
    recipe = source / "conda/recipe.yaml"
    names = required(recipe.read_text())
    assert {"python", "pip", "dask-core"} <= names
    versions = {name: metadata.version(DISTRIBUTIONS.get(name, name)) for name in names - {"python"}}
    url = channel(tmp_path / "channel", {**versions, "python": platform.python_version()})
    (variant,) = rattler_build.Stage0Recipe.from_file(str(recipe)).render(rattler_build.VariantConfig())
    tools = rattler_build.ToolConfiguration(test_strategy="native")
    try:
        made = variant.run_build(output_dir=tmp_path / "built", channels=[url], tool_config=tools)
    except rattler_build.RattlerBuildError as error:
        pytest.fail("\n".join(map(str, getattr(error, "log", [error])[-30:])))
    (path,) = map(Path, made.packages)
    package = rattler_build.Package.from_file(path)
    assert (package.name, package.noarch, package.test_count) == ("toilfn", "python", 2)
    assert "site-packages/toilfn/stores/store.py" in package.files
    assert any(line.endswith("toilfn --version") for line in made.log)
