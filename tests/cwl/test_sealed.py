"""Secret inputs are in no store, log or message."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from cwltool.errors import UnsupportedRequirement, WorkflowException
from hypothesis import given
from hypothesis import strategies as st

import toilfn as toil
from toilfn.cwl.documents import VARIABLE, EncryptedSecrets

KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
OTHER = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="

TOOL = """\
cwlVersion: v1.2
$namespaces: {cwltool: "http://commonwl.org/cwltool#"}
class: CommandLineTool
hints: {"cwltool:Secrets": {secrets: [word]}}
requirements:
  EnvVarRequirement: {envDef: {WORD: $(inputs.word)}}
  InitialWorkDirRequirement: {listing: [{entryname: config, entry: "word = $(inputs.word)"}]}
baseCommand: [sh, -c]
arguments: ['test "$1" = $WORD && test "`cat config`" = "word = $1" && printf %s "$1" | sha1sum', "-", $(inputs.word)]
inputs: {word: string}
outputs: {digest: stdout}
stdout: digest.txt
"""

WORKFLOW = """\
cwlVersion: v1.2
$namespaces: {cwltool: "http://commonwl.org/cwltool#"}
class: Workflow
HINTS
inputs: {password: string}
outputs: {digest: {type: File, outputSource: use/digest}}
steps:
  use: {in: {word: password}, out: [digest], run: tool.cwl}
"""

HIDDEN = 'hints: {"cwltool:Secrets": {secrets: [password]}}'


@pytest.fixture
def key(monkeypatch):
    """A key in the environment, also of commands."""
    monkeypatch.setenv(VARIABLE, KEY)


def places_of(word, folder):
    """The files that have a word in them."""
    return [path for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("document", "name", "task"), [("tool.cwl", "word", "tool.cwl"), ("workflow.cwl", "password", "use")]
)
def test_a_secret_reaches_the_tool_and_nothing_else(key, runner, written, tmp_path, document, name, task):
    written("tool.cwl", TOOL)
    written("workflow.cwl", WORKFLOW.replace("HINTS", HIDDEN))
    job = written("job.json", json.dumps({name: "swordfish"}))
    arguments = ("--enable-ext", "--debug", "--store", tmp_path / "store", document, job.name)
    done = runner(*arguments)
    assert done.status == 0, done.messages
    assert "swordfish" not in done.messages + done.printed
    job.unlink()
    assert places_of("swordfish", tmp_path) == []
    command = [sys.executable, "-m", "toilfn", "logs", tmp_path / "store", task]
    logs = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "(secret-" in logs.stdout
    assert "swordfish" not in logs.stdout
    wanted = subprocess.run("printf swordfish | sha1sum", shell=True, capture_output=True, text=True, check=True)
    assert (tmp_path / "digest.txt").read_text() == wanted.stdout


def test_the_same_secret_is_reused_and_another_is_not(key, runner, written, tmp_path):
    written("tool.cwl", TOOL)
    ran = []
    for word in ("swordfish", "swordfish", "carp"):
        assert runner("--enable-ext", "--store", tmp_path / "store", "tool.cwl", "--word", word).status == 0
        command = [sys.executable, "-m", "toilfn", "stats", tmp_path / "store", "--attempts", "--json"]
        attempts = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        ran.append(sum(entry["name"] == "tool.cwl" for entry in attempts))
    assert ran == [1, 1, 2]


def test_a_worker_without_the_key_says_so(runner, written, tmp_path, monkeypatch):
    written("tool.cwl", TOOL.replace("sh, -c]", "sh, -c, 'exit 1', '']"))
    monkeypatch.setenv(VARIABLE, KEY)
    arguments = ("--enable-ext", "--store", tmp_path / "store", "tool.cwl", "--word", "swordfish")
    assert runner(*arguments).status == 1
    command = [sys.executable, "-m", "toilfn", "resume", tmp_path / "store", "--no-progress"]
    done = subprocess.run(
        command, env={**os.environ, VARIABLE: OTHER}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert f"encrypted with a different key than this machine has; set {VARIABLE}" in done.stderr


def test_a_key_is_made_once_and_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    sealed = EncryptedSecrets().add("swordfish")
    [key] = (tmp_path / "toilfn").iterdir()
    assert key.stat().st_mode & 0o777 == 0o600
    assert EncryptedSecrets().add("swordfish") == sealed
    assert EncryptedSecrets().retrieve(["a", {"b": f"x{sealed}y"}]) == ["a", {"b": "xswordfishy"}]
    key.unlink()
    with pytest.raises(WorkflowException, match="not on this machine"):
        EncryptedSecrets().retrieve(sealed)


@given(st.text(), st.text())
def test_sealed_secrets_are_retrieved(first, second):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, KEY)
        store = EncryptedSecrets()
        sealed = store.add(first)
        assert store.add(sealed) == sealed
        assert (store.add(second) == sealed) == (first == second)
        assert store.retrieve(f"{sealed}-{sealed}") == f"{first}-{first}"
        assert store.has_secret(["", {"a": sealed}])


def test_only_text_can_be_secret_and_keys_are_checked(monkeypatch):
    monkeypatch.setenv(VARIABLE, "c2hvcnQ=")
    with pytest.raises(WorkflowException, match=f"{VARIABLE} must contain a key of 32 bytes"):
        EncryptedSecrets().add("swordfish")
    with pytest.raises(UnsupportedRequirement, match="only text, not int"):
        EncryptedSecrets().add(7)
    assert EncryptedSecrets().add(None) is None
    assert not EncryptedSecrets().has_secret([7, "plain"])


def test_a_step_with_secrets_that_the_workflow_does_not_hide_is_refused(runner, written, tmp_path):
    written("tool.cwl", TOOL)
    written("workflow.cwl", WORKFLOW.replace("HINTS", ""))
    done = runner("--enable-ext", "--store", tmp_path / "store", "workflow.cwl", "--password", "swordfish")
    assert done.status == 33
    assert "step use has cwltool:Secrets" in done.messages
    assert not (tmp_path / "store").exists()


def test_what_is_not_declared_secret_is_in_the_store(runner, written, tmp_path):
    """The tests above find a word where it is."""
    written("tool.cwl", TOOL.replace("hints:", "hints: {} #"))
    assert runner("--store", tmp_path / "store", "tool.cwl", "--word", "swordfish").status == 0
    assert places_of("swordfish", tmp_path / "store")


def test_secrets_in_python(key, written, tmp_path):
    hello = toil.cwl.load(written("tool.cwl", TOOL))
    value = toil.compute(hello(word="swordfish"), store=str(tmp_path / "store"))
    assert value["digest"].size == 44
    assert places_of("swordfish", tmp_path / "store") == []
