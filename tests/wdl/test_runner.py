"""``toilfn wdl``: its options, and what it says when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.wdl.running import run, served, toilfn

HELLO = """\
version 1.0
task greet {
  input { String name  File? letter  Int times = 1 }
  command <<< for i in $(seq ~{times}); do echo "Hello, ~{name}"; done; cat ~{letter} >&2 >>>
  output { File message = stdout()  String text = read_string(stdout())  Array[File] extra = glob("*.none") }
}
workflow hello {
  input { Array[String] names = ["Ada"]  File? letter  Int limit = 3 }
  scatter (name in names) {
    call greet { input: name = name, letter = letter }
    String loud = greet.text + "!"
    call greet as again { input: name = loud }
  }
  if (length(names) > 1) { String several = loud[1] }
  output { Array[String] texts = again.text  Array[File] messages = greet.message  String? second = several }
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hello.wdl").write_text(HELLO)
    return tmp_path


def wdl(folder: Path, *words: str, source: str | None = None):
    if source is not None:
        (folder / "document.wdl").write_text(source)
        words = ("document.wdl", *words)
    return run([*words, "--container", "none"], folder)


def values(done) -> dict:
    assert done.status == 0, done.stderr
    return json.loads(done.stdout)


def task_with(inputs: str = "", command: str = "true", output: str = "", more: str = "", version: str = "1.1") -> str:
    return (
        f"version {version}\ntask t {{\n  input {{ {inputs} }}\n  command <<<\n{command}\n  >>>\n"
        f"  output {{ {output} }}\n  {more}\n}}\n"
    )


def test_a_dry_run_says_what_would_run_and_writes_nothing(folder):
    words = ("hello.wdl", "names=Ada", "--store", "store")
    dry = wdl(folder, *words, "--dry-run")
    assert dry.status == 3, dry.stderr
    assert "would run: " in dry.stdout
    assert [path.name for path in folder.iterdir()] == ["hello.wdl"]
    values(wdl(folder, *words))
    dry = wdl(folder, *words, "--dry-run", "--json")
    assert dry.status == 0, dry.stderr
    assert json.loads(dry.stdout)["reused"]["greet"] == 2
    assert wdl(folder, "hello.wdl", "names=Bob", "--store", "store", "--dry-run").status == 3
    refused = wdl(folder, *words, "--json")
    assert (refused.status, "--json needs --dry-run" in refused.stderr) == (2, True)


def test_outputs_are_printed_with_the_paths_of_their_files(folder):
    found = values(wdl(folder, "hello.wdl", "names=Ada", "names=Bob"))
    assert found["hello.texts"] == ["Hello, Hello, Ada!", "Hello, Hello, Bob!"]
    assert found["hello.second"] == "Hello, Bob!"
    assert [Path(path).read_text() for path in found["hello.messages"]] == ["Hello, Ada\n", "Hello, Bob\n"]
    assert all(Path(path).is_relative_to(folder / "wdl-out") for path in found["hello.messages"])


def test_inputs_come_from_files_text_and_arguments_and_later_ones_win(folder):
    (folder / "in.json").write_text('{"hello.names": ["A"], "hello.letter": "letter.txt"}')
    (folder / "letter.txt").write_text("dear")
    assert values(wdl(folder, "hello.wdl", "in.json"))["hello.texts"] == ["Hello, Hello, A!"]
    words = ("-i", "in.json", "-i", '{"hello.names": ["B"]}')
    assert values(wdl(folder, "hello.wdl", *words))["hello.texts"] == ["Hello, Hello, B!"]
    assert values(wdl(folder, "hello.wdl", *words, "names=C"))["hello.texts"] == ["Hello, Hello, C!"]


def test_inputs_of_calls_may_be_given_from_outside(folder):
    found = values(wdl(folder, "hello.wdl", "hello.greet.times=2", "--output-dialect", "miniwdl", "-o", "there"))
    assert found["dir"] == str(folder / "there")
    assert found["outputs"]["hello.texts"] == ["Hello, Hello, Ada\nHello, Ada!"]


def test_runtime_attributes_of_a_call_may_be_given_from_outside(folder):
    source = """\
version 1.1
task t { command { exit 3 } output { Boolean ok = true } runtime { returnCodes: 0 } }
workflow w { if (true) { call t } }
"""
    assert wdl(folder, source=source).status == 1
    assert values(wdl(folder, '{"w.t.runtime.returnCodes": [0, 3]}', source=source)) == {"w.t.ok": True}


def test_numbers_and_booleans_are_accepted_for_texts(folder):
    source = task_with(
        inputs="String s  Array[String] many  Map[String, String] map  Pair[String, Int] pair",
        output='Array[String] out = flatten([[s], many, [map["k"], pair.left]])',
    )
    given = {"t.s": 1, "t.many": [2.5, True, "x"], "t.map": {"k": 3}, "t.pair": {"left": 4, "right": 5}}
    assert values(wdl(folder, json.dumps(given), source=source)) == {"t.out": ["1", "2.5", "true", "x", "3", "4"]}


def test_a_task_may_be_run_alone(folder):
    found = values(wdl(folder, "hello.wdl", "--task", "greet", "name=x"))
    assert found["greet.text"] == "Hello, x"


def test_outputs_of_all_calls_are_kept_on_demand(folder):
    found = values(wdl(folder, "hello.wdl", "--all-call-outputs"))
    assert found["hello.again.text"] == found["hello.texts"]


def test_outputs_of_calls_in_sections_are_kept_though_nothing_uses_them(folder):
    source = """\
version 1.1
task t { input { Int i } command { echo ~{i} } output { Int j = read_int(stdout()) } }
workflow w {
  call t as first { input: i = 1 }
  scatter (n in [1, 2]) {
    call t as in_scatter { input: i = n }
    if (n > 1) { call t as in_both { input: i = in_scatter.j * 10 } }
  }
  if (first.j == 1) { call t as in_waiting { input: i = 5 } }
  if (false) { call t as never { input: i = 5 } }
  output { Int one = first.j }
}
"""
    assert values(wdl(folder, "--all-call-outputs", source=source)) == {
        "w.one": 1, "w.first.j": 1, "w.in_scatter.j": [1, 2], "w.in_both.j": [None, 20], "w.in_waiting.j": 5,
    }  # fmt: skip
    assert values(wdl(folder, source=source)) == {"w.one": 1}


def test_a_template_of_inputs_names_types_and_defaults(folder):
    template = values(run(["inputs", "hello.wdl"], folder))
    assert template["hello.names"] == 'Array[String] (optional, default = ["Ada"])'
    assert template["hello.letter"] == "File? (optional)"


def test_check_reports_doubtful_code(folder):
    done = run(["check", "hello.wdl"], folder)
    assert done.status == 0
    assert f"{folder}/hello.wdl:8:" in done.stdout
    assert "UnusedDeclaration" in done.stdout
    assert run(["check", "hello.wdl", "--strict"], folder).status == 2
    kinds = {line.rpartition("(")[2].rstrip(")") for line in done.stdout.splitlines()}
    assert run(["check", "hello.wdl", "--strict", "--suppress", ",".join(kinds)], folder) == (0, "", "")


def test_check_outlives_the_linter(folder):
    source = "version 1.0\nstruct S { Int n }\nworkflow w { S s = object { n: 1, other: 2 } output { Int n = s.n } }\n"
    (folder / "document.wdl").write_text(source)
    done = run(["check", "document.wdl"], folder)
    assert (done.status, done.stderr) == (0, "")
    assert "miniwdl's linter fails: KeyError: 'other'" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("hello.wdl", "nmaes=x"), "hello.wdl:7:1: hello has no input 'nmaes'; did you mean 'names'?"),
        (("hello.wdl", "limit=many"), "input limit: 'many' is not a valid Int"),
        (("hello.wdl", '{"hello.limit": "many"}'), 'hello.wdl:8:56: input hello.limit cannot be "many"'),
        (("hello.wdl", "letter=lost.txt"), "hello.wdl:8:42: input hello.letter: file not found"),
        (("hello.wdl", "--task", "greet"), "hello.wdl:3:11: greet needs the input greet.name of type String"),
        (("hello.wdl", "--task", "great"), "hello.wdl has no task or workflow 'great'; it has hello, greet"),
        (
            ("hello.wdl", "greet.runtime.memory=lots"),
            "hello.greet.runtime.memory cannot be \"lots\": 'lots' is not",
        ),
        (("hello.wdl", "greet.runtime.cpu=many"), 'input hello.greet.runtime.cpu cannot be "many"'),
        (
            ("hello.wdl", "greet.requirements.containr=x"),
            "unknown requirement 'containr'; did you mean 'container'?",
        ),
        (("hello.wdl", "meet.runtime.cpu=2"), "hello has no input 'meet.runtime.cpu'"),
        (("hello.wdl", "letter=."), " is a directory, not a File"),
        (("none.wdl",), "WDL document not found: none.wdl"),
        (("hello.wdl", "none.json"), "input file not found: none.json"),
    ],
)
def test_wrong_inputs_are_reported_in_one_line_before_anything_runs(folder, words, said):
    done = wdl(folder, *words)
    assert done.status == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("version 1.0\nworkflow w {\n  Int x = 1 + true\n}\n", "document.wdl:3:"),
        ("version 1.0\nworkflow w {\n  Int x = \n}\n", "document.wdl:4:1:"),
        ("version 1.0\nworkflow w {\n  call missing\n}\n", "document.wdl:3:3: No such task/workflow: missing"),
        ('version 1.0\nimport "lost.wdl" as l\nworkflow w { }\n', "document.wdl:2:1:"),
        ("version 1.1\nworkflow w { output { Array[String] a = [[1], \"b\"] } }\n", "document.wdl:2:"),
        (task_with(output="Int x = task.nothing.more", version="1.2"), "document.wdl:7:20: No such member 'nothing'"),
        ("version 7.0\n", "document.wdl:1:1: WDL 7.0 is not supported; supported versions are 1.0, 1.1"),
    ],
)  # fmt: skip
def test_a_wrong_document_is_reported_with_line_and_column(folder, source, said):
    done = wdl(folder, source=source)
    assert done.status == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (task_with(command="exit 3"), "document.wdl:4:11: the command of task t ended with exit status 3"),
        (task_with(command="echo broken >&2; exit 3"), "broken"),
        (task_with(command="kill -15 $$"), "ended with exit status 143, and wrote nothing"),
        (task_with(command="exit 137"), "status 137, most likely killed because it used more than 2 GiB of memory"),
        (task_with(output='File f = "none.txt"'), "document.wdl:7:12: no such file or directory: none.txt"),
        (task_with(output="Int i = read_int(stdout())"), "document.wdl:7:20:"),
        (task_with(more='runtime { inlineDockerfile: "FROM x" }'), "inlineDockerfile is not supported"),
        (task_with(more='runtime { memory: "lots" }'), "runtime of task t: 'lots' is not a size"),
        (task_with(more="runtime { cpu: 4200 }"), "task t: requests 4200 cores, "),
    ],
)  # fmt: skip
def test_a_failing_task_is_reported_with_its_place_and_without_a_traceback(folder, source, said):
    done = wdl(folder, source=source)
    assert done.status == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_statuses_other_than_zero_may_be_success(folder):
    source = task_with(command="exit 3", output="Boolean ok = true", more="runtime { returnCodes: [0, 3] }")
    assert values(wdl(folder, source=source)) == {"t.ok": True}
    anything = task_with(command="exit 7", output="Boolean ok = true", more='runtime { returnCodes: "*" }')
    assert values(wdl(folder, source=anything)) == {"t.ok": True}


