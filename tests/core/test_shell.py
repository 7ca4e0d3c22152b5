"""Shell commands as tasks: quoting, outputs, surroundings, errors."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from toilfn.errors import CommandError, FailedTasksError, InputError
from toilfn.steps.template import Template

NASTY = [
    "a b",
    "it's",
    'say "hi"',
    "$(touch gone)",
    "`touch gone`",
    "$HOME",
    "a;touch gone",
    "*",
    "-n",
    "é\n2",
    "\\",
    "!x",
    "",
]


def compute(*promises: Any, **settings: Any) -> Any:
    return toil.compute(*promises, **{"cluster": "inline", "retries": 0, "progress": False, **settings})


def words_of(command: str, *values: object) -> list[str]:
    """The words that a program in a command gets."""
    return compute(toil.shell(command)(*values)).split("\0")[:-1]


@pytest.mark.parametrize(
    "command",
    ["printf '%s\\0' {x}", 'printf "%s\\0" "{x}"', "printf '%s\\0' $(: {x}) {x}  # isn't {x}", '(printf "%s\\0" {x})'],
)
def test_a_value_is_one_word_whatever_it_contains(command: str) -> None:
    printed = compute(*toil.shell(command).map(NASTY))
    assert list(printed) == [f"{value}\0" for value in NASTY]
    assert not Path("gone").exists()


def test_a_value_inside_a_word_and_nested_quotes() -> None:
    assert words_of("printf '%s\\0' --in={x}.txt", "a b") == ["--in=a b.txt"]
    assert words_of('printf "%s\\0" "<$(printf "%s" "{x}")>"', "$(id) b") == ["<$(id) b>"]


def test_lists_numbers_and_nothing() -> None:
    assert words_of("printf '%s\\0' {xs} {n} {none} {path}", ["a b", "c"], 3, None, Path("/x y")) == [
        "a b", "c", "3", "/x y",
    ]  # fmt: skip


def test_braces_and_variables_of_the_shell() -> None:
    assert compute(toil.shell("y=7; echo 'x 5' | awk '{{print $2}}'; echo ${{y}} $y {x}")(1)) == "5\n7 7 1\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("awk '{print $1}' {x}", "'print $1' is not a placeholder"),
        ("awk '{x}'", "is between single quotes; leave the quotes out"),
        ("echo $'{x}'", "is between single quotes"),
        ("echo `cat {x}`", "is between backquotes; write $(...)"),
        ("echo $(( {x} + 1 ))", "is in an arithmetic expression"),
        ("cat <<END\n{x}\nEND", "is in a here-document"),
        ("echo ${x}", "follows a $; write ${{name}}"),
        ("echo {x!r}", "is not a placeholder"),
        ("echo {x:>5}", "is not a placeholder"),
        ("echo {}", "is not a placeholder"),
        ("echo {x.parent}", "is not a placeholder"),
        ("echo }", "write {{ and }}"),
    ],
)
def test_placeholders_that_could_not_be_quoted_are_refused(command: str, words: str) -> None:
    with pytest.raises(InputError) as raised:
        toil.shell(command)
    assert words.replace("'print $1'", "{print $1}") in str(raised.value)


def test_the_shell_itself_agrees_about_the_script() -> None:
    template = Template("printf '%s|' {a} \"x{b}\" $(printf '%s' \"{a}\")")
    values = {"a": "it's $(id)", "b": '"'}
    script = template.script(lambda field: [values[field.name]])
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("it's $(id)|x\"|it's|")
    assert shlex.split(template.shown(lambda field: [values[field.name]]))[2] == "it's $(id)"


def test_the_output_is_a_file_and_named_after_the_input(tmp_path: Path) -> None:
    (tmp_path / "my reads.txt").write_text("b\na\n")
    sort = toil.shell("sort {table} > {out}", outputs="sorted/{table.stem}.out", memory="100M")
    count = toil.shell("wc -l < {table}")
    made = sort(table=toil.input(tmp_path / "my reads.txt"))
    file, lines, path = compute(made, count(made), toil.export(made, f"{tmp_path}/out/"), store=tmp_path / "run")
    assert (file.name, lines.strip()) == ("my reads.out", "2")
    assert Path(path).read_text() == "a\nb\n"


def test_several_outputs_lists_of_files_and_directories() -> None:
    split = toil.shell(
        "split -l 1 {table} part. && mkdir -p {tree}/in && cp {table} {tree}/in/copy && wc -l < {table} > {count}",
        outputs={"parts": "part.*", "tree": "tree/", "count": "n.txt"},
    )
    join = toil.shell("cat {parts} {tree}/in/copy {count}")
    made = split(toil.shell("printf 'b\\na\\n' > {out}", outputs="t.txt")())
    assert compute(join(made["parts"], made["tree"], made["count"])).split() == ["b", "a", "b", "a", "2"]


def test_the_limits_of_the_task_are_placeholders() -> None:
    assert compute(toil.shell("echo {cores} {memory_mb}", cores=1.5, memory="300Mi")()) == "2 300\n"


def test_requirements_may_be_functions_of_the_inputs(tmp_path: Path) -> None:
    step = toil.shell("echo {memory_mb} {n}", memory=lambda n: n * 2**20)
    assert compute(step(70), cluster="local", workers=1, store=tmp_path / "run") == "70 70\n"


def test_edits_and_other_inputs_run_again_and_the_rest_is_reused(tmp_path: Path) -> None:
    def made(command: str, word: str, image: str = "") -> toil.Plan:
        step = toil.shell(command, env={"X": "1"}, **({"container": image} if image else {}))
        return toil.compute(step(word), store=tmp_path / "run", dry_run=True)

    compute(toil.shell("echo {x}", env={"X": "1"})("one"), store=tmp_path / "run")
    assert not made("echo {x}", "one")
    (task,) = made("echo  {x}", "one").tasks
    assert "argument command of echo: 'echo {x}' -> 'echo  {x}'" in task.reasons
    (task,) = made("echo {x}", "two").tasks
    assert "argument x of echo: 'one' -> 'two'" in task.reasons
    assert made("echo {x}", "one", "debian")


def test_a_failure_has_the_command_its_status_and_the_end_of_standard_error(tmp_path: Path) -> None:
    step = toil.shell("echo {x}; for n in $(seq 50); do echo line $n >&2; done; exit 3", name="fails")
    with pytest.raises(FailedTasksError) as raised:
        compute(step("a b"), store=tmp_path / "run", cluster="local", workers=1)
    message = str(raised.value)
    assert "the command ended with exit status 3: echo 'a b'; for n in" in message
    assert "line 50" in message
    assert "line 31" in message
    assert "line 30\n" not in raised.value.failures[0].message  # type: ignore[attr-defined]
    assert "Traceback" not in message
    log = subprocess.run(
        [sys.executable, "-m", "toilfn", "logs", tmp_path / "run", "fails"], capture_output=True, text=True, check=True
    ).stdout
    assert "line 1\n" in log


def test_a_failure_names_the_command_once_and_the_inputs_as_they_were(tmp_path: Path) -> None:
    step = toil.shell("echo {x}; echo oh no >&2; exit 3", name="fails")
    with pytest.raises(FailedTasksError) as raised:
        compute(step(x="a b"), store=tmp_path / "run", cluster="local", workers=1)
    message = str(raised.value)
    assert message.count("exit 3") == 1
    assert message.count("oh no") == 2  # in the command, and as what it wrote
    assert "fails(x='a b'), task" in message


def test_every_part_of_a_pipeline_counts_and_unset_variables_are_errors() -> None:
    for command in ("false | cat", "echo $unset_variable", "false; true"):
        with pytest.raises(FailedTasksError, match="exit status 1"):
            compute(toil.shell(command)())


def test_an_output_that_was_not_made() -> None:
    with pytest.raises(FailedTasksError, match=r"output out: the command did not create the file x\.txt"):
        compute(toil.shell("true {out}", outputs="x.txt")())


@pytest.mark.parametrize("path", ["/tmp/x", "../x"])
def test_outputs_are_in_the_tasks_own_directory(path: str) -> None:
    with pytest.raises(FailedTasksError, match="not a path below the task's own directory"):
        compute(toil.shell("touch {out}", outputs=path)())


def test_wrong_calls() -> None:
    step = toil.shell("cat {a} {b}")
    assert step.inputs == ("a", "b")
    for call, words in (
        (lambda: step(1), "missing the input b"),
        (lambda: step(1, 2, 3), "takes 2 inputs"),
        (lambda: step(1, b=2, c=3), "unexpected input c"),
        (lambda: step(1, a=2, b=3), "a twice"),
        (lambda: step.map(), "map needs"),
    ):
        with pytest.raises(TypeError, match=words):
            call()
    with pytest.raises(InputError, match="output out is not in the command"):
        toil.shell("cat {a}", outputs="x.txt")
    with pytest.raises(InputError, match="not both"):
        toil.shell("cat {a}", container="debian", conda="env.yml")
    with pytest.raises(InputError, match="unknown task option 'memori'"):
        toil.shell("cat {a}", memori="1G")  # type: ignore[call-arg]
    with pytest.raises(FailedTasksError, match=r"\{a\}: a command cannot be passed a dict"):
        compute(toil.shell("cat {a}")({}))


def test_variants_and_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    say = toil.shell("echo {word} >> {log}")
    first = say("first", str(log))
    compute(say.options(after=first, cores=1, name="second")("second", str(log)), workers=1)
    assert log.read_text() == "first\nsecond\n"
    assert [repr(promise) for promise in say.map("ab", ["x", "y"])] == ["<Promise of echo>"] * 2


CONDA = """#!/bin/bash
# Stands in for conda: `env create -p DIR -f FILE` and `run --no-capture-output (-p|-n) ENV command...` only.
set -eu
if [ "$1 $2" = "env create" ]; then
  [ "$3 $5" = "-p -f" ] || exit 64
  echo "$4" >> "$CONDA_LOG"
  grep -q broken "$6" && { echo "ResolvePackageNotFound: broken" >&2; exit 1; }
  mkdir -p "$4/bin"; printf '#!/bin/sh\\necho tool of %s\\n' "$(cat "$6")" > "$4/bin/mytool"; chmod +x "$4/bin/mytool"
