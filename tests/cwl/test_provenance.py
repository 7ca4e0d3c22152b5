"""What ``--provenance`` writes, and that a validator of RO-Crates takes it."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import requests_cache
import urllib3
from requests.adapters import HTTPAdapter

from tests.cwl.conftest import DOCUMENTS

CONTEXT = Path(__file__).parent / "ro_crate_context.json"
"""What the terms of RO-Crate 1.1 mean; the validator would fetch it."""

ORCID = "https://orcid.org/0000-0002-1825-0097"


class FromFile(HTTPAdapter):
    """Answers every question with the context."""

    def send(self, request, **_):
        headers = {"Content-Type": "application/ld+json"}
        body = io.BytesIO(CONTEXT.read_bytes())
        answer = urllib3.HTTPResponse(body=body, status=200, headers=headers, preload_content=False)
        return self.build_response(request, answer)


@pytest.fixture
def validate(tmp_path):
    """Checks a crate against the requirements of a profile, without the network; gives the validator's words."""
    cache = tmp_path / "web" / "cache"
    cache.parent.mkdir()
    with requests_cache.CachedSession(str(cache), expire_after=-1) as session:
        session.mount("https://", FromFile())
        assert session.get("https://w3id.org/ro/crate/1.1/context").ok

    def check(crate, profile):
        command = [Path(sys.executable).with_name("rocrate-validator"), "validate", "--offline", "--cache-path", cache]
        command += ["-p", profile, "-l", "required", "--no-paging", "--verbose", crate]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=200)
        return done.returncode, done.stdout + done.stderr

    return check


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one\ntwo\nthree\n")
    return path


def entities(crate):
    return {entity["@id"]: entity for entity in json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]}


def seconds(entity):
    return [datetime.fromisoformat(entity[name]).timestamp() for name in ("startTime", "endTime")]


def test_a_workflow_becomes_a_provenance_run_crate(runner, text, tmp_path, validate):
    arguments = ("--provenance", "crate", "--full-name", "Ada Byron", "--orcid", ORCID, DOCUMENTS / "count.cwl")
    assert runner(*arguments, "--text", text, "--pattern", "e").status == 0
    status, words = validate(tmp_path / "crate", "provenance-run-crate-0.5")
    assert status == 0, words

    found = entities(tmp_path / "crate")
    whole, find, number = (found[name] for name in ("#run", "#run/find/1", "#run/number/1"))
    assert whole["agent"] == {"@id": ORCID}
    assert found[ORCID]["name"] == "Ada Byron"
    assert find["result"][0] in number["object"]
    assert number["result"] == whole["result"]
    assert seconds(whole)[0] <= seconds(find)[0] <= seconds(find)[1] <= seconds(number)[1] <= seconds(whole)[1]
    assert found["#organize"]["object"] == [{"@id": "#control/find/1"}, {"@id": "#control/number/1"}]


def test_files_are_copied_under_their_checksums(runner, text, tmp_path):
    runner("--provenance", "crate", DOCUMENTS / "count.cwl", "--text", text, "--pattern", "e")
    found = entities(tmp_path / "crate")
    files = {entity["name"]: entity for entity in found.values() if "sha1" in entity}
    assert set(files) == {"text.txt", "lines.txt", "count.txt"}
    for entity in files.values():
        content = (tmp_path / "crate" / entity["@id"]).read_bytes()
        assert hashlib.sha1(content).hexdigest() == entity["sha1"]  # as CWL's checksums
        assert int(entity["contentSize"]) == len(content)
    assert (tmp_path / "crate" / files["text.txt"]["@id"]).read_text() == text.read_text()


def test_the_document_in_the_crate_can_be_run(runner, text, tmp_path):
    arguments = ("--text", text, "--pattern", "e")
    first = runner("--provenance", "crate", DOCUMENTS / "count.cwl", *arguments).result
    again = runner("--outdir", "again", tmp_path / "crate" / "packed.cwl", *arguments).result
    assert again["count"]["checksum"] == first["count"]["checksum"]


def test_each_run_of_a_scattered_tool_is_reported_and_no_skipped_step(runner, text, tmp_path, validate):
    job = {"text": {"class": "File", "path": str(text)}, "words": ["a", "b"], "loud": False}
    (tmp_path / "job.json").write_text(json.dumps(job))
    assert runner("--provenance", "crate", DOCUMENTS / "shout.cwl", "job.json").status == 0
    status, words = validate(tmp_path / "crate", "provenance-run-crate-0.5")
    assert status == 0, words
    found = entities(tmp_path / "crate")
    assert {id_ for id_ in found if id_.startswith("#run/")} == {
        "#run/mark/1", "#run/mark/2", "#run/join/1", "#run/measure/1",
    }  # fmt: skip


def test_a_tool_becomes_a_process_run_crate(runner, tmp_path, validate):
    assert runner("--provenance", "crate", DOCUMENTS / "hello.cwl", "--message", "hi").status == 0
    status, words = validate(tmp_path / "crate", "process-run-crate-0.5")
    assert status == 0, words
    found = entities(tmp_path / "crate")
    assert found["#run"]["instrument"] == {"@id": "packed.cwl"}
    assert "agent" not in found["#run"]


def test_steps_of_an_earlier_run_on_the_store_keep_their_times(runner, text, tmp_path):
    common = ("--store", tmp_path / "store", DOCUMENTS / "count.cwl", "--text", text, "--pattern", "e")
    assert runner("--provenance", "one", *common).status == 0
    assert runner("--provenance", "two", *common).status == 0
    one, two = entities(tmp_path / "one"), entities(tmp_path / "two")
    assert one["#run/find/1"] == two["#run/find/1"]
    assert seconds(one["#run"])[1] < seconds(two["#run"])[0]


def test_the_validator_sees_what_is_missing(runner, tmp_path, validate):
    assert runner("--provenance", "crate", DOCUMENTS / "hello.cwl", "--message", "hi").status == 0
    path = tmp_path / "crate" / "ro-crate-metadata.json"
    path.write_text(path.read_text().replace('"instrument"', '"position"'))
    status, words = validate(tmp_path / "crate", "process-run-crate-0.5")
    assert status == 1
    assert "instrument" in words


def test_files_left_outside_of_the_store(runner, text, tmp_path):
    arguments = ("--provenance", "crate", "--bypass-file-store", DOCUMENTS / "count.cwl", "--text", text)
    assert runner(*arguments, "--pattern", "e").status == 0
    assert entities(tmp_path / "crate")["#run"]["result"]


def test_a_store_that_is_removed_cannot_be_named_in_advice(runner, tmp_path):
    arguments = ("--provenance", "crate", "--store", "store", "--clean", "always", DOCUMENTS / "hello.cwl")
    done = runner(*arguments, "--message", "hi")
    assert done.status == 1
    assert "--clean" in done.messages
    assert not (tmp_path / "crate").exists()