def test_attributes_of_cromwell_define_success(folder):
    any_status = task_with(command="exit 7", output="Boolean ok = true", more="runtime { continueOnReturnCode: true }")
    assert values(wdl(folder, source=any_status)) == {"t.ok": True}
    some = task_with(command="exit 7", output="Boolean ok = true", more="runtime { continueOnReturnCode: [0, 7] }")
    assert values(wdl(folder, source=some)) == {"t.ok": True}
    loud = task_with(command="echo oops >&2", more="runtime { failOnStderr: true }")
    done = wdl(folder, source=loud)
    assert done.status == 1
    assert "wrote to standard error, which failOnStderr forbids: oops" in done.stderr


def test_a_command_has_a_directory_for_temporary_files(folder):
    source = task_with(command="echo x > $TMPDIR/a && cat $TMPDIR/a", output="String s = read_string(stdout())")
    assert values(wdl(folder, source=source)) == {"t.s": "x"}


def test_a_call_waits_for_all_that_a_scatter_made_of_another_one(folder):
    source = """\
version 1.1
task add { input { Int i } command { sleep 0.2; echo ~{i} >> PLACE } output { Boolean ok = true } }
task show { command { sort PLACE } output { Array[Int] found = read_lines(stdout()) } }
workflow w {
  scatter (i in range(2)) {
    if (i < 5) { call add { input: i = i } }
    scatter (j in [10]) { call add as more { input: i = i + j } }
  }
  call show after add after more
  output { Array[Int] found = show.found }
}
"""
    (folder / "document.wdl").write_text(source.replace("PLACE", str(folder / "shared.txt")))
    done = run(["document.wdl", "--container", "none", "--workers", "4"], folder, inline=False)
    assert values(done) == {"w.found": [0, 1, 10, 11]}


