"""WDL documents called from Python."""

from __future__ import annotations

import pytest

import toilfn
import toilfn.wdl
from toilfn.wdl.problems import WDLError

SOURCE = """\
version 1.0
task count {
  input { File text  Map[String, Int] more = {} }
  command { wc -l < ~{text} }
  output { Int lines = read_int(stdout())  File same = text  Pair[Int, String] pair = (1, "a") }
}
"""


@toilfn.task
def made() -> toilfn.File:
    with toilfn.open_write("made.txt", "w") as stream:
        stream.write("a\nb\n")
    return stream.file


@toilfn.task
def doubled(outputs: dict) -> int:
    return 2 * outputs["lines"]


@pytest.fixture
def count(tmp_path):
    (tmp_path / "count.wdl").write_text(SOURCE)
    return toilfn.wdl.load(tmp_path / "count.wdl", container="none")


def test_a_document_is_called_like_a_task(count, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("1\n2\n3\n")
    store = str(tmp_path / "store")
    found = toilfn.compute(count(text=str(text), more={"a": 1}), store=store, cluster="inline")
    assert (found["lines"], found["pair"], found["same"].read_text()) == (3, (1, "a"), "1\n2\n3\n")


def test_inputs_and_outputs_may_be_promises(count, tmp_path):
    assert toilfn.compute(doubled(count(text=made())), store=str(tmp_path / "store"), cluster="inline") == 4


def test_wrong_inputs_are_reported_at_the_call(count):
    with pytest.raises(WDLError, match="count has no input 'txet'"):
        count(txet="x")
    with pytest.raises(WDLError, match="count needs the inputs text"):
        count()


def test_a_document_that_is_careless_about_types_is_taken_on_demand(tmp_path):
    careless = "version 1.0\nworkflow w {\n  input { Int? n = 2 }\n  Int m = n\n  output { Int o = m }\n}\n"
    (tmp_path / "careless.wdl").write_text(careless)
    (tmp_path / "wrong.wdl").write_text(careless.replace("Int m = n", "Int m = true"))
    with pytest.raises(WDLError, match=r"careless.wdl:4:11: Expected Int instead of Int\?.*\n.*--no-quant-check"):
        toilfn.wdl.load(tmp_path / "careless.wdl")
    with pytest.raises(WDLError, match=r"wrong.wdl:4:11: (?!.*--no-quant-check)"):
        toilfn.wdl.load(tmp_path / "wrong.wdl")
    careless = toilfn.wdl.load(tmp_path / "careless.wdl", quant_check=False)
    assert toilfn.compute(careless(), store=str(tmp_path / "store"), cluster="inline") == {"o": 2}
