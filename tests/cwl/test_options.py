"""Options of cwltool's that mean something to toilfn, or that change how a tool is run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cwl.conftest import DOCUMENTS
from tests.servers.containers import IMAGE
from tests.servers.fixtures import apptainer, apptainer_server, containers, docker_engine, images  # noqa: F401 - used as fixtures

SHOW = """\
cwlVersion: v1.2
class: CommandLineTool
requirements: {NetworkAccess: {networkAccess: true}}
hints: {DockerRequirement: {dockerPull: "IMAGE"}, EnvVarRequirement: {envDef: {WORD: usual}}}
baseCommand: [sh, -c]
arguments: ["echo $WORD; ls /sys/class/net; echo shown >&2"]
inputs: []
outputs: {shown: stdout}
stdout: shown.txt
stderr: errors.txt
"""


@pytest.fixture
def show(written):
    """A tool that shows its surroundings."""
    return written("show.cwl", SHOW.replace("IMAGE", "debian:stable-slim"))


def lines(tmp_path):
    return (tmp_path / "shown.txt").read_text().splitlines()


@pytest.mark.parametrize("option", ["--tmpdir-prefix", "--tmp-outdir-prefix"])
def test_temporary_directories_are_in_the_requested_place_and_stay(runner, tmp_path, option):
    (tmp_path / "scratch").mkdir()
    runner(option, tmp_path / "scratch" / "x-", "--leave-tmpdir", DOCUMENTS / "hello.cwl", "--message", "hi")
    [kept] = (tmp_path / "scratch").glob("*/kept/hello.cwl-*")
    assert kept.is_dir()
    assert list((tmp_path / "tmp").rglob("kept")) == []


def test_the_given_number_of_tools_run_at_one_time(runner, written, tmp_path):
    command = f"mkdir {tmp_path}/busy && sleep 0.05 && rmdir {tmp_path}/busy"
    scatter = f"""\
cwlVersion: v1.2
class: Workflow
requirements: [{{class: ScatterFeatureRequirement}}]
inputs: {{n: "int[]"}}
outputs: []
steps:
  alone:
    scatter: n
    in: {{n: n}}
    out: []
    run: {{class: CommandLineTool, baseCommand: [sh, -c, "{command}"], inputs: {{n: int}}, outputs: []}}
"""
    job = written("job.json", json.dumps({"n": list(range(6))}))
    assert runner("--parallel-max", 1, written("scatter.cwl", scatter), job).status == 0


def test_overrides_change_requirements(runner, written, show, tmp_path):
    change = {"EnvVarRequirement": {"envDef": {"WORD": "changed"}}}
    overrides = {"cwltool:overrides": {show.name: {"requirements": change}}}
    assert runner("--overrides", written("overrides.json", json.dumps(overrides)), show).status == 0
    assert lines(tmp_path)[0] == "changed"


def test_logs_of_tools_are_kept_where_they_are_wanted(runner, show, tmp_path):
    runner("--log-dir", tmp_path / "logs", show)
    [errors] = (tmp_path / "logs").rglob("errors.txt")
    assert errors.read_text() == "shown\n"


def test_a_tool_has_the_network_that_is_named(runner, show, tmp_path, images):  # noqa: F811 - the fixture
    done = runner("--podman", "--custom-net", "host", show, options=())
    assert done.status == 0, done.messages
    assert lines(tmp_path)[1:] == sorted(os.listdir("/sys/class/net"))


def test_a_tool_runs_under_dockers_daemon(runner, written, tmp_path, docker_engine):  # noqa: F811 - the fixture
    tool = written("tool.cwl", SHOW.replace("IMAGE", IMAGE))
    done = runner("--docker", "--custom-net", "none", tool, options=())
    assert done.status == 0, done.messages
    assert lines(tmp_path) == ["usual", "lo"]


def test_tools_run_in_singularity_and_its_image_is_pulled_once(runner, written, tmp_path, apptainer, monkeypatch):  # noqa: F811 - the fixture
    monkeypatch.setenv("APPTAINER_CACHEDIR", str(tmp_path / "cache"))
    tag = f"cwl-{os.getpid()}"
    written("tool.cwl", SHOW.replace("IMAGE", apptainer.publish(tag)))
    scatter = """\
cwlVersion: v1.2
class: Workflow
requirements: [{class: ScatterFeatureRequirement}, {class: StepInputExpressionRequirement}]
inputs: {n: "int[]"}
outputs: {shown: {type: "File[]", outputSource: show/shown}}
steps:
  show: {run: tool.cwl, scatter: n, in: {n: n}, out: [shown]}
"""
    job = written("job.json", json.dumps({"n": list(range(4))}))
    done = runner("--singularity", "--workers", 4, written("scatter.cwl", scatter), job, options=())
    assert [Path(file["path"]).read_text().split()[0] for file in done.result["shown"]] == ["usual"] * 4
    assert apptainer.pulls(tag) == 1
    assert not list(tmp_path.glob("*.sif"))


def test_an_input_may_have_a_name_that_options_begin_with(runner, written):
    source = """\
cwlVersion: v1.2
class: ExpressionTool
requirements: {InlineJavascriptRequirement: {}}
inputs: {re: string, cach: string}
outputs: {o: string}
expression: "${ return {o: inputs.re + inputs.cach}; }"
"""
    assert runner(written("tool.cwl", source), "--re", "one", "--cach", "two").result == {"o": "onetwo"}


def test_dependencies_of_a_document_are_listed(runner, tmp_path):
    listed = json.loads(runner("--print-deps", DOCUMENTS / "count.cwl").printed)
    assert listed["location"].endswith("count.cwl")
    done = runner("--print-deps", "--relative-deps", "cwd", DOCUMENTS / "shout.cwl")
    assert done.status == 0
    assert json.loads(done.printed)["class"] == "File"


def test_a_document_that_is_not_valid_is_reported_and_not_run(runner, written):
    done = runner("--validate", written("bad.cwl", "cwlVersion: v1.2\nclass: CommandLineTool\ninputs: 7\n"))
    assert done.status == 1
    assert 'bad.cwl:1:1: "outputs" section is not valid' in done.printed  # cwltool reports of --validate are its result
    assert "Traceback" not in done.messages + done.printed
