"""Files that leave the store: ``--move-outputs``, ``--leave-outputs`` and ``--intermediates drop``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

DOCUMENT = """\
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [bash, -c, "mkdir d; echo one > d/x; echo two > a.txt; echo three > a.txt.idx"]
inputs: {n: int?}
outputs:
  d: {type: Directory, outputBinding: {glob: d}}
  a: {type: File, secondaryFiles: [.idx], outputBinding: {glob: a.txt}}
"""


def in_store(store: Path, text: str) -> Path:
    """The object with a content."""
    (found,) = (path for path in (store / "blobs").rglob("*") if path.is_file() and path.read_bytes() == text.encode())
    return found


def test_outputs_are_moved_and_the_store_can_still_be_used(runner, written, tmp_path):
    document, store, out = written("doc.cwl", DOCUMENT), tmp_path / "store", tmp_path / "out"
    for options in (("--move-outputs", "--outdir", out), ("--outdir", tmp_path / "again")):
        result = runner("--store", store, *options, document).result
        assert (Path(options[-1]) / "a.txt.idx").read_text() == "three\n"
        assert Path(result["d"]["listing"][0]["path"]).read_text() == "one\n"
    for text, name in (("one\n", "d/x"), ("two\n", "a.txt"), ("three\n", "a.txt.idx")):
        assert in_store(store, text).is_symlink()
        assert in_store(store, text).samefile(out / name)
        assert (out / name).stat().st_mode & 0o200
        assert not (tmp_path / "again" / name).samefile(out / name)


def test_outputs_may_stay_in_the_store(runner, written, tmp_path):
    store = tmp_path / "store"
    result = runner(
        "--store", store, "--leave-outputs", "--outdir", tmp_path / "out", written("doc.cwl", DOCUMENT)
    ).result
    found = [result["a"], result["a"]["secondaryFiles"][0], result["d"]["listing"][0]]
    assert [each["basename"] for each in found] == ["a.txt", "a.txt.idx", "x"]
    for each, text in zip(found, ("two\n", "three\n", "one\n"), strict=True):
        assert Path(each["path"]) == in_store(store, text)
        assert unquote(urlsplit(each["location"]).path) == each["path"]
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


CHAIN = """\
cwlVersion: v1.2
class: Workflow
requirements: {ScatterFeatureRequirement: {}}
inputs: {names: "string[]", edit: {type: string, default: ""}}
outputs: {out: {type: File, outputSource: join/out}}
steps:
  make: {run: make.cwl, scatter: name, in: {name: names}, out: [out]}
  more: {run: more.cwl, scatter: file, in: {file: make/out}, out: [out]}
  join: {run: join.cwl, in: {files: more/out, edit: edit}, out: [out]}
"""


def test_files_between_steps_go_and_are_made_again_for_an_edit(runner, written, tmp_path):
    def step(name: str, inputs: str, command: str) -> None:
        written(
            f"{name}.cwl",
            f"{{cwlVersion: v1.2, class: CommandLineTool, inputs: {inputs}, outputs: {{out: stdout}}, stdout: part.txt,"
            " requirements: {ShellCommandRequirement: {}},"
            f" arguments: [{{shellQuote: false, valueFrom: '{command}'}}]}}",
        )

    step("make", "{name: string}", f"echo made >> {tmp_path}/marks; echo $(inputs.name)")
    step("more", "{file: File}", "cat $(inputs.file.path); echo more")
    step(
        "join",
        '{files: "File[]", edit: string}',
        "cat $(inputs.files[0].path) $(inputs.files[1].path); echo $(inputs.edit)",
    )
    document, job = written("doc.cwl", CHAIN), written("job.json", '{"names": ["a", "b"]}')
    store = tmp_path / "store"

    def run(*more: str) -> str:
        options = ("--store", store, "--intermediates", "drop", "--outdir", tmp_path / "out")
        result = runner(*options, document, *more).result
        assert len([path for path in (store / "blobs").rglob("*part.txt") if path.is_file()]) == 1 + len(texts)
        return Path(result["out"]["path"]).read_text()

    texts: list[str] = []
    texts.append(run(str(job)))
    edited = written("edited.json", '{"names": ["a", "b"], "edit": "x"}')
    assert texts == ["a\nmore\nb\nmore\n\n"]
    assert (tmp_path / "marks").read_text() == "made\n" * 2
    texts.append(run(str(edited)))
    assert texts[1] == "a\nmore\nb\nmore\nx\n"
    assert (tmp_path / "marks").read_text() == "made\n" * 4


UNSTEADY = """\
cwlVersion: v1.2
class: Workflow
requirements: {StepInputExpressionRequirement: {}}
inputs: {source: File, command: string}
outputs: {out: {type: File, outputSource: read/out}}
steps:
  alter: {run: alter.cwl, in: {command: command}, out: [out]}
  read: {run: read.cwl, in: {source: source, after: alter/out}, out: [out]}
"""


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("rm {0}", "is gone"),
        ("cp -p {0} {0}-2; mv {0}-2 {0}", "was replaced by another file"),
    ],
)
def test_a_linked_input_that_does_not_stay_is_named(runner, written, tmp_path, command, told):
    source = written("source", "content\n")
    tool = "cwlVersion: v1.2\nclass: CommandLineTool\noutputs: {out: stdout}\n"
    written("alter.cwl", tool + "inputs: {command: {type: string, inputBinding: {}}}\nbaseCommand: [bash, -c]\n")
    written("read.cwl", tool + "inputs: {source: {type: File, inputBinding: {}}, after: File}\nbaseCommand: cat\n")
    job = written("job.json", json.dumps({"command": command.format(source), "source": filed(source)}))
    done = runner("--link-imports", "--store", tmp_path / "store", written("doc.cwl", UNSTEADY), job)
    assert done.status != 0
    assert re.search(rf"a link to {re.escape(str(source))}, which.*{told}", done.messages)


def filed(path: Path) -> dict[str, str]:
    return {"class": "File", "path": str(path)}
