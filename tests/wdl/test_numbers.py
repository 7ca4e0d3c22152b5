"""Numbers, texts and members as the specification has them."""

from __future__ import annotations

import json

import psutil
import pytest

from tests.wdl.running import run, served


def evaluated(folder, kind: str, expression: str, version: str = "1.1"):
    (folder / "doc.wdl").write_text(f"version {version}\nworkflow w {{ output {{ {kind} x = {expression} }} }}\n")
    return run(["doc.wdl"], folder)


@pytest.mark.parametrize(
    ("kind", "expression", "value"),
    [
        ("Int", "round(-2.5)", -2), ("Int", "round(2.5)", 3), ("Int", "round(-2.51)", -3), ("Int", "round(-0.5)", 0),
        ("Int", "round(0.49999999999999994)", 0), ("Int", "round(4503599627370497.0)", 4503599627370497),
        ("Int", "-7 / 2", -3), ("Int", "7 / -2", -3), ("Int", "-7 % 2", -1), ("Int", "7 % -2", 1),
        ("Int", "010 + 0x10", 24), ("Int", "-010 + 0", -8), ("Int", "0", 0),
        ("String", "read_string(write_lines(['a', '\\r', '']))", "a"),
        ("String", "read_string(write_lines(['', 'a b']))", "\na b"),
        ("Int", "-8 / 2", -4), ("Float", "-7 / 2.0", -3.5),
        ("Int", "9223372036854775806 + 1", 2**63 - 1), ("Int", "-9223372036854775808", -(2**63)),
        ("String", "'~{0.1 + 0.2}'", "0.300000"), ("String", "'a' + 1.0", "a1.000000"),
    ],
)  # fmt: skip
def test_numbers_are_those_of_the_specification(tmp_path, kind, expression, value):
    done = evaluated(tmp_path, kind, expression)
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout) == {"w.x": value}


@pytest.mark.parametrize(
    ("kind", "expression", "words"),
    [
        ("Int", "9223372036854775807 + 1", "64 bits"), ("Int", "9223372036854775807 * 2", "64 bits"),
        ("Int", "floor(1e300)", "64 bits"), ("Float", "1e308 * 10.0", "finite"), ("Int", "1 / 0", "zero"),
        ("Float", "1.0 / 0.0", "zero"), ("Int", "1 % 0", "zero"),
        ("Int", "read_int(write_lines(['1_000']))", "not a number"),
        ("Float", "read_float(write_lines(['nan']))", "not a number"), ("Int", "08", "octal"),
        ("Float", "read_float(write_lines(['1e400']))", "does not fit"), ("Float", "1e400", "fit"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_an_error(tmp_path, kind, expression, words):
    done = evaluated(tmp_path, kind, expression)
    assert done.status != 0
    assert words in done.stderr


STRUCT = """\
version 1.1
struct In { Int? mem_gb }
struct S { Int? mem_gb  String name  In? inner }
workflow w { input { S s  Array[S] more = []  Int n = 1  Boolean b = true  Float f = 1 } output { String o = s.name } }
"""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"s": {"name": "a", "mem_gbb": 9}}, "did you mean 'mem_gb'"),
        ({"s": {"name": "a", "inner": {"mem": 9}}}, "'mem'"),
        ({"s": {"name": "a"}, "more": [{"name": "b"}, {"name": "c", "mem_gbb": 9}]}, "'mem_gbb'"),
        ({"s": {"name": "a"}, "n": True}, "w.n"),
        ({"s": {"name": "a"}, "b": 1}, "w.b"),
        ({"s": {"name": "a"}, "f": True}, "w.f"),
        ({"s": {"name": "a"}, "n": 2**63}, "w.n"),
    ],
)
def test_inputs_that_python_would_take_are_refused(tmp_path, given, words):
    (tmp_path / "doc.wdl").write_text(STRUCT)
    done = run(["doc.wdl", "-i", json.dumps({f"w.{name}": value for name, value in given.items()})], tmp_path)
    assert done.status == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    "value", ["object { name: 'a', mem_gbb: 1 }", "read_json('s.json')", "{ 'name': 'a', 'mem_gbb': '1' }"]
)
def test_an_object_or_map_with_members_that_a_struct_lacks_is_refused(tmp_path, value):
    (tmp_path / "s.json").write_text('{"name": "a", "mem_gbb": 1}')
    (tmp_path / "doc.wdl").write_text(
        f"version 1.1\nstruct S {{ String name }}\nworkflow w {{ output {{ S s = {value} }} }}\n"
    )
    done = run(["doc.wdl"], tmp_path)
    assert done.status != 0
    assert "mem_gbb" in done.stderr


def test_a_value_of_an_argument_may_be_a_url(tmp_path):
    (tmp_path / "a b.txt").write_text("hi\n")
    (tmp_path / "doc.wdl").write_text(
        "version 1.1\nworkflow w { input { File f  String s  Array[String] a }"
        " output { String o = read_string(f) + s + a[1] } }\n"
    )
    words = [f"f=file://{tmp_path}/a%20b.txt", "s=https://example.org/?a=b", "a=x://1", "a=x://2"]
    done = run(["doc.wdl", *words], tmp_path)
    assert json.loads(done.stdout) == {"w.o": "hihttps://example.org/?a=bx://2"}


def test_a_default_that_nobody_reads_is_not_looked_for(tmp_path):
    (tmp_path / "doc.wdl").write_text(
        'version 1.1\nworkflow w { input { File f = "http://127.0.0.1:9/none.txt" } output { Int n = 1 } }\n'
    )
    done = run(["doc.wdl"], tmp_path)
    assert json.loads(done.stdout) == {"w.n": 1}


