"""Where ``toilfn wdl`` puts files: what is made beside an input, links, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.wdl.running import run


def wdl(folder, source, *words):
    (folder / "document.wdl").write_text(source)
    return run(["document.wdl", "--container", "none", *words], folder)


def values(done) -> dict:
    assert done.status == 0, done.stderr
    return json.loads(done.stdout)


def test_an_index_that_was_made_beside_its_file_stays_there(tmp_path):
    source = """\
version 1.1
task index {
  input { File f  String word }
  command <<< echo ~{word} > ~{f}.idx >>>
  output { File idx = "~{f}.idx" }
}
task check {
  input { File f  File idx  File other }
  command <<< [ ~{idx} = ~{f}.idx ] && cat ~{idx} ~{other} >>>
  output { Array[String] words = read_lines(stdout()) }
}
workflow w {
  input { File f }
  call index { input: f = f, word = "one" }
  call index as more { input: f = f, word = "two" }
  Array[File] both = [index.idx, more.idx]
  call check { input: f = f, idx = index.idx, other = both[1] }
  output { Array[String] words = flatten([check.words, [read_string(both[0]), read_string(both[1])]]) }
}
"""
    (tmp_path / "f.txt").write_text("content")
    source_alone = source.replace(", File other", "").replace("~{idx} = ~{f}.idx", "-e ~{f}")
    assert values(wdl(tmp_path, source_alone, "f=f.txt"))["w.words"] == ["one", "two", "one", "two"]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ('File x = "link"', "link is a symlink to /etc/passwd, which the command did not create"),
        ('Directory x = "d"', "d/link is a symlink to /etc/passwd, which the command did not create"),
        ('Directory x = "lost"', "lost/link is a symlink to "),
        ('Directory? x = "file"', "file is not a directory"),
        ('File x = "/etc/passwd"', "no such file or directory: /etc/passwd in the task's working directory"),
        ('Array[File] x = glob("../*")', "glob(): glob pattern '../*' points outside the working directory"),
        ('String x = read_string("none")', "read_string(): no such file or directory: none"),
    ],
)
def test_a_file_that_is_not_an_output_of_the_command(tmp_path, output, said):
    command = "ln -s /etc/passwd link; mkdir d lost; ln -s /etc/passwd d/link; ln -s none lost/link; touch file"
    done = wdl(tmp_path, f"version 1.2\ntask t {{\n  command <<< {command} >>>\n  output {{ {output} }}\n}}\n")
    assert done.status == 1
    assert "document.wdl:4:" in done.stderr
    assert said in done.stderr


def test_glob_matches_as_bash_does(tmp_path):
    source = """\
version 1.1
task t {
  command <<< touch b.bam a.bam a.bam.bai x1 >>>
  output {
    Array[File] pairs = glob("*.{bam,bam.bai}")
    Array[File] others = glob("[^ab]*")
    Array[File] digits = glob("x[[:digit:]]")
  }
}
"""
    found = values(wdl(tmp_path, source))
    names = {name: [Path(path).name for path in paths] for name, paths in found.items()}
    assert names == {"t.pairs": ["a.bam", "b.bam", "a.bam.bai"], "t.others": ["x1"], "t.digits": ["x1"]}


def test_variables_of_the_environment_are_texts_or_json(tmp_path):
    source = """\
