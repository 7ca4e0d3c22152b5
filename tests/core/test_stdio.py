"""What toilfn reports is for people: nobody who can read it is no reason to fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toilfn.stdio import LenientStream

FLOW = """
import sys, time
import toilfn as toil


@toil.task
def step(i):
    time.sleep(1)
    return i


if __name__ == "__main__":
    print(sum(toil.compute([step(i) for i in range(3)], progress=True, store="store")))
"""

HOW = {
    "closed": "{} 2>&-",
    "full": "{} 2>/dev/full",
    "without a reader": "({} 2>&1 >&3 | true) 3>&1",
    "all closed but output": "{} 2>&- <&-",
}


def _run(how: str, command: str, place: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DASK_TOILFN")}
    line = HOW[how].format(command)
    return subprocess.run(["sh", "-c", line], cwd=place, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", HOW)
def test_a_run_does_not_need_standard_error(tmp_path: Path, how: str) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    done = _run(how, f"{sys.executable} flow.py", tmp_path)
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr


@pytest.mark.parametrize("how", HOW)
def test_toilfn_run_does_not_need_standard_error(tmp_path: Path, how: str) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    done = _run(how, f"{sys.executable} -m toilfn run flow.py", tmp_path)
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr


@pytest.mark.parametrize("how", HOW)
def test_the_cwl_runner_does_not_need_standard_error(tmp_path: Path, how: str) -> None:
    pytest.importorskip("cwltool")
    (tmp_path / "tool.cwl").write_text(
        "cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: echo\narguments: [hello]\nstdout: out.txt\ninputs: []\n"
        "outputs:\n  out:\n    type: stdout\n"
    )
    done = _run(how, f"{sys.executable} -m toilfn cwl tool.cwl", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"out.txt"' in done.stdout
    assert (tmp_path / "out.txt").read_text() == "hello\n"


@pytest.mark.parametrize("how", HOW)
def test_the_wdl_runner_does_not_need_standard_error(tmp_path: Path, how: str) -> None:
    pytest.importorskip("WDL")
    (tmp_path / "flow.wdl").write_text(
        "version 1.1\ntask t {\n  command <<< echo hello >>>\n  output { String out = read_string(stdout()) }\n}\n"
    )
    done = _run(how, f"{sys.executable} -m toilfn wdl --container none flow.wdl", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hello" in done.stdout


@pytest.mark.parametrize("how", HOW)
def test_an_error_of_a_command_has_its_status_though_nobody_reads_it(tmp_path: Path, how: str) -> None:
    done = _run(how, f"{sys.executable} -m toilfn status nowhere; echo $?", tmp_path)
    if "reader" not in how:
        assert done.stdout == "2\n"


def test_messages_for_standard_error_never_go_to_standard_output(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(
        "import sys\nsys.stderr = None\nimport toilfn as toil\n@toil.task(retries=0)\ndef f():\n    raise ValueError\n"
        "if __name__ == '__main__':\n    try:\n        toil.compute(f(), progress=True)\n"
        "    except toil.FailedTasksError:\n        print('failed')\n"
    )
    done = subprocess.run([sys.executable, "flow.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "failed\n", done.stderr


def test_a_run_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    command = ["nohup", sys.executable, "flow.py"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "store" / "leases").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=120)[0] == "3\n"
    assert process.returncode == 0


def test_a_stream_that_cannot_fail_passes_everything_else_on(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        stream = LenientStream(file)
        stream.write("text")
        assert stream.buffer is file.buffer
        assert not stream.isatty()
    assert stream.write("more") == 4
    assert (tmp_path / "file").read_text() == "text"


def test_a_command_does_not_need_standard_output(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    subprocess.run([sys.executable, "flow.py"], cwd=tmp_path, check=True, capture_output=True)
    for command in ("status store", "stats store", "status store --tree", "files store", "graph store"):
        line = f"{sys.executable} -m toilfn {command} >&-"
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.stderr, done.returncode) == ("", 0)
