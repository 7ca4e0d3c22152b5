"""CWL documents as tasks of Python programs."""

from __future__ import annotations

import pytest

import toilfn as toil
from tests.cwl.conftest import DOCUMENTS


@toil.task
def capitals(text: toil.File) -> str:
    return text.read_text().upper()


@toil.task
def poem() -> toil.File:
    with toil.open_write("poem.txt") as stream:
        stream.write(b"roses\n")
    return stream.file


@pytest.fixture
def settings(tmp_path):
    return {"store": tmp_path / "store", "progress": False}


def test_a_tools_outputs_go_to_a_task(settings):
    hello = toil.cwl.load(DOCUMENTS / "hello.cwl")
    assert toil.compute(capitals(hello(message="hi")["said"]), **settings) == "HI\n"


def test_a_tasks_file_goes_to_a_workflow(settings):
    shout = toil.cwl.load(DOCUMENTS / "shout.cwl")
    assert sorted(shout.inputs) == ["loud", "text", "words"]
    outputs = shout(text=poem(), words=["a", "b"], loud=True)
    joined, count = toil.compute(outputs["louder"], outputs["count"], **settings)
    assert joined.read_text() == "A: ROSES\nB: ROSES\n"
    assert count == 2


def test_a_path_is_brought_into_the_store(settings, tmp_path):
    (tmp_path / "text.txt").write_text("violets\n")
    shout = toil.cwl.load(DOCUMENTS / "shout.cwl")
    outputs = shout(text=tmp_path / "text.txt", words=["a"], loud=False)
    value = toil.compute(outputs, **settings)
    assert value["joined"].read_text() == "a: violets\n"
    assert value["louder"] is None


PACKED = """
cwlVersion: v1.2
$graph:
- {id: main, class: CommandLineTool, baseCommand: "true", inputs: {}, outputs: {}}
- {id: other, class: CommandLineTool, baseCommand: "true", inputs: {given: int}, outputs: {}}
"""


def test_a_name_selects_a_tool_of_a_packed_document(tmp_path, monkeypatch):
    (tmp_path / "packed.cwl").write_text(PACKED)
    monkeypatch.chdir(tmp_path)
    for document in ("packed.cwl#other", f"{tmp_path}/packed.cwl#other", f"file://{tmp_path}/packed.cwl#other"):
        assert toil.cwl.load(document).inputs == ["given"]
    assert toil.cwl.load("packed.cwl").inputs == []


def test_wrong_inputs_are_refused_at_the_call():
    hello = toil.cwl.load(DOCUMENTS / "hello.cwl")
    with pytest.raises(TypeError, match="needs the input 'message'"):
        hello()
    with pytest.raises(TypeError, match="has no input 'text'"):
        hello(message="hi", text="x")


def test_a_document_that_does_not_validate_is_explained(tmp_path):
    (tmp_path / "tool.cwl").write_text("cwlVersion: v1.2\nclass: CommandLineTool\noutputs: []\n")
    with pytest.raises(toil.InputError, match="inputs"):
        toil.cwl.load(tmp_path / "tool.cwl")
    with pytest.raises(toil.InputError, match="no option 'podmann'"):
        toil.cwl.load(DOCUMENTS / "hello.cwl", podmann=True)
