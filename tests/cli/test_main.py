"""The `toilfn` command itself: help, mistakes, exit status."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from toilfn import cli, start
from toilfn.cli import main


def test_help_has_a_line_for_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    for name, (_, summary) in cli.COMMANDS.items():
        assert any(line.split() == [name, *summary.split()] for line in text.splitlines())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main([name, "--help"])
    assert raised.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: toilfn {name}")


def test_a_commands_help_begins_with_its_line_of_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["events", "--help"])
    assert "\nPrint the events of a workflow as JSON lines, for programs.\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_a_module_with_its_two_functions_or_a_command_line_of_its_own(name: str) -> None:
    names = set(import_module(cli.COMMANDS[name][0]).__all__)
    assert {"command", "configure"} <= names or {"main", "make_parser"} <= names


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_a_misspelled_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statsu"]) == 2
    assert "unknown command 'statsu'; did you mean 'stats'?" in capsys.readouterr().err


def test_wrong_flags_are_usage_errors() -> None:
    with pytest.raises(SystemExit) as raised:
        main(["status"])
    assert raised.value.code == 2


@pytest.mark.parametrize("name", ["run", "status", "wdl"])
def test_an_option_is_never_taken_for_a_longer_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main([name, "--stor", "x", "x"])
    assert raised.value.code == 2
    assert "did you mean --store" in capsys.readouterr().err


def test_a_misspelled_option_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--retry", "3", "script.py"])
    assert "--retries" in capsys.readouterr().err


def test_version() -> None:
    done = subprocess.run([sys.executable, "-m", "toilfn", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("toilfn ")


def test_help_is_quick_because_it_imports_little() -> None:
    code = "import sys\nfrom toilfn.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"dask", "fsspec", "rich", "msgpack", "cloudpickle"} & set(done.stdout.split())


@pytest.mark.parametrize("name", start.__all__)
def test_an_interrupt_while_modules_are_loaded_ends_a_command_quietly(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(module: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("toilfn.start.import_module", interrupted)
    assert getattr(start, name)() == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_every_command_of_the_package_starts_there() -> None:
    scripts = (Path(__file__).parents[2] / "pyproject.toml").read_text().partition("[project.scripts]")[2]
    lines = scripts.partition("\n\n")[0].split("\n")[1:]
    assert sorted(line.partition('"toilfn.start:')[2].rstrip('"') for line in lines) == sorted(start.__all__)
