"""Calls of one task: what they have in common is worked out once, and what they have not, for each."""

from __future__ import annotations

import json

from tests.wdl.running import run

SOURCE = """\
version 1.1
task t {
  input { Int n  Int more = 0 }
  Int status = n + more
  command <<< exit ~{status} >>>
  output { Int status_wanted = status }
  runtime { returnCodes: [status] }
}
workflow w {
  scatter (n in range(3)) { call t { input: n = n } }
  call t as other { input: n = 5 }
  output { Array[Int] all = t.status_wanted  Int one = other.status_wanted }
}
"""


def test_each_call_has_the_runtime_that_its_own_inputs_give(tmp_path):
    (tmp_path / "w.wdl").write_text(SOURCE)
    done = run(["w.wdl", "--container", "none", "other.more=2"], tmp_path)
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout) == {"w.all": [0, 1, 2], "w.one": 7}


def test_attributes_that_are_given_for_one_call_are_for_no_other_one(tmp_path):
    (tmp_path / "w.wdl").write_text(SOURCE.replace("runtime { returnCodes: [status] }", "runtime { returnCodes: 0 }"))
    inputs = {"w.t.runtime.returnCodes": "*"}
    done = run(["w.wdl", "--container", "none", "-i", json.dumps(inputs)], tmp_path)
    assert done.status == 1
    assert "the command of task t ended with exit status 5" in done.stderr
    both = {**inputs, "w.other.runtime.returnCodes": [5]}
    done = run(["w.wdl", "--container", "none", "-i", json.dumps(both)], tmp_path)
    assert done.status == 0, done.stderr