def test_objects_of_draft_2(folder):
    source = """\
workflow w {
  Object made = object { a: 1, b: "x" }
  call t { input: given = made, n = made.a }
  output { Object read = t.read  String c = t.read.c }
}
task t {
  Object given
  Int n
  command { printf "b\\tc\\n${given.b}\\t${n}\\n" }
  output { Object read = read_object(stdout()) }
}
"""
    assert values(wdl(folder, source=source)) == {"w.read": {"b": "x", "c": "1"}, "w.c": "1"}


def test_a_workflow_without_outputs_may_be_called_and_gives_those_of_its_calls(folder):
    task = "task t { command { echo hi } output { String s = read_string(stdout()) } }"
    (folder / "inner.wdl").write_text(f"version 1.0\n{task}\nworkflow i {{ call t }}\n")
    source = 'version 1.0\nimport "inner.wdl"\nworkflow w { call inner.i  output { String s = i.t.s } }\n'
    assert values(wdl(folder, source=source)) == {"w.s": "hi"}


def test_a_missing_output_may_be_none(folder):
    found = values(
        wdl(folder, source=task_with(output='File? f = "none.txt"  Array[File?] g = ["a", "b"]', command="touch b"))
    )
    assert found["t.f"] is None
    assert found["t.g"][0] is None
    assert Path(found["t.g"][1]).name == "b"


