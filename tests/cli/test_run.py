"""`toilfn run`: a script runs as Python would run it, with the flags as settings of its `compute` calls."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def toilfn_run(script: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script.write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOILFN_")}
    return subprocess.run(
        [sys.executable, "-m", "toilfn", "run", str(script), *arguments],
        capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip


def test_a_script_sees_its_own_arguments_and_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("word = 'hello'\n")
    text = "import sys, neighbour\nif __name__ == '__main__': print(neighbour.word, sys.argv, __file__)\n"
    done = toilfn_run(tmp_path / "script.py", text, "--retries", "2", "--", "--store", "mine", "--", "x")
    script = str(tmp_path / "script.py")
    assert done.stdout == f"hello {[script, '--store', 'mine', '--', 'x']} {script}\n", done.stderr


def test_a_module_runs_as_with_python_m(tmp_path: Path) -> None:
    (tmp_path / "flows" / "inner").mkdir(parents=True)
    (tmp_path / "flows" / "steps.py").write_text(
        "import toilfn as toil\n@toil.task\ndef double(x):\n    return 2 * x\n"
    )
    (tmp_path / "flows" / "inner" / "__main__.py").write_text(
        "import sys, toilfn as toil\nfrom ..steps import double\n"
        "@toil.task\ndef triple(x):\n    return 3 * x\n"
        "print(toil.compute(triple(double(7))), sys.argv[1:])\n"
    )

    def run(module: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "toilfn", "run", "-m", module, "--workers", "1", "--", "mine"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    done = run("flows.inner")
    assert done.stdout == "42 ['mine']\n", done.stderr
    done = run("flows.nothing")
    assert (done.returncode, done.stderr) == (2, "toilfn: module flows.nothing not found, or it cannot be run\n")


def test_flags_are_settings_of_the_script(tmp_path: Path) -> None:
    text = (
        "from toilfn.config.settings import Settings\ns = Settings.resolve(retries=5)\n"
        "print(s.retries, s.max_memory, s.store)"
    )
    done = toilfn_run(tmp_path / "script.py", text, "--retries", "2", "--max-memory", "1Mi", "--store", "s 1")
    assert done.stdout == "5 1048576 s 1\n"


def test_the_scripts_exit_status_is_kept(tmp_path: Path) -> None:
    assert toilfn_run(tmp_path / "script.py", "raise SystemExit(7)").returncode == 7


def test_a_traceback_begins_in_the_script(tmp_path: Path) -> None:
    done = toilfn_run(tmp_path / "script.py", "def f():\n    1 / 0\nf()\n")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{tmp_path / "script.py"}", line 3, in <module>'
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_a_script_that_python_cannot_read(tmp_path: Path) -> None:
    done = toilfn_run(tmp_path / "script.py", "def f(:\n")
    assert done.returncode == 1
    assert "SyntaxError" in done.stderr
    assert "runpy" not in done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [("InputError('no good')", 2), ("StoreError('no good')", 1), ("FailedTasksError('no good')", 1)],
)
def test_errors_of_toilfn_are_told_without_a_traceback(tmp_path: Path, error: str, status: int) -> None:
    done = toilfn_run(tmp_path / "script.py", f"from toilfn.errors import *\n\nraise {error}\n")
    assert done.returncode == status
    where = "" if "Failed" in error else f" ({tmp_path / 'script.py'}, line 3)"
    assert done.stderr == f"toilfn: no good{where}\n"


def test_mistakes_in_the_command(tmp_path: Path) -> None:
    done = toilfn_run(tmp_path / "script.py", "", "--retires", "2")
    assert (done.returncode, "--retires" in done.stderr) == (2, True)
    done = toilfn_run(tmp_path / "script.py", "", "--max-memory", "much")
    assert (done.returncode, "'much' is not a size" in done.stderr) == (2, True)
    (tmp_path / "folder").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "toilfn", "run", str(tmp_path / "folder")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, f"toilfn: script not found: {tmp_path / 'folder'}\n")
