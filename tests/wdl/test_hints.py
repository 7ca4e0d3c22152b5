"""Which hints have an effect; no other one has, whatever its value."""

from __future__ import annotations

import pytest
from WDL import Env

from tests.wdl.running import run
from toilfn.wdl.document import load_document
from toilfn.wdl.library import Library
from toilfn.wdl.paths import WorkflowPaths
from toilfn.wdl.runtime import runtime_of

HINTS = """\
version 1.2
task t {
  input { Boolean quick = true  File? f }
  command <<< echo ran >>>
  output { String said = read_string(stdout()) }
  %s
}
workflow w { call t  output { String said = t.said } }
"""
ALL = """hints {
    max_cpu: 10000  max_memory: "1 PB"  disks: { "/mnt": "SSD" }  gpu: "a model"  short_task: quick
    localization_optional: true
    inputs: input { f: hints { localization_optional: true } }
    outputs: output { said: hints { key: "x" } }
    other: [1]
  }"""


def options(tmp_path, section, **overrides):
    """Return the resources that a task with a section requests from a cluster."""
    (tmp_path / "t.wdl").write_text(HINTS % section)
    [task] = load_document(str(tmp_path / "t.wdl")).tasks
    library = Library("1.2", WorkflowPaths(str(tmp_path)), str(tmp_path))
    return runtime_of(task, Env.Bindings(), library, overrides).options


@pytest.mark.parametrize(
    ("section", "preemptible"),
    [
        (ALL, True),
        ("hints { short_task: false }", None),
        ('hints { shortTask: "yes" }', None),
        ("runtime { shortTask: true }", True),
        ("requirements { cpu: 1 } hints { short_task: true }", True),
        ("runtime { preemptible: 0 shortTask: true }", False),
        ("runtime { preemptible: 2 }", True),
    ],
)
def test_short_tasks_may_run_on_machines_that_can_be_preempted(tmp_path, section, preemptible):
    assert options(tmp_path, section).get("preemptible") is preemptible


def test_hints_of_the_document_and_of_the_inputs_do_no_harm(tmp_path):
    (tmp_path / "t.wdl").write_text(HINTS % ALL)
    given = '{"w.t.hints.disks": {"/mnt": "SSD"}, "w.t.hints.gpu": "a model", "w.t.hints.short_task": false}'
    done = run(["t.wdl", given, "--container", "none"], tmp_path)
    assert done.status == 0, done.stderr
    assert '"w.said": "ran"' in done.stdout
    assert options(tmp_path, ALL, short_task=False).get("preemptible") is None