def test_a_missing_file_in_an_array_is_no_output(folder):
    done = wdl(folder, source=task_with(output='Array[File] g = ["a", "b"]', command="touch b"))
    assert done.status == 1
    assert "document.wdl:7:12: no such file or directory: a" in done.stderr


def test_a_workflow_may_name_files_that_are_not_there(folder):
    source = """\
version 1.1
workflow w {
  Map[File, Int] numbers = {"/no/a": 1, "/no/b": 2}
  output { Int b = numbers["/no/b"]  String name = basename("/no/b") }
}
"""
    assert values(wdl(folder, source=source)) == {"w.b": 2, "w.name": "b"}


def test_a_task_finds_files_beside_its_document_and_may_name_others(folder):
    (folder / "beside.txt").write_text("beside")
    (folder / "elsewhere").mkdir()
    source = """\
version 1.2
task t {
  input { File given = "beside.txt" }
  File own = join_paths("sub", ["..", "beside.txt"])
  File nowhere = "sub/nowhere.txt"
  String read = read_string("beside.txt")
  command <<< cat ~{given} ~{own}; echo " ~{read} ~{nowhere}" >>>
  output { String s = read_string(stdout())  File? made = "beside.txt" }
}
"""
    (folder / "document.wdl").write_text(source)
    found = values(wdl(folder / "elsewhere", "../document.wdl"))
    assert found == {"t.s": "besidebeside beside sub/nowhere.txt", "t.made": None}