version 1.2
struct Person { String name  Int age }
task t {
  input { env Person who  env Float weight  env String word  env Int? none }
  command <<< echo "$who $weight $word ${none-unset}" >>>
  output { String said = read_string(stdout()) }
}
"""
    given = {"t.who": {"name": "Ada", "age": 36}, "t.weight": 1.5, "t.word": "$HOME 'x'"}
    said = values(wdl(tmp_path, source, json.dumps(given)))["t.said"]
    assert said == """{"name": "Ada", "age": 36} 1.500000 $HOME 'x' unset"""


MOVED = """\
version 1.1
task t {
  command <<< echo content > out.txt >>>
  output { File out = "out.txt" }
}
"""


def test_outputs_are_moved_copied_or_stay_in_the_store(tmp_path):
    store = tmp_path / "store"

    def out(*words):
        return Path(values(wdl(tmp_path, MOVED, "--store", "store", *words))["t.out"])

    left = out("--leave-outputs")
    assert left.is_relative_to(store)
    moved = out("--move-outputs", "-o", "moved")
    assert moved == tmp_path / "moved" / "t.out" / "out.txt"
    assert left.is_symlink()
    assert left.samefile(moved)
    copied = out("--copy-outputs", "-o", "copied")
    assert not copied.samefile(moved)
    assert left.read_text() == moved.read_text() == copied.read_text() == "content\n"


CHAIN = """\
version 1.1
task make {
  input { String name }
  command <<< echo ~{name} > part.txt >>>
  output { File out = "part.txt" }
}
task join {
  input { Array[File] files  String edit = "" }
  command <<< cat ~{sep(" ", files)} > part.txt; echo ~{edit} >> part.txt >>>
  output { File out = "part.txt" }
}
workflow w {
  input { String edit = "" }
  scatter (name in ["a", "b"]) {
    call make { input: name }
    call join as more { input: files = [make.out] }
  }
  call join { input: files = more.out, edit }
  output { File out = join.out }
}
"""


def test_files_between_calls_go(tmp_path):
    for number, edit in enumerate(("", "x"), 1):
        words = ("--store", "store", "--intermediates", "drop", f"edit={edit}")
        assert Path(values(wdl(tmp_path, CHAIN, *words))["w.out"]).read_text() == f"a\n\nb\n\n{edit}\n"
        left = [path for path in (tmp_path / "store" / "blobs").rglob("*part.txt") if path.is_file()]
        assert len(left) == number


def test_files_that_a_command_writes_are_stored_without_a_copy(tmp_path):
    source = """\
version development
task make {
  command <<<
    echo one > one; mkdir d; echo two > d/two
    ln -s one linked; ln d/two other
    stat -c %i one > inodes
  >>>
  output {
    File one = "one"
    Directory d = "d"
    Array[File] again = [one, "linked", "other"]
    Array[String] inodes = read_lines("inodes")
    Array[String] words = [read_string(one), read_string("one"), read_string("linked"), read_string("d/two")]
  }
}
workflow w {
  call make
  output {
    File one = make.one
    Array[File] again = make.again
    Array[String] inodes = make.inodes
    Array[String] words = make.words
  }
}
"""
    found = values(wdl(tmp_path, source, "--store", "store", "--leave-outputs"))
    assert found["w.words"] == ["one", "one", "one", "two"]
    assert [Path(path).read_text() for path in found["w.again"]] == ["one\n", "one\n", "two\n"]
    assert Path(found["w.one"]).stat().st_ino == int(found["w.inodes"][0])


UNSTEADY = """\
version 1.1
task alter {
  input { String command_line }
  command <<< ~{command_line}; echo done >>>
  output { String out = read_string(stdout()) }
}
task read {
  input { File source  String after }
  command <<< cat ~{source} >>>
  output { String out = read_string(stdout()) }
}
workflow w {
  input { File source  String command_line }
  call alter { input: command_line }
  call read { input: source, after = alter.out }
  output { String out = read.out }
}
"""


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("rm {0}", "is gone"),
        ("echo CONTENT > {0}", "was changed after it was linked"),
        ("cp -p {0} {0}-2; mv {0}-2 {0}", "was replaced by another file"),
    ],
)
def test_a_linked_input_that_does_not_stay_is_named(tmp_path, command, told):
    source = tmp_path / "source"
    source.write_text("content\n")
    words = (f"source={source}", f"command_line={command.format(source)}")
    done = wdl(tmp_path, UNSTEADY, "--store", "store", "--link-imports", "--retries", "0", *words)
    assert done.status != 0
    assert re.search(rf"a link to {re.escape(str(source))}, which.*{told}", done.stderr)
