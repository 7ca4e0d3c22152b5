"""The packaging metadata and the pages for people are correct."""

from __future__ import annotations

import re
import sys
from importlib import import_module, metadata

import pytest
import yaml

import toilfn
from tests.house.rooms import ROOMS, ROOT, modules
from tests.servers.machine import Server
from toilfn import cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAKE_TARGETS = set(" ".join(re.findall(r"^([a-z -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)).split())


def read_pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_version_is_that_of_the_changelog():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == toilfn.__version__ == metadata.version("toilfn")


@pytest.mark.parametrize("file", ["CITATION.cff", "conda/recipe.yaml"])
def test_version_is_the_same_everywhere(file):
    assert re.findall(r'^(?:version: |  version: ")([\d.]+)', (ROOT / file).read_text(), re.MULTILINE) == [
        toilfn.__version__
    ]


def test_the_conda_recipe_needs_what_the_package_needs():
    other_names = {"dask": "dask-core", "msgpack": "msgpack-python"}
    needed = [requirement.split(">=") for requirement in read_pyproject()["project"]["dependencies"]]
    recipe = (ROOT / "conda/recipe.yaml").read_text()
    listed = re.findall(r"^    - ([\w-]+) >=([\d.]+)$", recipe.split("  run:")[1].split("tests:")[0], re.MULTILINE)
    assert dict(listed) == {"python": "3.10"} | {other_names.get(name, name): least for name, least in needed}


def test_rattler_build_takes_the_conda_recipe():
    build = pytest.importorskip("rattler_build")
    (made,) = build.Stage0Recipe.from_file(str(ROOT / "conda/recipe.yaml")).render(build.VariantConfig())
    assert (made.recipe.package.name, str(made.recipe.package.version)) == ("toilfn", toilfn.__version__)
    scripts = read_pyproject()["project"]["scripts"]
    entry_points = made.recipe.to_dict()["build"]["python"]["entry_points"]
    assert {tuple(re.split(" *= *", str(entry))) for entry in entry_points} == set(scripts.items())


def test_workflows_and_forms_are_yaml():
    files = [*(ROOT / ".github").rglob("*.yml")]
    assert len(files) >= 6
    for file in files:
        assert yaml.safe_load(file.read_text())


def test_every_package_is_listed():
    listed = set(read_pyproject()["tool"]["setuptools"]["packages"])
    assert listed == {module.name for module in modules().values() if module.is_package}


def test_every_room_is_mapped_and_linked():
    mapped = read_pyproject()["tool"]["setuptools"]["package-dir"]
    assert mapped == ROOMS
    for name, folder in ROOMS.items():
        assert (ROOT / name.replace(".", "/")).resolve() == ROOT / folder


def test_make_installs_what_the_servers_of_tests_come_in():
    for path in (ROOT / "tests" / "servers").glob("*.py"):
        import_module(f"tests.servers.{path.stem}")
    needed = {package for server in Server.__subclasses__() for package in server.packages}
    listed = re.search(r"^DEBIAN_SERVERS = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    assert set(listed[1].split()) == needed


def test_nothing_claims_an_address_of_the_project():
    """It has none: such a link would lead to nobody, or to somebody else."""
    assert "urls" not in read_pyproject()["project"]
    paths = [path for module in modules().values() for path in [module.path]] + [*PAGES, ROOT / "mkdocs.yml"]
    claim = re.compile(r"https://[^\s)\"'`]*\btoilfn\b(?!\.example)")
    assert [f"{path}: {found[0]}" for path in paths if (found := claim.search(path.read_text()))] == []


def test_extra_all_has_the_others():
    extras = read_pyproject()["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert everything == f"toilfn[{','.join(name for name in extras if name not in ('all', 'bench', 'dev', 'docs'))}]"


def test_readme_lists_each_extra():
    table = (ROOT / "README.md").read_text().partition("| extra |")[2].partition("\n\n")[0]
    listed = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split(" | ")[0])}
    assert listed == read_pyproject()["project"]["optional-dependencies"].keys() - {"bench", "dev", "docs"}


@pytest.mark.parametrize("entry", metadata.distribution("toilfn").entry_points, ids=lambda entry: entry.name)
def test_entry_points_load(entry):
    assert callable(entry.load())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_real_make_targets(page):
    assert set(re.findall(r"\bmake ([a-z-]+)`", page.read_text())) <= MAKE_TARGETS


def test_readme_shows_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make quick" in text


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_help_points_at_nothing_that_an_installed_package_lacks(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*([command] if command else []), "--help"])
    assert re.findall(r"\b(?:docs|docker|examples|tests)/\S+", capsys.readouterr().out) == []
