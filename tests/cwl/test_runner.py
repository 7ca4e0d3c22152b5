"""What a user of ``toilfn-cwl-runner`` gets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter

import pytest

from tests.cwl.conftest import DOCUMENTS
from tests.cwl.interrupted import kill_half_way

TOOL = """\
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [{command}]
{more}
inputs: []
outputs: []
"""


@pytest.fixture
def job(tmp_path):
    """The inputs of shout.cwl."""
    (tmp_path / "text.txt").write_text("one\ntwo\n")
    job = {"text": {"class": "File", "path": "text.txt"}, "words": ["a", "b", "c"], "loud": True}
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))
    return path


def text_of(found):
    with open(found["path"]) as stream:
        return stream.read()


def test_a_tool_with_inputs_on_the_command_line(runner, tmp_path):
    result = runner(DOCUMENTS / "hello.cwl", "--message", "hi there").result
    assert text_of(result["said"]) == "hi there\n"
    assert result["said"]["location"] == f"file://{tmp_path}/said.txt"
    assert result["said"]["checksum"].startswith("sha1$")
    assert result["said"]["size"] == 9


def test_a_workflow_with_scatter_conditions_and_expressions(runner, job):
    result = runner("--outdir", "out", DOCUMENTS / "shout.cwl", job).result
    lines = [f"{word}: {line}" for word in "abc" for line in ("one", "two")]
    assert text_of(result["joined"]).splitlines() == lines
    assert text_of(result["louder"]).splitlines() == [line.upper() for line in lines]
    assert result["count"] == 3


def test_the_same_store_runs_again_only_what_has_changed(runner, job, tmp_path):
    arguments = ("--store", tmp_path / "store", "--outdir", "out", DOCUMENTS / "shout.cwl", job)
    first = runner(*arguments).result
    (tmp_path / "out" / "joined.txt").unlink()
    assert runner(*arguments).result == first
    runs = attempts(tmp_path / "store")
    assert runs["mark"] == 1 + 3  # the scatter itself, and its tools
    assert runs["join"] == 1
    job.write_text(job.read_text().replace('"c"', '"d"'))
    assert "d: one" in text_of(runner(*arguments).result["joined"])
    assert attempts(tmp_path / "store")["join"] == 2


def test_a_dry_run_says_what_would_run_and_writes_nothing(runner, job, tmp_path):
    arguments = ("--store", tmp_path / "store", "--outdir", "out", DOCUMENTS / "shout.cwl", job)
    dry = runner("--dry-run", *arguments)
    assert dry.status == 3, dry.messages
    assert "would run: " in dry.printed
    assert not (tmp_path / "store").exists()
    assert runner(*arguments).status == 0
    dry = runner("--dry-run", "--json", *arguments)
    assert dry.status == 0, dry.messages
    assert json.loads(dry.printed)["reused"]["mark"] == 4
    job.write_text(job.read_text().replace('"c"', '"d"'))
    dry = runner("--dry-run", *arguments)
    assert dry.status == 3
    assert "the tasks that shout.cwl creates" in dry.printed


def test_no_reuse_runs_everything_again(runner, tmp_path):
    arguments = ("--store", tmp_path / "store", DOCUMENTS / "hello.cwl", "--message", "hi")
    runner(*arguments)
    runner(*arguments)
    assert attempts(tmp_path / "store")["hello.cwl"] == 1
    assert runner("--no-reuse", *arguments).status == 0
    assert attempts(tmp_path / "store")["hello.cwl"] == 2


def test_a_document_can_forbid_reuse(runner, written, tmp_path):
    tool = written("tool.cwl", TOOL.format(command="date", more="requirements: {WorkReuse: {enableReuse: false}}"))
    for _ in range(2):
        assert runner("--store", tmp_path / "store", tool).status == 0
    assert attempts(tmp_path / "store")["tool.cwl"] == 2


def test_a_cache_of_calls_serves_other_stores(runner, job, tmp_path):
    tool = DOCUMENTS / "shout.cwl"
    first = runner("--cachedir", tmp_path / "calls", "--outdir", "one", tool, job).result
    before = {path for path in (tmp_path / "calls").iterdir() if path.is_dir()}
    second = runner("--cachedir", tmp_path / "calls", "--outdir", "two", tool, job).result
    assert {path for path in (tmp_path / "calls").iterdir() if path.is_dir()} == before
    assert text_of(first["louder"]) == text_of(second["louder"])


def test_a_killed_run_is_resumed_to_the_same_result(runner, job, tmp_path):
    store = tmp_path / "store"
    command = [sys.executable, "-m", "toilfn.cwl", "--no-container", "--outdir", "out", "--store", store]
    process = subprocess.Popen(
        [*map(str, command), DOCUMENTS / "shout.cwl", job],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    killed = kill_half_way(process, store, 4)
    assert killed
    assert process.wait() == -signal.SIGKILL
    resume = [sys.executable, "-m", "toilfn", "resume", str(store), "--json"]
    resumed = json.loads(subprocess.run(resume, capture_output=True, text=True, check=True).stdout)
    assert resumed == runner("--outdir", "out", "--store", store, DOCUMENTS / "shout.cwl", job).result
    assert attempts(store)["join"] == 1


def test_files_bypass_the_store_where_asked(runner, job, tmp_path):
    arguments = ("--bypass-file-store", "--store", tmp_path / "store", "--outdir", "out", DOCUMENTS / "shout.cwl", job)
    assert "a: one" in text_of(runner(*arguments).result["joined"])
    assert not [path for path in (tmp_path / "store" / "blobs").rglob("*.txt") if path.is_file()]
    assert (tmp_path / "text.txt").read_text() == "one\ntwo\n"


def test_literal_and_data_inputs(runner, tmp_path):
    (tmp_path / "job.json").write_text(json.dumps({
        "text": {"class": "File", "location": "data:text/plain;base64,aGkK", "basename": "hi.txt"},
        "words": ["a"], "loud": False,
    }))  # fmt: skip
    result = runner(DOCUMENTS / "shout.cwl", "job.json").result
    assert text_of(result["joined"]) == "a: hi\n"
    assert result["louder"] is None


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("missing.cwl",), 1, "missing.cwl"),
        ((DOCUMENTS / "hello.cwl",), 2, "--message"),
        ((DOCUMENTS / "shout.cwl", "wrong.json"), 1, "words"),
        ((DOCUMENTS / "shout.cwl", "absent.json"), 1, "nowhere.txt"),
    ],
    ids=["no document", "no input", "wrong type", "missing file"],
)
def test_bad_input_is_explained(runner, tmp_path, arguments, status, message):
    text = {"class": "File", "location": "job.json"}
    (tmp_path / "job.json").write_text("{}")
    (tmp_path / "wrong.json").write_text(json.dumps({"text": text, "words": 7, "loud": True}))
    nowhere = {"class": "File", "location": "nowhere.txt"}
    (tmp_path / "absent.json").write_text(json.dumps({"text": nowhere, "words": [], "loud": True}))
    done = runner(*arguments)
    assert done.status == status
    assert message in done.messages
    assert "Traceback" not in done.messages
    assert done.printed == ""


def test_an_invalid_document_is_explained(runner, written):
    done = runner(written("tool.cwl", "cwlVersion: v1.2\nclass: CommandLineTool\ninput: []\noutputs: []\n"))
    assert done.status == 1
    assert "tool.cwl" in done.messages
    assert "inputs" in done.messages
    assert "Traceback" not in done.messages


def test_a_failing_tool_shows_its_standard_error(runner, written):
    done = runner(written("tool.cwl", TOOL.format(command="sh, -c, 'echo all is lost >&2; exit 7'", more="")))
    assert done.status == 1
    assert "all is lost" in done.messages
    assert "toilfn resume" in done.messages


def test_a_permanent_failure_is_not_tried_again(runner, written, tmp_path):
    tool = TOOL.format(command=f"sh, -c, 'echo x >> {tmp_path}/tries; exit 7'", more="")
    assert runner(written("tool.cwl", tool), options=("--no-container", "--retries", "2")).status == 1
    assert (tmp_path / "tries").read_text() == "x\n"


def test_a_temporary_failure_is_tried_again(runner, written, tmp_path):
    command = f"sh, -c, 'echo x >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) = 2 || exit 7'"
    tool = written("tool.cwl", TOOL.format(command=command, more="temporaryFailCodes: [7]"))
    options = ("--no-container", "--retries", "2", "--retry-backoff", "0.01s")
    assert runner(tool, options=options).status == 0
    assert (tmp_path / "tries").read_text() == "x\nx\n"


def test_an_unsupported_requirement_ends_with_33(runner, written):
    tool = written("tool.cwl", TOOL.format(command='"true"', more="requirements: {DockerRequirement: {dockerPull: x}}"))
    done = runner(tool)
    assert done.status == 33
    assert "DockerRequirement" in done.messages


@pytest.mark.parametrize("option", ["--validate", "--print-deps", "--pack", "--make-template"])
def test_documents_can_be_looked_at_without_being_run(runner, option, tmp_path):
    done = runner(option, DOCUMENTS / "hello.cwl")
    assert done.status == 0, done.messages
    assert "hello.cwl" in done.printed or "message" in done.printed or "digraph" in done.printed
    assert not (tmp_path / "said.txt").exists()


def test_a_workflow_can_be_drawn(runner):
    assert "digraph" in runner("--print-dot", DOCUMENTS / "shout.cwl").printed


def test_one_target_is_run(runner, job):
    result = runner("--target", "joined", DOCUMENTS / "shout.cwl", job).result
    assert list(result) == ["joined"]


def test_one_step_is_run(runner, written, tmp_path):
    (tmp_path / "text.txt").write_text("one\ntwo\n")
    job = written("job.json", json.dumps({"lines": {"class": "File", "path": "text.txt"}}))
    result = runner("--single-step", "number", DOCUMENTS / "count.cwl", job).result
    assert text_of(result["count"]).strip() == "2"


STEP = """\
cwlVersion: v1.2
class: Workflow
requirements: {{InlineJavascriptRequirement: {{}}, StepInputExpressionRequirement: {{}}}}
inputs: []
outputs: []
steps:
  broken:
    {line}
    out: []
    run: {{class: CommandLineTool, baseCommand: "true", inputs: {{word: Any?}}, outputs: []}}
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("in: {word: {valueFrom: $(self.a.b)}}", "expression $(self.a.b) failed: TypeError: Cannot read"),
        ("in: {word: {valueFrom: $(a b)}}", "expression $(a b) failed: SyntaxError: "),
        ("when: $(7)\n    in: []", "'when' of step broken must be true or false, not 7"),
    ],
    ids=["value", "syntax", "condition"],
)
def test_an_expression_that_fails_is_named_once(runner, written, tmp_path, line, message):
    options = ("--no-container", "--retries", "2", "--store", str(tmp_path / "store"))
    done = runner(written("step.cwl", STEP.format(line=line)), options=options)
    assert done.status == 1
    assert done.messages.count(message) == 1, done.messages
    assert "step broken" in done.messages
    assert "attempt 1" in done.messages
    assert "Traceback" not in done.messages


def test_help_is_grouped_and_has_all_options(runner):
    done = runner("--help", options=())
    assert done.status == 0
    for text in ("--outdir", "--podman", "--bypass-file-store", "--store", "--cluster", "toilfn: failures"):
        assert text in done.printed


def test_it_is_a_command_of_toilfn(tmp_path):
    command = [sys.executable, "-m", "toilfn", "cwl", "--no-container", "--outdir", tmp_path]
    command += [DOCUMENTS / "hello.cwl", "--message", "hi"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["said"]["basename"] == "said.txt"


def attempts(store):
    """How often tasks were run to their end, by name."""
    command = [sys.executable, "-m", "toilfn", "stats", str(store), "--attempts", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Counter(entry["name"] for entry in json.loads(done.stdout) if entry["result"] == "done")
