"""``toilfn wes`` and ``toilfn-wes-cwl-runner``, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.wes import SCRIPT

STEP = """\
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [cat]
inputs: {file: {type: File, secondaryFiles: [.idx], inputBinding: {}}}
outputs: {out: stdout}
stdout: out.txt
"""
FLOW = """\
cwlVersion: v1.2
class: Workflow
inputs: {file: {type: File, secondaryFiles: [.idx]}}
outputs: {out: {type: File, outputSource: step/out}}
steps: {step: {run: ../tools/step.cwl, in: {file: file}, out: [out]}}
"""


def toilfn(*words: str, server, cwd: Path, program: str = "toilfn") -> subprocess.CompletedProcess[str]:
    path = os.path.join(os.path.dirname(sys.executable), program)
    environment = {**os.environ, "TOILFN_WES_ENDPOINT": server.url}
    return subprocess.run(
        [path, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {
        "tools/step.cwl": STEP, "flows/main.cwl": FLOW, "data/a.txt": "content\n", "data/a.txt.idx": "",
        "inputs/in.yml": "file: {class: File, path: ../data/a.txt}\n", "work.py": SCRIPT,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_a_workflow_with_all_files_that_it_refers_to(server, folder):
    for program, words in (("toilfn", ["wes", "run"]), ("toilfn-wes-cwl-runner", ["--quiet", "--outdir=/nowhere"])):
        done = toilfn(
            *words, (folder / "flows/main.cwl").as_uri(), "inputs/in.yml", server=server, cwd=folder, program=program
        )
        assert done.returncode == 0, done.stderr
        out = json.loads(done.stdout)["out"]
        assert (out["basename"], out["size"]) == ("out.txt", 8)


def test_a_failure_shows_why_and_has_the_runs_exit_status(server, folder):
    (folder / "in.json").write_text('{"fail": 3}')
    done = toilfn("wes", "run", "work.py", "in.json", server=server, cwd=folder)
    assert done.returncode == 3
    assert "ended as EXECUTOR_ERROR" in done.stderr


def test_runs_are_supervised(server, folder, client):
    (folder / "in.json").write_text('{"seconds": 300}')
    done = toilfn("wes", "submit", "work.py", "in.json", "--tag=who=me", server=server, cwd=folder)
    run = done.stdout.strip()
    client.wait(run, "RUNNING")
    assert toilfn("wes", "status", run, server=server, cwd=folder).stdout == "RUNNING\n"
    listed = json.loads(toilfn("wes", "list", "--json", server=server, cwd=folder).stdout)
    assert (listed[0]["run_id"], listed[0]["tags"]) == (run, {"who": "me"})
    assert toilfn("wes", "cancel", run, server=server, cwd=folder).returncode == 0
    assert client.wait(run) == "CANCELED"


def test_mistakes_are_reported_in_one_line(server, folder):
    for words, reason in (
        (["run", "missing.cwl"], "file not found: missing.cwl"),
        (["run", "inputs"], "must end with .cwl"),
        (["status", "run-1"], "404 there is no run"),
        (["run", "work.py", "--engine=unknown"], "400 workflow_engine_parameters"),
        (["list", "--endpoint=http://127.0.0.1:9"], "cannot reach http://127.0.0.1:9"),
        (["list", "--endpoint=ftp://x"], "is not the URL of a server"),
    ):
        done = toilfn("wes", *words, server=server, cwd=folder)
        assert done.returncode in (1, 2)
        assert reason in done.stderr
        assert all(line.startswith("hint: ") for line in done.stderr.splitlines()[1:])