_FAR = "http://127.0.0.1:9/none.txt"


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (f'input {{ File f = "{_FAR}" }} command <<< echo 1 >>>', []),
        (f'input {{ Array[File] f = ["{_FAR}"] }} command <<< echo 1 >>>', []),
        (f'input {{ Boolean b = true }} File f = "{_FAR}" command <<< echo 1 >>>', []),
        (f'input {{ File f = "{_FAR}" }} command <<< cat ~{{f}} >>>', ["f=one.txt"]),
    ],
)
def test_a_missing_file_that_is_a_tasks_default_is_ignored_if_no_one_reads_it(tmp_path, declared, words):
    (tmp_path / "one.txt").write_text("1\n")
    text = f"version 1.1\ntask t {{ {declared} output {{ Int n = read_int(stdout()) }} }}\n"
    (tmp_path / "task.wdl").write_text(text)
    (tmp_path / "flow.wdl").write_text(
        text + "workflow w { input { File? f } call t "
        + ("{ input: f = select_first([f]) } " if words else "") + "output { Int n = t.n } }\n"
    )  # fmt: skip
    for document, key in ("task.wdl", "t.n"), ("flow.wdl", "w.n"):
        done = run([document, "--container", "none", *words], tmp_path)
        assert done.status == 0, done.stderr
        assert json.loads(done.stdout) == {key: 1}


def test_a_missing_file_that_is_a_tasks_default_is_named_when_it_is_read(tmp_path):
    (tmp_path / "doc.wdl").write_text(
        f'version 1.1\ntask t {{ input {{ File f = "{_FAR}" }} command <<< cat ~{{f}} >>> }}\n'
    )
    done = run(["doc.wdl", "--container", "none"], tmp_path)
    assert done.status != 0
    assert _FAR in done.stderr


def test_a_default_of_a_task_may_be_a_url(tmp_path):
    with served({"far.txt": "far"}) as url:
        (tmp_path / "doc.wdl").write_text(
            f'version 1.1\ntask t {{ input {{ File f = "{url}/far.txt" Int size = ceil(size(f)) }}'
            " command <<< cat ~{f} >>> output { String o = read_string(stdout()) + size } }\n"
        )
        done = run(["doc.wdl", "--container", "none"], tmp_path)
    assert json.loads(done.stdout) == {"t.o": "far3"}, done.stderr


def test_a_template_has_only_what_can_be_given(tmp_path):
    (tmp_path / "doc.wdl").write_text(
        "version 1.1\ntask t { input { Int n } command <<<>>> }\nworkflow w { call t  call t as u { input: n = 1 } }\n"
    )
    assert list(json.loads(run(["inputs", "doc.wdl"], tmp_path).stdout)) == ["w.t.n"]


def test_processes_that_a_command_leaves_running_end_with_it(tmp_path):
    pid = tmp_path / "pid"
    script = (
        f"(setsid sh -c 'echo $$ > {pid}; exec sleep 600' >/dev/null 2>&1 &); until [ -s {pid} ]; do sleep 0.1; done"
    )
    (tmp_path / "doc.wdl").write_text(f"version 1.1\ntask t {{ command <<< {script} >>> output {{ Int n = 1 }} }}\n")
    assert run(["doc.wdl", "--container", "none"], tmp_path).status == 0
    left = int(pid.read_text())
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE


def test_no_member_of_an_object_or_archive_is_written_outside_of_its_directory(tmp_path):
    (tmp_path / "in.txt").write_text("hi")
    (tmp_path / "o.json").write_text(json.dumps({"../../../evil": f"{tmp_path}/in.txt"}))
    (tmp_path / "doc.wdl").write_text(
        "version 1.0\nworkflow w { input { File f } Object o = read_json('o.json')"
        " output { Object x = o  File g = f } }\n"
    )
    done = run(["doc.wdl", f"f={tmp_path}/in.txt", "-o", "a/b/out"], tmp_path)
    assert done.status == 0, done.stderr
    assert not [path for path in tmp_path.rglob("evil*") if "out" not in path.parts]
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/MANIFEST.json").write_text('{"mainWorkflowURL": "../doc.wdl"}')
    done = run(["archive"], tmp_path)
    assert done.status == 2
    assert "'../doc.wdl' is not a valid name for a file" in done.stderr


def test_folders_of_inputs_cannot_point_elsewhere(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    (tmp_path / "doc.wdl").write_text(
        "version 1.1\ntask t { input { File f  File g } command <<< cat ~{f} ~{g} >>> "
        "output { String s = read_string(stdout())  Boolean inside = sub('~{f}~{g}', '[.][.]', '') == '~{f}~{g}' } }\n"
    )
    words = [f"f={tmp_path}/a/x", f"g={tmp_path}/a/../b/x", "--container", "none"]
    done = run(["doc.wdl", *words], tmp_path)
    assert json.loads(done.stdout) == {"t.s": "ab", "t.inside": True}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("ln -s nowhere d/gone", "gone"),
        ("mkfifo d/pipe", "pipe"),
        ("ln -s . d/again", "again"),
        ("ln -s /etc d/x", "x"),
    ],
)
def test_an_output_that_cannot_be_stored_is_named(tmp_path, command, words):
    (tmp_path / "doc.wdl").write_text(
        f"version 1.2\ntask t {{ command <<< mkdir d; {command} >>> output {{ Directory d = 'd' }} }}\n"
    )
    done = run(["doc.wdl", "--container", "none"], tmp_path)
    assert done.status == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
