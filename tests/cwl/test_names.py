"""Names of files: odd ones mean what they say, hostile ones lead nowhere, and equal ones are set apart."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import psutil
import pytest

from toilfn.cwl.values import Places

READ = """\
cwlVersion: v1.2
class: ExpressionTool
requirements: {InlineJavascriptRequirement: {}}
inputs: {file: {type: File, loadContents: true}}
outputs: {n: string}
expression: "$({n: inputs.file.contents})"
"""

ODD = [
    "\U0001f600.txt",
    "a%20b.txt",
    "a#b.txt",
    "a?b.txt",
    "a[1].txt",
    "a b.txt",
    "-a.txt",
    "a:b.txt",
    "ä'\".txt",
    "a\nb.txt",
    "a;b.txt",
    "#a.txt",
    "?a.txt",
    ";a.txt",
    ":a.txt",
    "~a.txt",
]


def tool(command: str, outputs: str, inputs: str = "[]", more: str = "") -> str:
    return (
        f"cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: [bash, -c, {json.dumps(command)}]\n"
        f"inputs: {inputs}\noutputs: {outputs}\n{more}\n"
    )


def has_ended(pid: int) -> bool:
    """Whether a process runs no more; nobody may have asked for its exit status yet."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def one(found: dict) -> str:
    return Path(found["path"]).read_text().strip()


def test_a_path_is_no_url_in_any_place(runner, written, tmp_path):
    written("a b.txt", "wrong")
    job = {}
    for number, name in enumerate(ODD):
        if name != "a b.txt":
            written(name, f"right {number}")
        written(f"{name}.idx", "")
        job[f"f{number}"] = {"class": "File", "path": name}
    inputs = "".join(f"  f{n}: {{type: File, secondaryFiles: [.idx]}}\n" for n in range(len(ODD)))
    fields = "".join(f"  o{n}: {{type: string}}\n  s{n}: {{type: string}}\n" for n in range(len(ODD)))
    values = ", ".join(
        f"o{n}: inputs.f{n}.basename, s{n}: inputs.f{n}.secondaryFiles[0].basename" for n in range(len(ODD))
    )
    document = written(
        "doc.cwl",
        "cwlVersion: v1.2\nclass: ExpressionTool\nrequirements: {InlineJavascriptRequirement: {}}\n"
        f'inputs:\n{inputs}outputs:\n{fields}expression: "$({{{values}}})"\n',
    )
    result = runner("--relax-path-checks", document, written("job.json", json.dumps(job))).result
    for number, name in enumerate(ODD):
        assert (result[f"o{number}"], result[f"s{number}"]) == (name, f"{name}.idx")


@pytest.mark.parametrize("end", ["/.", "/", "/./", ""])
def test_an_output_directory_may_be_named_by_a_dot(tmp_path, end):
    for location in (f"{tmp_path}/a b{end}", f"file://{tmp_path}/a%20b{end}"):
        found = {"class": "Directory", "location": location, "basename": "." if end == "/." else "", "listing": []}
        made = Places().stored({"out": found if end else {**found, "basename": "a b"}})["out"]
        assert made == {"class": "Directory", "location": f"file://{tmp_path}/a%20b", "basename": "a b"}


@pytest.mark.parametrize("name", ["a%20b.txt", "a#b.txt"])
def test_the_file_that_was_named_is_read(runner, written, name):
    written("a b.txt", "wrong")
    written("a", "wrong")
    written(name, "right")
    document = written("doc.cwl", READ)
    job = written("job.json", json.dumps({"file": {"class": "File", "path": name}}))
    assert runner("--relax-path-checks", document, job).result["n"] == "right"
    assert runner("--relax-path-checks", document, "--file", name).result["n"] == "right"


