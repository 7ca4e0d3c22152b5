"""What ``toilfn wdl`` says to people who are out of luck: one message, and the right exit status."""

from __future__ import annotations

import json
import re

import pytest

from tests.wdl.running import run, toilfn

SOURCE = 'version 1.1\nworkflow w { input { String s = "x" } output { String o = s } }\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "w.wdl").write_text(SOURCE)
    (tmp_path / "random.bin").write_bytes(b"\xff\xfe\x00{}")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["w.wdl", "-o", "w.wdl/out"], "cannot write the outputs to "),
        (["w.wdl", "-m", "w.wdl/out.json"], "/w.wdl: File exists"),
        (["random.bin"], "random.bin is not a WDL document: not UTF-8 text"),
        (["w.wdl", "random.bin"], "input file 'random.bin' cannot be read: 'utf-8' codec"),
        (["w.wdl", "."], "input file '.' cannot be read: "),
        (["w.wdl", "-i", ""], "input file '' cannot be read: "),
        (["inputs"], "toilfn wdl inputs takes exactly one document"),
    ],
)
def test_one_line_before_anything_runs(folder, words, said):
    done = run([*words, "--container", "none"], folder)
    assert done.status == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_few_of_many_failures_are_shown_with_the_ids_of_their_tasks(folder):
    source = """\
version 1.1
task t { input { Int i } command <<< echo "item ~{i}" >&2; exit 1 >>> }
workflow w { scatter (i in range(30)) { call t { input: i = i } } }
"""
    (folder / "w.wdl").write_text(source)
    done = run(["w.wdl", "--container", "none", "--store", "run"], folder)
    assert done.status == 1
    told = re.findall(r"ends with: (item \d+) \(task (\w+)\)", done.stderr)
    assert len(told) == 10
    assert "and 20 more: toilfn status run --failed" in done.stderr
    said, task = told[0]
    assert said in toilfn(["logs", "run", task], folder).stdout


def test_byte_order_marks_are_ignored_and_folders_of_outputs_are_created(folder):
    (folder / "w.wdl").write_text(f"\ufeff{SOURCE}".replace("\n", "\r\n"))
    (folder / "in.json").write_text('\ufeff{"w.s": "ü"}')
    done = run(["w.wdl", "in.json", "-m", "not/there/out.json", "--container", "none"], folder)
    assert done.status == 0, done.stderr
    assert json.loads((folder / "not/there/out.json").read_text()) == {"w.o": "ü"}