def test_a_link_to_an_input_is_an_output_of_its_own_name(folder):
    (folder / "input.txt").write_text("content")
    command = "ln -s ~{file} link.txt; mkdir tree; ln -s ~{file} tree/deep.txt"
    source = task_with("File file", command, 'File out = "link.txt"  Array[File] found = glob("tree/*")')
    found = values(wdl(folder, "file=input.txt", source=source))
    assert [Path(place).name for place in (found["t.out"], *found["t.found"])] == ["link.txt", "deep.txt"]
    assert Path(found["t.out"]).read_text() == "content"


def test_objects_are_written_as_tables_and_have_members(folder):
    source = """\
version 1.0
workflow w {
  Object o = object { a: 1, b: "x" }
  output {
    Array[Array[String]] one = read_tsv(write_object(o))
    Array[Array[String]] more = read_tsv(write_objects([o, o]))
    String b = o.b
    Object same = o
  }
}
"""
    found = values(wdl(folder, source=source))
    assert found["w.one"] == [["a", "b"], ["1", "x"]]
    assert found["w.more"] == [["a", "b"], ["1", "x"], ["1", "x"]]
    assert (found["w.b"], found["w.same"]) == ("x", {"a": 1, "b": "x"})


def test_json_has_texts_for_keys(folder):
    source = 'version 1.1\nworkflow w { File f = write_json({2: "two"}) }\n'
    done = wdl(folder, source=source)
    assert done.status == 1
    assert "document.wdl:2:23: write_json(): a Map[Int,String] has keys that JSON cannot have" in done.stderr


def test_a_task_is_retried_as_often_as_it_asks(folder):
    counter = folder / "count"
    command = f"echo x >> {counter}; [ $(wc -l < {counter}) = 3 ]"
    done = wdl(folder, "--retry-backoff", "0", source=task_with(command=command, more="runtime { maxRetries: 2 }"))
    assert done.status == 0
    assert counter.read_text() == "x\n" * 3


def test_the_variable_task_of_1_2(folder):
    source = task_with(
        command="echo ~{task.name} ~{task.attempt} ~{task.cpu}; exit 4",
        output="String s = read_string(stdout())  Int? code = task.return_code",
        more="requirements { cpu: 1 return_codes: 4 }", version="1.2",
    )  # fmt: skip
    assert values(wdl(folder, source=source)) == {"t.s": "t 0 1.000000", "t.code": 4}


def test_imports_by_url_and_from_a_registry(folder, monkeypatch):
    inner = task_with(output='String s = "far"')
    outer = 'version 1.1\nimport "inner.wdl" as i\nworkflow w { call i.t output { String s = t.s } }\n'
    pages = {"flows/outer.wdl": outer, "flows/inner.wdl": inner}
    with served(pages) as url:
        assert values(wdl(folder, f"{url}/flows/outer.wdl")) == {"w.s": "far"}
        tool = "ga4gh/trs/v2/tools/%23workflow%2Fgithub.com%2Fsome%2Fflow/versions/v1.0/WDL/descriptor"
        pages[tool] = json.dumps({"type": "WDL", "url": f"{url}/flows/outer.wdl", "descriptor": outer})
        monkeypatch.setenv("TOILFN_TRS_SERVER", url)
        assert values(wdl(folder, "github.com/some/flow:v1.0")) == {"w.s": "far"}


def test_finished_calls_are_found_by_other_runs(folder):
    counter = folder / "count"
    source = task_with(inputs="File f", command=f"echo x >> {counter}; cat ~{{f}} > copy", output='File c = "copy"')
    (folder / "a.txt").write_text("content")
    words = ("f=a.txt", "--call-cache", "cache")
    first = values(wdl(folder, *words, source=source))
    second = values(wdl(folder, *words, "-o", "again", source=source))
    assert Path(first["t.c"]).read_text() == Path(second["t.c"]).read_text() == "content"
    assert counter.read_text() == "x\n"
    values(wdl(folder, *words, "--no-cache", source=source))
    (folder / "a.txt").write_text("other")
    assert Path(values(wdl(folder, *words, source=source))["t.c"]).read_text() == "other"
    assert counter.read_text() == "x\n" * 3