def test_outputs_are_found_where_the_work_directory_has_brackets_and_files_do(runner, written, tmp_path):
    place = tmp_path / "job[7]*?"
    place.mkdir()
    text = tool("touch a.txt 'b[1].txt'; mkdir sub; echo hi", '{o: {type: "File[]", outputBinding: {glob: "*.txt"}}, '
                'p: {type: File, outputBinding: {glob: "b[1].txt"}}, d: {type: Directory, outputBinding: {glob: sub}}, '
                "s: stdout}", more='stdout: "x[2].log"')  # fmt: skip
    result = runner("--work-dir", place, "--outdir", tmp_path / "out", written("doc.cwl", text)).result
    assert [found["basename"] for found in result["o"]] == ["a.txt", "b[1].txt"]
    assert result["p"]["basename"] == "b[1].txt"
    assert one(result["s"]) == "hi"


@pytest.mark.parametrize("name", ["/tmp/x", "../../x", "..", "a/b", ""])
def test_no_output_is_written_outside_of_the_output_directory(runner, written, tmp_path, name):
    own = json.dumps({"o": {"class": "File", "path": "x", "basename": name}})
    document = written("doc.cwl", tool(f"echo bad > x; printf %s '{own}' > cwl.output.json", "{o: File}"))
    done = runner("--outdir", tmp_path / "a/b/out", document)
    if name:  # an empty one is none: cwltool fills in the file's own
        assert done.status == 1
        assert "Traceback" not in done.messages
        assert "is not a valid" in done.messages
    assert sorted(path.name for path in tmp_path.rglob("x")) == ["x"] * (not name)


@pytest.mark.parametrize(
    "place",
    [
        '{class: "File", location: "file:///etc/hostname"}',
        '{class: "File", location: "file://" + inputs.folder.path + "/../../x"}',
    ],
)
def test_an_expression_gives_only_files_that_it_got(runner, written, tmp_path, place):
    (tmp_path / "d").mkdir()
    document = written(
        "doc.cwl",
        "cwlVersion: v1.2\nclass: ExpressionTool\nrequirements: {InlineJavascriptRequirement: {}}\n"
        f"inputs: {{folder: Directory}}\noutputs: {{o: File}}\nexpression: '$({{o: {place}}})'\n",
    )
    done = runner("--outdir", tmp_path / "out", document, "--folder", tmp_path / "d")
    assert done.status == 1
    assert "Traceback" not in done.messages


def test_outputs_of_one_name_are_set_apart_with_all_that_belongs_to_them(runner, written, tmp_path):
    text = tool(
        "mkdir -p x y z w/a.bam; "
        "for d in x y z; do echo $d > $d/a.bam; echo i$d > $d/a.bam.bai; echo j$d > $d/a.idx; "
        "echo $d > $d/$(printf %0255d 0); done",
        '{o: {type: "File[]", secondaryFiles: [.bai, ^.idx], outputBinding: {glob: "[xyz]/a.bam"}},'
        ' long: {type: "File[]", outputBinding: {glob: "[xyz]/0*"}},'
        ' d: {type: Directory, outputBinding: {glob: w/a.bam}}}',
    )  # fmt: skip
    result = runner("--outdir", tmp_path / "out", written("doc.cwl", text)).result
    for letter, found in zip("xyz", result["o"], strict=True):
        bai, idx = found["secondaryFiles"]
        assert (one(found), one(bai), one(idx)) == (letter, f"i{letter}", f"j{letter}")
        assert bai["path"] == found["path"] + ".bai"
        assert idx["path"] == found["path"].removesuffix(".bam") + ".idx"
    assert os.listdir(result["d"]["path"]) == []
    assert [one(found) for found in result["long"]] == ["x", "y", "z"]