elif [ "$1 $2" = "run --no-capture-output" ]; then
  [ "$3" = -p ] && PATH="$4/bin:$PATH"
  [ "$3" = -n ] && export NAMED="$4"
  shift 4; exec "$@"
else exit 64; fi
"""


@pytest.fixture
def conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "conda"
    program.parent.mkdir()
    program.write_text(CONDA)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("CONDA_LOG", str(tmp_path / "made"))
    monkeypatch.setenv("TOILFN_CONDA", str(tmp_path / "environments"))
    return tmp_path


def test_a_conda_environment_is_made_once_from_its_file(conda: Path) -> None:
    (conda / "env.yml").write_text("tools 1")
    step = toil.shell("mytool; echo {x}", conda=conda / "env.yml")
    assert compute(*step.map("ab")) == ("tool of tools 1\na\n", "tool of tools 1\nb\n")
    assert len((conda / "made").read_text().splitlines()) == 1
    (conda / "env.yml").write_text("tools 2")
    assert compute(step("a")) == "tool of tools 2\na\n"
    assert compute(toil.shell("echo $NAMED", conda="mine")()) == "mine\n"


def test_a_conda_environment_that_cannot_be_made(conda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (conda / "env.yaml").write_text("broken")
    with pytest.raises(FailedTasksError, match=r"(?s)environment of env\.yaml.*ResolvePackageNotFound"):
        compute(toil.shell("true", conda=conda / "env.yaml")())
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(FailedTasksError, match="a step needs conda, but none of micromamba"):
        compute(toil.shell("true", conda="mine")())


def test_environment_modules_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "bash").write_text(
        "module() {\n"
        '  [ "$1 $2" = "load tools/1.0" ] && export TOOLS=loaded || { echo "no module $2" >&2; return 1; }\n'
        "}\n"
    )
    monkeypatch.setenv("MODULESHOME", str(tmp_path))
    assert compute(toil.shell("echo $TOOLS", modules="tools/1.0")()) == "loaded\n"
    with pytest.raises(FailedTasksError, match="no module tools/2"):
        compute(toil.shell("echo $TOOLS", modules=["tools/2"])())


def test_the_error_class_has_the_status() -> None:
    error = CommandError("it failed", 3, "words")
    assert (error.exit_code, error.stderr, error.is_explained) == (3, "words", True)


def test_a_killed_command_is_reported_as_killed() -> None:
    with pytest.raises(FailedTasksError, match="was killed by signal 9"):
        compute(toil.shell("kill -9 $$")())
    assert os.getpid()
