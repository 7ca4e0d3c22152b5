"""New runs by the server's forms: the fields of documents, what is filled in, and runs that are run again."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from tests.server.test_runs import WDL
from tests.server.test_site import Browser
from tests.server.wes import SCRIPT, Server
from toilfn.errors import InputError
from toilfn.server.fields import Field, describe, script_params, text_of, text_of_script_params, value_of

CWL = """\
cwlVersion: v1.2
class: CommandLineTool
label: <b>count</b>
doc: Counts lines.
requirements: {InlineJavascriptRequirement: {}}
baseCommand: [cat]
inputs:
  file: {type: File, inputBinding: {}, doc: what is counted}
  times: {type: int, default: 3}
  how: {type: ["null", {type: enum, symbols: [fast, slow]}], default: fast}
  more: {type: "File[]?", inputBinding: {}}
  words: {type: "string[]?"}
  other: {type: Any?}
outputs:
  out: stdout
stdout: out.txt
"""


@pytest.fixture
def browser(server: Server) -> Browser:
    return Browser(server)


def send(browser: Browser, path: str, fields: dict[str, str], *files: tuple[str, str, str]) -> Any:
    parts = [(name, (None, text)) for name, text in fields.items()]
    parts += [(name, (file, content)) for name, file, content in files]
    headers = {"Origin": browser.url}
    return browser.session.post(browser.url + path, files=parts, headers=headers, timeout=60, allow_redirects=False)


def begin(browser: Browser, *files: tuple[str, str], **fields: str) -> str:
    """Choose a document; returns the path of the form of its inputs."""
    answer = send(browser, "/ui/submit", {"url": "", "kind": "", **fields},
                  *(("workflow_attachment", name, content) for name, content in files))  # fmt: skip
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def submit(browser: Browser, path: str, fields: dict[str, str], *files: tuple[str, str, str]) -> str:
    answer = send(browser, path, fields, *files)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"].removeprefix("/ui/runs/")


def test_a_cwl_document_becomes_fields_and_runs(browser, client):
    form = begin(browser, ("count.cwl", CWL))
    page = browser.get(form).text
    assert "&lt;b&gt;count&lt;/b&gt;" in page
    for shown in ("file <span class=\"type\">File, needed", "times <span class=\"type\">int, default 3",
                  "File[], optional", "<option>slow</option>", "what is counted"):  # fmt: skip
        assert shown in page
    refused = send(browser, form, {"value:times": "4"})
    assert refused.status_code == 400
    assert "file: needs a value" in refused.text
    refused = send(browser, form, {"value:times": "many"}, ("file:file", "1+1.txt", "one\n"))
    assert "times: &#39;many&#39; is not a value of the type int" in refused.text
    assert 'value="given/file/1+1.txt"' in refused.text  # what was sent is there already
    run = submit(
        browser, form,
        {"value:file": "given/file/1+1.txt", "value:words": "x\r\ny\r\n", "value:how": "slow", "tags": "who=me"},
        ("file:more", "2.txt", "two\n"), ("file:more", "3.txt", "three\n"),
    )  # fmt: skip
    assert client.wait(run) == "COMPLETE", client.get(f"/runs/{run}")
    log = client.get(f"/runs/{run}")
    assert log["request"]["tags"] == {"who": "me"}
    assert log["request"]["workflow_params"]["words"] == ["x", "y"]
    assert log["request"]["workflow_params"]["how"] == "slow"
    assert "times" not in log["request"]["workflow_params"]
    page = browser.get(f"/ui/runs/{run}").text
    assert "out.txt" in page
    url = re.search(r'href="([^"]+/outputs/[^"]+)" download', page)[1]
    assert browser.get(unescape(url)).text == "one\ntwo\nthree\n"


def test_a_wdl_document_becomes_fields_and_runs(browser, client):
    form = begin(browser, ("shout.wdl", WDL))
    assert 'word <span class="type">String, needed' in browser.get(form).text
    run = submit(browser, form, {"value:shout.word": "hello", "options": "container=none"})
    assert client.wait(run) == "COMPLETE", client.get(f"/runs/{run}")
    assert client.get(f"/runs/{run}")["outputs"] == {"shout.said": "hello"}


def test_a_run_is_run_again_with_changes(browser, client):
    form = begin(browser, ("work.py", SCRIPT))
    run = submit(browser, form, {"more": "seconds=0\nfail=3", "tags": "a=1"})
    assert client.wait(run) == "EXECUTOR_ERROR"
    again = browser.post(f"/ui/runs/{run}/again").headers["location"]
    page = unescape(browser.get(again).text)
    assert "seconds=0\nfail=3" in page
    assert "a=1" in page
    second = submit(browser, again, {"more": "seconds=0", "tags": "a=2"})
    assert second != run
    assert client.wait(second) == "COMPLETE"
    assert client.get(f"/runs/{second}")["request"]["tags"] == {"a": "2"}


def test_a_run_is_resumed_by_a_new_one_that_keeps_finished_tasks(browser, client, tmp_path):
    script = (
        "import pathlib, sys\nimport toilfn as toil\n"
        "folder = pathlib.Path(sys.argv[1].partition('=')[2])\n"
        "@toil.task\ndef good(folder):\n    with open(folder + '/count', 'a') as log:\n        log.write('x')\n"
        "    return 1\n"
        "@toil.task(retries=0)\ndef bad(n, folder):\n    if not pathlib.Path(folder, 'go').exists():\n"
        "        raise ValueError('not yet')\n    return n\n"
        "print(toil.compute(bad(good(str(folder)), str(folder))))\n"
    )
    run = submit(browser, begin(browser, ("work.py", script)), {"more": f"folder={tmp_path}"})
    assert client.wait(run) == "EXECUTOR_ERROR"
    (tmp_path / "go").touch()
    again = browser.post(f"/ui/runs/{run}/again", keep="yes").headers["location"]
    second = submit(browser, again, {"more": f"folder={tmp_path}", "keeps": "yes"})
    assert client.wait(second) == "COMPLETE", client.get(f"/runs/{second}")
    assert (tmp_path / "count").read_text() == "x"
    assert client.state(run) == "EXECUTOR_ERROR"


@pytest.mark.parametrize(("fields", "files", "words"), [
    ({"url": ""}, [], "choose the files of a workflow, or give a URL"),
    ({"url": "https://a.example/a.cwl"}, [("a.cwl", CWL)], "not both"),
    ({}, [("a.txt", "x")], "choose its kind"),
    ({"url": "file:///etc/passwd", "kind": "CWL"}, [], "is not a file in a folder"),
    ({}, [("../a.cwl", CWL)], "must stay in its folder"),
])  # fmt: skip
def test_a_text_that_cannot_be_a_document_is_refused_on_the_page(browser, server, fields, files, words):
    before = set((server.place / "work").iterdir())
    answer = send(browser, "/ui/submit", fields, *(("workflow_attachment", *file) for file in files))
    assert answer.status_code == 400
    assert words in unescape(answer.text)
    assert "<form" in answer.text
    assert set((server.place / "work").iterdir()) == before


def test_a_broken_document_says_so_and_can_be_left(browser):
    form = begin(browser, ("a.cwl", "cwlVersion: v1.2\nclass: CommandLineTool\n"))
    page = browser.get(form).text
    assert "The document cannot be read" in page
    assert "inputs" in page


def test_one_of_several_documents_is_chosen(browser):
    form = begin(browser, ("a.cwl", CWL), ("main.cwl", CWL.replace("times", "often")))
    assert "often" in browser.get(form).text
    assert "times" in browser.get(f"{form}?document=a.cwl").text


def test_files_of_inputs_stay_in_their_folder(browser, server):
    form = begin(browser, ("count.cwl", CWL))
    answer = send(browser, form, {}, ("file:../../x", "../../evil", "x"))
    assert answer.status_code == 400
    assert not list(server.place.rglob("evil"))


def test_drafts_are_visible_only_to_their_user(browser):
    for path in ("/ui/submit/run-1", f"/ui/submit/run-{'0' * 32}"):
        assert browser.get(path).status_code == 404
        assert send(browser, path, {}).status_code == 404


def test_forms_of_other_sites_start_nothing(browser):
    form = begin(browser, ("work.py", SCRIPT))
    for path in ("/ui/submit", form):
        answer = browser.session.post(browser.url + path, files=[("more", (None, ""))], timeout=60,
                                      headers={"Origin": "http://evil.example"})  # fmt: skip
        assert answer.status_code == 403


def field(base: str, *, array: bool = False) -> Field:
    return Field("x", base, base, array, False, None, (), "")


@pytest.mark.parametrize(("given", "text", "kind", "value"), [
    (field("int"), "-3", "CWL", -3),
    (field("float"), "1e3", "WDL", 1000.0),
    (field("boolean"), "false", "CWL", False),
    (field("string"), " a ", "CWL", " a "),
    (field("string", array=True), "a\nb", "WDL", ["a", "b"]),
    (field("int", array=True), "1\n2", "WDL", [1, 2]),
    (field("File"), "given/a b.txt", "CWL", {"class": "File", "path": "given/a b.txt"}),
    (field("File"), "https://a.example/b%20c", "CWL", {"class": "File", "location": "https://a.example/b%20c"}),
    (field("File"), "given/a b.txt", "WDL", "given/a b.txt"),
    (field("File", array=True), "a\nb", "WDL", ["a", "b"]),
    (field("other"), '{"a": [1, null]}', "CWL", {"a": [1, None]}),
])  # fmt: skip
def test_a_text_means_a_value_and_is_found_again(given, text, kind, value):
    assert value_of(given, text, kind) == value
    assert value_of(given, text_of(given, value), kind) == value


@pytest.mark.parametrize(("given", "text"), [
    (field("int"), "1.5"), (field("float"), "x"), (field("boolean"), "yes"), (field("other"), "{"),
    (field("File"), "{"),
])  # fmt: skip
def test_a_text_that_is_no_value_is_refused(given, text):
    with pytest.raises(InputError, match=r"^x: "):
        value_of(given, text, "CWL")


def test_options_of_a_script_are_found_again():
    params = {"a": "1", "flag": True, "many": ["x", "y=z"], "args": ["one"]}
    text = text_of_script_params(params)
    assert script_params(text.splitlines()) == {**params, "flag": None}


def test_a_document_that_cannot_be_read_has_a_problem(tmp_path):
    for kind in ("CWL", "WDL"):
        assert describe(str(tmp_path / "nowhere"), kind, tmp_path).problem