def test_a_file_is_delivered_once_and_directories_stay_whole(runner, written, tmp_path):
    text = tool(
        "mkdir -p x/q/deep/er y/q/empty; echo 1 > x/q/deep/er/f; echo 2 > y/q/f; echo 3 > r",
        '{a: {type: "Directory[]", outputBinding: {glob: "*/q"}},'
        ' b: {type: "Directory[]", outputBinding: {glob: "*/q"}},'
        " c: {type: File, outputBinding: {glob: r}}, d: {type: File, outputBinding: {glob: r}}}",
    )
    out = tmp_path / "out"
    for _ in range(2):  # a second run into the same directory replaces what the first one made
        result = runner("--outdir", out, written("doc.cwl", text)).result
        assert (result["a"], result["c"]) == (result["b"], result["d"])
        assert sorted(os.listdir(out)) == ["q", "q_2", "r"]
        assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == [
            "q", "q/deep", "q/deep/er", "q/deep/er/f", "q_2", "q_2/empty", "q_2/f", "r",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("mkdir d; ln -s nowhere d/dangling", "dangling"),
        ("mkdir d; mkfifo d/pipe", "pipe"),
        ("mkdir d; ln -s . d/again", "again"),
        ("mkdir d; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('d/sock')\"", "sock"),
    ],
)
def test_an_output_that_cannot_be_stored_is_named(runner, written, tmp_path, command, words):
    done = runner(written("doc.cwl", tool(command, "{d: {type: Directory, outputBinding: {glob: d}}}")))
    assert done.status == 1
    assert words in done.messages
    assert "Traceback" not in done.messages


@pytest.mark.parametrize(
    ("default", "expected"),
    [("{class: File, basename: a.txt, contents: hello}", "hello"), ('{class: File, basename: e, contents: ""}', "")],
)
def test_the_content_of_a_literal_is_loaded(runner, written, default, expected):
    inner = f"""\
cwlVersion: v1.2
class: Workflow
requirements: {{InlineJavascriptRequirement: {{}}}}
inputs: {{g: {{type: File, loadContents: true, default: {default}}}}}
outputs: {{t: {{type: string, outputSource: s/t}}, u: {{type: string, outputSource: s/u}}}}
steps:
  s:
    in: {{g: g}}
    out: [t, u]
    run:
      class: ExpressionTool
      inputs: {{g: {{type: File, loadContents: true}}, f: {{type: File, loadContents: true, default: {default}}}}}
      outputs: {{t: string, u: string}}
      expression: "${{ return {{t: inputs.f.contents, u: inputs.g.contents}}; }}"
"""
    assert runner(written("doc.cwl", inner)).result == {"t": expected, "u": expected}


@pytest.mark.parametrize("expression", ['["word"]', '[["a", 1]]', "42", '"text"', '{a: {class: "File"}}'])
def test_outputs_that_are_not_an_object_are_explained(runner, written, expression):
    document = written(
        "doc.cwl",
        "cwlVersion: v1.2\nclass: ExpressionTool\nrequirements: {InlineJavascriptRequirement: {}}\ninputs: []\n"
        f"outputs: {{a: int}}\nexpression: '${{return {expression};}}'\n",
    )
    done = runner(document)
    assert done.status == 1
    assert "Traceback" not in done.messages


def test_processes_that_a_tool_leaves_running_end_with_it(runner, written, tmp_path):
    pid = tmp_path / "pid"
    script = (
        f"(setsid sh -c 'echo $$ > {pid}; exec sleep 600' >/dev/null 2>&1 &) ; until [ -s {pid} ]; do sleep 0.1; done"
    )
    runner(written("doc.cwl", tool(script, "[]"))).result  # noqa: B018 - asserts that it ended well
    assert has_ended(int(pid.read_text()))


def test_imports_may_be_links(runner, written, tmp_path):
    text = written("text.txt", "hello")
    document = written("doc.cwl", READ)
    for options, links in ((("--link-imports",), 1), (("--no-link-imports",), 0), ((), 0)):
        store = tmp_path / f"store{options}"
        assert runner("--store", store, *options, document, "--file", text).result == {"n": "hello"}
        assert sum(blob.is_symlink() for blob in store.rglob("*")) == links


def test_no_output_is_half_written_under_its_name(runner, written, tmp_path):
    """The disk of the results is full: there is an error, and no file that looks like a result."""
    (folder := tmp_path / "results").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        document = written("doc.cwl", tool("head -c 1000000 /dev/zero", "{o: stdout}") + "stdout: big.bin\n")
        done = runner("--outdir", folder, document)
        left = [path.name for path in folder.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", folder], check=True)
    assert done.status == 1
    assert "No space left" in done.messages
    assert "big.bin" not in left
