"""Requirements that the suites of conformance do not have: loops, MPI and graphics processors."""

from __future__ import annotations

import os

import pytest

COUNT = """\
class: ExpressionTool
inputs: {i: int}
outputs: {o: int}
expression: "${return {'o': inputs.i + 1}}"
"""

LOOP = """\
cwlVersion: v1.3.0-dev1
class: Workflow
requirements: {InlineJavascriptRequirement: {}, StepInputExpressionRequirement: {}}
inputs: {start: int, limit: int}
outputs: {o: {type: TYPE, outputSource: count/o}}
steps:
  count:
    in: {i: start, limit: limit}
    when: $(inputs.i < inputs.limit)
    loop: {i: o}
    outputMethod: METHOD
    out: [o]
    run: count.cwl
"""

EXTENSION = """\
cwlVersion: v1.2
$namespaces: {cwltool: "http://commonwl.org/cwltool#"}
class: Workflow
requirements: {InlineJavascriptRequirement: {}, StepInputExpressionRequirement: {}}
inputs: {start: int, limit: int}
outputs: {o: {type: "int[]", outputSource: count/o}}
steps:
  count:
    in: {i: start, limit: limit}
    out: [o]
    run: count.cwl
    requirements:
      cwltool:Loop: {loopWhen: $(inputs.i < inputs.limit), loop: {i: {loopSource: o, valueFrom: $(self + 1)}}, outputMethod: all}
"""  # noqa: E501 - one mapping of the document


@pytest.fixture
def count(written):
    """A step that adds one, in the version of the workflow around it."""
    return lambda version: written("count.cwl", f"cwlVersion: {version}\nrequirements: [{JAVASCRIPT}]\n{COUNT}")


JAVASCRIPT = "{class: InlineJavascriptRequirement}"


@pytest.mark.parametrize(
    ("kind", "method", "limit", "result"),
    [
        ("int", "last_iteration", 4, 4),
        ("int[]", "all_iterations", 4, [2, 3, 4]),
        ("int[]", "all_iterations", 1, []),
        ("int?", "last_iteration", 1, None),
    ],
)
def test_a_loop_of_a_step(runner, written, count, kind, method, limit, result):
    count("v1.3.0-dev1")
    loop = written("loop.cwl", LOOP.replace("TYPE", f'"{kind}"').replace("METHOD", method))
    assert runner("--enable-dev", loop, "--start", 1, "--limit", limit).result == {"o": result}


def test_a_loop_as_an_extension_with_an_expression(runner, written, count):
    count("v1.2")
    loop = written("loop.cwl", EXTENSION)
    assert runner("--enable-ext", loop, "--start", 1, "--limit", 6).result == {"o": [2, 4, 6]}


MPI = """\
cwlVersion: v1.2
$namespaces: {cwltool: "http://commonwl.org/cwltool#"}
class: CommandLineTool
requirements: {"cwltool:MPIRequirement": {processes: $(inputs.count)}}
baseCommand: [sh, -c, echo $GREETING]
inputs: {count: int}
outputs: {said: stdout}
stdout: said.txt
"""

LAUNCHER = """\
#!/bin/sh
test "$1" = -np && test "$3" = --quietly || exit 9
count=$2; shift 3
for i in $(seq $count); do "$@"; done
"""


def test_a_tool_is_started_by_an_mpi_launcher(runner, written, tmp_path, monkeypatch):
    launcher = written("launch", LAUNCHER)
    launcher.chmod(0o755)
    settings = f"runner: {launcher}\nnproc_flag: -np\nextra_flags: [--quietly]\nenv_pass: [GREETING]\n"
    monkeypatch.setenv("GREETING", "hello from a rank")
    config = written("mpi.yml", settings)
    arguments = ("--enable-ext", "--mpi-config-file", config, written("mpi.cwl", MPI), "--count", 3)
    assert runner(*arguments).status == 0
    assert (tmp_path / "said.txt").read_text() == "hello from a rank\n" * 3


CUDA = """\
cwlVersion: v1.2
$namespaces: {cwltool: "http://commonwl.org/cwltool#"}
class: CommandLineTool
requirements:
  cwltool:CUDARequirement: {cudaVersionMin: "11.0", cudaComputeCapability: "3.0", cudaDeviceCountMin: 2}
baseCommand: [sh, -c, "true"]
inputs: []
outputs: []
"""

NVIDIA_SMI = """\
#!/bin/sh
case $1 in
-L) echo 'GPU 0: Tesla T4 (UUID: GPU-1)'; echo 'GPU 1: Tesla T4 (UUID: GPU-2)';;
-q) echo '<log><cuda_version>12.0</cuda_version><attached_gpus>2</attached_gpus></log>';;
esac
"""


def test_graphics_processors_that_are_not_here_are_asked_for(runner, written, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = runner("--enable-ext", written("cuda.cwl", CUDA))
    assert done.status == 1
    assert "2 accelerators (gpu), more than the cluster can give to one task" in done.messages
    assert "Traceback" not in done.messages


def test_graphics_processors_are_counted_and_given(runner, written, tmp_path, monkeypatch):
    """As far as a machine without any can show: the driver's program is a stand-in."""
    (tmp_path / "bin").mkdir()
    program = written("bin/nvidia-smi", NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    done = runner("--enable-ext", written("cuda.cwl", CUDA))
    assert done.status == 0, done.messages
