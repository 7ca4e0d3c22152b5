"""Options of ``toilfn wdl`` that other runners have, too."""

from __future__ import annotations

import io
import json
import zipfile

from tests.wdl.running import run, toilfn


def wdl(folder, *words, source):
    (folder / "document.wdl").write_text(source)
    return run(["document.wdl", *words, "--container", "none"], folder)


def values(done) -> dict:
    assert done.status == 0, done.stderr
    return json.loads(done.stdout)


def test_inputs_may_be_empty_or_nothing_and_come_from_standard_input(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO('{"t.s": "x", "t.xs": ["x"]}'))
    source = """\
version 1.1
task t {
  input { String s  Array[String] xs  Int? i = 3  Int j = 4 }
  command { }
  output { String all = "<~{s}> ~{length(xs)} ~{defined(i)} ~{j}" }
}
"""
    words = ("-i", "-", "--none", "i", "--none", "t.j", "--empty", "t.s", "--empty", "xs")
    assert values(wdl(tmp_path, *words, source=source)) == {"t.all": "<> 0 false 4"}
    assert "input j: Int? cannot be empty" in wdl(tmp_path, "s=x", "xs=y", "--empty", "j", source=source).stderr


def test_tasks_get_no_more_than_exists_and_defaults_for_requirements_that_they_do_not_name(tmp_path):
    source = f"""\
version 1.2
task t {{
  input {{ String word }}
  command <<< echo ~{{word}} >> {tmp_path}/ran; echo ~{{task.cpu}} ~{{task.memory}} >>>
  output {{ String s = read_string(stdout()) }}
  requirements {{ cpu: if word == "large" then 4000 else 1 }}
}}
workflow w {{
  call t as small {{ input: word = "small" }}
  call t as large {{ input: word = "large" }}
  output {{ String s = large.s }}
}}
"""
    assert "--runtime-cpu-max" in wdl(tmp_path, "--store", "run", source=source).stderr
    words = ("--store", "run", "--runtime-cpu-max", "1.5", "--runtime-memory-max", "300M")
    found = values(wdl(tmp_path, *words, "--runtime-defaults", '{"memory": "1 TB"}', source=source))
    assert found == {"w.s": "1.500000 300000000"}
    values(wdl(tmp_path, *words, source=source))
    assert (tmp_path / "ran").read_text() == "small\nlarge\n"
    done = wdl(tmp_path, "--runtime-defaults", '{"memory": "lots"}', source=source)
    assert (done.status, "'lots' is not a size" in done.stderr) == (2, True)


def test_options_of_other_runners_say_what_to_use_instead(tmp_path):
    source = "version 1.1\nworkflow w { output { Int x = 1 } }\n"
    for word, instead in [("--env=A=1", "--set-env NAME=VALUE"), ("--dir", "-o DIR"), ("-v", "--stream-logs")]:
        done = wdl(tmp_path, word, source=source)
        assert done.status == 2
        assert f"an option of another runner; instead use {instead}" in done.stderr
    assert run(["run", "document.wdl"], tmp_path).status == 0


def test_outputs_go_to_the_requested_place_also_when_the_run_is_resumed(tmp_path):
    source = f"""\
version 1.1
task t {{ command <<< cat {tmp_path}/late > made.txt >>> output {{ File made = "made.txt" }} }}
"""
    words = ("--store", "run", "-m", "out.json", "-o", "out", "--output-dialect", "miniwdl")
    assert wdl(tmp_path, *words, source=source).status == 1
    (tmp_path / "late").write_text("late")
    assert toilfn(["resume", "run", "--cluster", "inline"], tmp_path).status == 0
    told = json.loads((tmp_path / "out.json").read_text())
    assert told == {"outputs": {"t.made": f"{tmp_path}/out/t.made/made.txt"}, "dir": f"{tmp_path}/out"}
    assert (tmp_path / "out/t.made/made.txt").read_text() == "late"


def test_outputs_may_keep_the_layout_that_commands_made(tmp_path):
    source = """\
version 1.2
task t {
  input { String name  File given }
  command <<< mkdir -p deep/~{name}; touch ~{name}.bam deep/~{name}/x.bai deep/~{name}/y >>>
  output {
    File bam = "~{name}.bam"
    Directory made = "deep/~{name}"
    File bai = "deep/~{name}/x.bai"
    File same = given
  }
}
workflow w {
  input { Array[String] names  File given }
  scatter (name in names) { call t { input: name, given } }
  output {
    Array[File] bams = t.bam
    Array[Directory] made = t.made
    Array[File] bais = t.bai
    Array[File] same = t.same
  }
}
"""
    (tmp_path / "given.txt").touch()
    words = ("--use-relative-output-paths", "-o", "out", "given=given.txt")
    found = values(wdl(tmp_path, *words, "names=a", "names=b", source=source))
    assert found["w.bams"] == [f"{tmp_path}/out/{name}.bam" for name in "ab"]
    assert found["w.same"] == [f"{tmp_path}/out/given.txt"] * 2
    made = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert made == ["a.bam", "b.bam", "deep/a/x.bai", "deep/a/y", "deep/b/x.bai", "deep/b/y", "given.txt"]
    done = wdl(tmp_path, *words, "names=a", "names=a", source=source)
    assert done.status == 1
    assert "w.bams/0 and w.bams/1 are both a.bam" in done.stderr


ARCHIVE = {
    "MANIFEST.json": '{"mainWorkflowURL": "flow.wdl", "inputFileURLs": ["in.json"]}',
    "in.json": '{"w.who": "Ada"}',
    "flow.wdl": """\
version 1.2
import "parts/inner.wdl"
workflow w {
  input { String who  String greeting = "Hello" }
  call inner.greet { input: who, greeting }
  output { String s = greet.s }
}
""",
    "parts/inner.wdl": """\
version 1.2
task greet {
  input { String who  String greeting  File mark = "mark.txt" }
  command <<< echo ~{greeting} ~{who}$(cat ~{mark}) >>>
  output { String s = read_string(stdout()) }
}
""",
    "parts/mark.txt": "!",
}


def test_archives_are_documents(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "flow.zip", "w") as archive:
        for name, text in ARCHIVE.items():
            archive.writestr(name, text)
    options = ("--container", "none")
    assert values(run(["flow.zip", *options], tmp_path)) == {"w.s": "Hello Ada!"}
    with zipfile.ZipFile(tmp_path / "flow.zip") as archive:
        archive.extractall(tmp_path / "folder")
    assert values(run(["folder", "who=Bob", *options], tmp_path)) == {"w.s": "Hello Bob!"}
    assert values(run(["inputs", "flow.zip", "--required"], tmp_path)) == {"w.who": "String"}
    (tmp_path / "flow.zip").write_text("no archive")
    assert "flow.zip is not a valid archive: " in run(["flow.zip", *options], tmp_path).stderr
    (tmp_path / "folder/MANIFEST.json").write_text("{}")
    assert "does not name the main document as mainWorkflowURL" in run(["folder", *options], tmp_path).stderr
