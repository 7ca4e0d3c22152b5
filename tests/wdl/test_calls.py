"""Calls of one task: what they have in common is worked out once, and what they have not, for each."""

from __future__ import annotations

import json

import pytest

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


WIDE = """\
version 1.1
task a { input { String n } command <<< >>> output { String m = "a-" + n } }
task b { input { String n  String o } command <<< >>> output { String m = n + o } }
workflow w {
  input { Array[String] names }
  scatter (i in range(length(names))) { call a { input: n = names[i] } }
  scatter (i in range(length(names))) {
    call b { input: n = a.m[i], o = names[i] }
    String both = b.m + a.m[i] + names[i]
  }
  output { Array[String] all = both }
}
"""


@pytest.mark.parametrize("count", [3, 210])
def test_each_iteration_may_use_what_all_of_another_scatter_gave(tmp_path, count):
    names = [f"sample-{number}" for number in range(count)]
    (tmp_path / "w.wdl").write_text(WIDE)
    (tmp_path / "inputs.json").write_text(json.dumps({"w.names": names}))
    done = run(["w.wdl", "inputs.json", "--container", "none", "--store", "store"], tmp_path)
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout) == {"w.all": [f"a-{name}{name}a-{name}{name}" for name in names]}
    size = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert size < 3_000_000  # what all iterations read is there once, not with each: that would be twice as much


JOINT = """\
version 1.1
task make { input { Int n } command <<< echo ~{n} > "~{n}.txt" >>> output { File f = "~{n}.txt" } }
task join {
  input { Array[File] all  Array[String] names  Int shard }
  command <<< cat ~{sep(" ", all)} | wc -l; echo ~{shard} ~{names[shard]} >>>
  output { Array[String] said = read_lines(stdout()) }
  runtime { disks: "~{ceil(size(all, 'GB')) + length(names) / 1000} GB" }
}
workflow inner {
  input { Array[File] all  Array[String] names  Int shard }
  call join { input: all = all, names = names, shard = shard }
  output { Array[String] said = join.said }
}
"""
OUTER = """\
version 1.1
import "inner.wdl" as lib
workflow w {
  input { Array[String] names }
  scatter (n in range(2)) { call lib.make { input: n = n } }
  scatter (shard in range(20)) {
    call lib.join { input: all = make.f, names = names, shard = shard }
    call lib.inner { input: all = flatten([make.f, make.f]), names = names, shard = shard + 1 }
  }
  output { Array[Array[String]] joined = join.said  Array[Array[String]] inners = inner.said }
}
"""


def test_a_value_that_all_calls_of_a_scatter_get_is_stored_once(tmp_path):
    names = [f"{number:0200}" for number in range(1000)]
    (tmp_path / "inner.wdl").write_text(JOINT)
    (tmp_path / "w.wdl").write_text(OUTER)
    (tmp_path / "inputs.json").write_text(json.dumps({"w.names": names}))
    done = run(["w.wdl", "inputs.json", "--container", "none", "--store", "store"], tmp_path)
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["w.joined"] == [["2", f"{shard} {names[shard]}"] for shard in range(20)]
    assert found["w.inners"] == [["4", f"{shard} {names[shard]}"] for shard in range(1, 21)]
    size = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert size < 15 * 1000 * 200  # 40 calls get 1,000 texts of 200 letters