def edited_flow(folder):
    return f"""\
version 1.0
task first {{ command {{ echo first >> {folder}/ran; echo 1 }} output {{ Int i = read_int(stdout()) }} }}
task second {{
  input {{ Int i }}
  command {{ echo second >> {folder}/ran; echo ~{{i + 1}} }}
  output {{ Int j = read_int(stdout()) }}
}}
workflow w {{ call first call second {{ input: i = first.i }} output {{ Int j = second.j }} }}
"""


def test_a_named_store_reuses_finished_calls_even_after_another_task_was_edited(folder):
    source = edited_flow(folder)
    assert values(wdl(folder, "--store", "run", source=source)) == {"w.j": 2}
    assert values(wdl(folder, "--store", "run", source=source)) == {"w.j": 2}
    assert (folder / "ran").read_text() == "first\nsecond\n"
    assert values(wdl(folder, "--store", "run", source=source.replace("i + 1", "i + 2"))) == {"w.j": 3}
    assert (folder / "ran").read_text() == "first\nsecond\nsecond\n"
    assert values(wdl(folder, "--store", "run", source=source.replace("= second.j", "= second.j + 5"))) == {"w.j": 7}
    assert (folder / "ran").read_text() == "first\nsecond\nsecond\n"


def test_other_inputs_run_only_the_calls_that_they_reach(folder):
    source = f"""\
version 1.0
task say {{
  input {{ String word  File? letter }}
  command {{ echo ~{{word}} >> {folder}/ran; echo ~{{word}}; cat ~{{letter}} }}
  output {{ String said = read_string(stdout()) }}
}}
workflow inner {{ input {{ String word }} call say {{ input: word = word }} output {{ String said = say.said }} }}
"""
    (folder / "inner.wdl").write_text(source)
    outer = """\
version 1.0
import "inner.wdl" as lib
workflow w {
  input { File letter  String word }
  call lib.inner { input: word = "fixed" }
  call lib.say as first { input: word = "first" }
  call lib.say as second { input: word = "~{first.said}-second" }
  call lib.say as third { input: word = word }
  call lib.say as fourth { input: word = "fourth", letter = letter }
  scatter (item in ["x", word]) { call lib.say as each { input: word = "each-~{item}" } }
  output { Array[String] said = flatten([[inner.said, second.said, third.said, fourth.said], each.said]) }
}
"""
    (folder / "letter.txt").write_text("dear")
    words = ("--store", "run", "letter=letter.txt")
    values(wdl(folder, *words, "word=a", source=outer))
    found = values(wdl(folder, *words, "word=b", source=outer))
    assert found["w.said"] == ["fixed", "first-second", "b", "fourth\ndear", "each-x", "each-b"]
    ran = sorted((folder / "ran").read_text().split())
    assert ran == sorted(["fixed", "first", "first-second", "a", "fourth", "each-x", "each-a", "b", "each-b"])
    (folder / "letter.txt").write_text("other")
    values(wdl(folder, *words, "word=b", source=outer))
    assert sorted((folder / "ran").read_text().split()) == sorted([*ran, "fourth"])


def test_explain_says_which_task_was_edited(folder):
    source = edited_flow(folder)
    values(wdl(folder, "--store", "run", source=source))
    values(wdl(folder, "--store", "run", source=source.replace("i + 1", "i + 2")))
    assert "was reused" in toilfn(["explain", "run", "first"], folder).stdout
    explained = toilfn(["explain", "run", "second"], folder).stdout
    assert "was run at" in explained
    assert "the pinned version of second: " in explained


def test_a_failed_task_runs_again_after_an_edit_elsewhere(folder):
    source = edited_flow(folder).replace("echo ~{i + 1}", f"cat {folder}/number")
    assert wdl(folder, "--store", "run", source=source).status == 1
    (folder / "number").write_text("4")
    edited = source.replace("= second.j", "= second.j + 1")
    assert values(wdl(folder, "--store", "run", source=edited)) == {"w.j": 5}
    assert (folder / "ran").read_text() == "first\nsecond\nsecond\n"


def test_inputs_are_links_only_on_demand(folder):
    (folder / "a.txt").write_text("content")
    source = task_with(inputs="File f", output="String s = read_string(f)")
    assert values(wdl(folder, "f=a.txt", "--reference-inputs", source=source)) == {"t.s": "content"}


def test_commands_may_change_copies_of_their_inputs(folder):
    (folder / "a.txt").write_text("content")
    source = task_with(inputs="File f", command="echo more >> ~{f}", output="String s = read_string(f)")
    assert values(wdl(folder, "f=a.txt", "--copy-input-files", source=source)) == {"t.s": "contentmore"}
    assert (folder / "a.txt").read_text() == "content"


def test_a_placeholder_is_empty_where_none_in_it_is_an_error(folder):
    """1.2, "Expression Placeholder Coercion"."""
    source = task_with(
        inputs="String? x  Array[String?] xs = [None]",
        command='echo "[~{select_first([x])}~{select_first(xs)}]"',
        output='String s = read_string(stdout())  String t = "<~{select_first([x])}>"',
        version="1.2",
    )
    assert values(wdl(folder, source=source)) == {"t.s": "[]", "t.t": "<>"}
    assert "select_first()" in wdl(folder, source=source.replace("version 1.2", "version 1.1")).stderr


@pytest.mark.parametrize("expression", ['read_int("lost")', "[1, 2][5]", "1 / 0"])
def test_other_errors_in_placeholders_are_errors(folder, expression):
    done = wdl(folder, source=task_with(command=f"echo ~{{{expression}}}", version="1.2"))
    assert done.status == 1
    assert "document.wdl:5:" in done.stderr


UNION = """\
version {version}
task t {{
  command <<< echo '~{{sep=", " read_json(write_json([1, 2]))}} ~{{true="y" false="n" read_json(write_json(true))}}' >>>
  output {{ String said = read_string(stdout()) }}
}}
"""


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_options_of_placeholders_fit_what_was_read(folder, version):
    assert values(wdl(folder, source=UNION.format(version=version)))["t.said"] == "1, 2 y"
    for options, given, said in [
        ("sep=','", "1", "the option sep needs an Array, not Int"),
        ("true='y' false='n'", "[1]", "the options true and false need a Boolean"),
        ("", "[1]", "needs the option sep"),
    ]:
        source = f'version {version}\nworkflow w {{ String s = "~{{{options} read_json(write_json({given}))}}" }}\n'
        done = wdl(folder, source=source)
        assert done.status == 1
        assert "document.wdl:2:" in done.stderr
        assert said in done.stderr


def test_a_call_may_have_the_name_of_its_workflow(folder):
    (folder / "inner.wdl").write_text("version 1.1\nworkflow w { input { Int x } output { Int y = x + 1 } }\n")
    source = 'version 1.1\nimport "inner.wdl"\nworkflow w { call inner.w { input: x = 1 } output { Int z = w.y } }\n'
    assert values(wdl(folder, source=source)) == {"w.z": 2}


def test_a_file_beside_a_document_is_the_same_under_its_relative_name(folder):
    (folder / "beside.txt").touch()
    source = """\
version 1.2
task t {
  File own = "beside.txt"
  Map[File, Int] map = {"beside.txt": 1}
  Int found = map["beside.txt"]
  Array[Boolean] same = [own == "beside.txt", contains([own], "beside.txt"), contains_key(map, "beside.txt")]
  command <<< >>>
  output { Int one = found  Array[Boolean] all = same }
}
"""
    assert values(wdl(folder, source=source)) == {"t.one": 1, "t.all": [True] * 3}


def test_a_workflow_may_refuse_inputs_of_its_calls(folder):
    source = """\
version 1.1
task t { input { Int x = 1 } command <<< >>> output { Int y = x } }
workflow w { call t  meta { allowNestedInputs: ALLOWED } }
"""
    assert values(wdl(folder, "w.t.x=2", source=source.replace("ALLOWED", "true"))) == {"w.t.y": 2}
    done = wdl(folder, "w.t.x=2", "w.t.runtime.cpu=1", source=source.replace("ALLOWED", "false"))
    assert done.status == 2
    assert "document.wdl:3:48: w does not allow inputs of its calls, such as t.x" in done.stderr
