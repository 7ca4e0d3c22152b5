"""Runs of a server, by requests: each answer is compared with the specification."""

from __future__ import annotations

import json
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
import requests

from tests.server.wes import PREFIX, SCRIPT

TOOL = """\
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [cat]
inputs: {file: {type: File, inputBinding: {}}}
outputs: {out: stdout}
stdout: out.txt
"""
WDL = """\
version 1.0
task shout {
  input { String word }
  command { echo ~{word} }
  output { String said = read_string(stdout()) }
}
"""
FORM = {"workflow_type": "PYTHON", "workflow_type_version": "3", "workflow_url": "work.py"}


def test_the_service_says_what_it_is(client):
    info = client.get("/service-info")
    assert info["type"] == {"group": "org.ga4gh", "artifact": "wes", "version": "1.1.0"}
    assert info["supported_wes_versions"] == ["1.0.0", "1.1.0"]
    assert {"CWL", "WDL", "PYTHON"} == set(info["workflow_type_versions"])


def test_a_script_runs(client):
    run = client.script(tags='{"who": "me"}')
    assert client.wait(run) == "COMPLETE"
    log = client.get(f"/runs/{run}")
    assert (log["state"], log["run_log"]["exit_code"], log["request"]["tags"]) == ("COMPLETE", 0, {"who": "me"})
    assert requests.get(log["run_log"]["stdout"], timeout=10).text == "worked\n"
    assert log["run_log"]["start_time"] <= log["run_log"]["end_time"]


def test_a_script_that_fails_says_so(client):
    run = client.script(params={"fail": 3})
    assert client.wait(run) == "EXECUTOR_ERROR"
    assert client.get(f"/runs/{run}")["run_log"]["exit_code"] == 3


def test_cwl_with_attachments_in_folders(client):
    fields = {
        "workflow_type": "cwl", "workflow_type_version": "v1.2", "workflow_url": "tools/cat.cwl",
        "workflow_params": json.dumps({"file": {"class": "File", "location": "data%20files/in.txt"}}),
    }  # fmt: skip
    run = client.post(fields, {"tools/cat.cwl": TOOL, "data files/in.txt": "content\n"})["run_id"]
    assert client.wait(run) == "COMPLETE", client.get(f"/runs/{run}")
    out = client.get(f"/runs/{run}")["outputs"]["out"]
    assert (out["basename"], out["size"]) == ("out.txt", 8)
    assert requests.get(out["location"], timeout=10).text == "content\n"
    assert Path(out["path"]).read_text() == "content\n"


@pytest.mark.parametrize("url", [".", "../echo.cwl#main"])
def test_a_document_that_toils_client_sends_alone(url, client):
    """It calls the document "." and sends it twice, since cwltool names it twice."""
    tool = (
        "cwlVersion: v1.2\nclass: CommandLineTool\nid: main\nbaseCommand: [echo, hello]\n"
        "inputs: {}\noutputs: {out: stdout}\nstdout: out.txt\n"
    )
    fields = {"workflow_type": "cwl", "workflow_type_version": "v1.2", "workflow_url": url}
    parts = [(name, (None, value)) for name, value in fields.items()]
    parts += [("workflow_attachment", (".", tool))] * 2
    run = client.request("POST", "/runs", files=parts)["run_id"]
    assert client.wait(run) == "COMPLETE", client.get(f"/runs/{run}")
    assert client.get(f"/runs/{run}")["outputs"]["out"]["size"] == 6


@pytest.mark.parametrize("url", ["..", "../..", "../../x.cwl", "../"])
def test_a_lone_document_has_no_other_names(url, client):
    fields = {"workflow_type": "cwl", "workflow_type_version": "v1.2", "workflow_url": url}
    parts = [(name, (None, value)) for name, value in fields.items()] + [("workflow_attachment", (".", "x"))]
    assert "workflow_url" in client.request("POST", "/runs", files=parts, status=400)["msg"]


def test_wdl(client):
    fields = {
        "workflow_type": "WDL", "workflow_type_version": "draft-2", "workflow_url": "shout.wdl",
        "workflow_params": '{"word": "hello"}',
        "workflow_engine_parameters": '{"--container": "none"}',
    }  # fmt: skip
    run = client.post(fields, {"shout.wdl": WDL})["run_id"]
    assert client.wait(run) == "COMPLETE", client.get(f"/runs/{run}")
    assert client.get(f"/runs/{run}")["outputs"] == {"shout.said": "hello"}


def test_tasks_of_a_large_run_are_not_read_again_after_a_restart(start):
    first = start()
    client = first.client()
    run = client.script("import toilfn as toil\n@toil.task\ndef add(n):\n    return n\n"
                        "toil.compute([add(n) for n in range(3000)])\n")  # fmt: skip
    assert client.wait(run, limit=300) == "COMPLETE"
    file = first.place / "work" / run / "fold.cache"
    assert file.stat().st_size > 0  # its leader has written it, although nobody has asked for tasks yet
    page = client.get(f"/runs/{run}/tasks?page_size=10")
    first.stop()
    for segment in sorted((first.place / "work" / run / "store" / "log").iterdir())[:-1]:
        segment.write_bytes(b"not read")
    first.start()
    assert client.get(f"/runs/{run}/tasks?page_size=10") == page


def test_tasks_are_listed_in_pages_and_one_by_one(client):
    run = client.script(
        "import toilfn as toil\n"
        "@toil.task\ndef shout(n):\n    print('number', n)\n    return n\n"
        "toil.compute([shout(n) for n in range(25)])\n"
    )
    assert client.wait(run) == "COMPLETE"
    seen, token = [], ""
    while True:
        page = client.get(f"/runs/{run}/tasks", params={"page_size": 10, "page_token": token})
        assert len(page["task_logs"]) <= 10
        seen += page["task_logs"]
        token = page["next_page_token"]
        if not token:
            break
    assert len({task["id"] for task in seen}) == 25
    task = client.get(f"/runs/{run}/tasks/{seen[0]['id']}")
    assert task == seen[0]
    assert (task["name"], task["exit_code"]) == ("shout", 0)
    assert requests.get(task["stdout"], timeout=10).text.startswith("number ")
    client.get(f"/runs/{run}/tasks/ff00", status=404)
    client.get(f"/runs/{run}/tasks?page_token=nonsense", status=404)


def test_pages_of_runs_stay_stable_while_others_are_submitted(client):
    runs = [client.script() for _ in range(5)]
    first = client.get("/runs?page_size=2")
    late = client.script()
    seen, token = [run["run_id"] for run in first["runs"]], first["next_page_token"]
    while token:
        page = client.get("/runs", params={"page_size": 2, "page_token": token})
        assert 0 < len(page["runs"]) <= 2
        seen += [run["run_id"] for run in page["runs"]]
        token = page["next_page_token"]
    assert seen[:5] == runs[::-1]
    assert late not in seen
    assert len(seen) == len(set(seen))
    for run in [*runs, late]:
        client.wait(run)


def test_clients_of_older_versions(client, server):
    listed = client.get("/runs/")
    assert listed["workflows"] == listed["runs"]
    run = client.script(workflow_type="py", workflow_type_version="2.7", workflow_params="")
    client.wait(run)
    for name in ("stdout", "stderr"):
        assert requests.get(f"{server.url}/toil/wes/v1/logs/{run}/{name}", timeout=10).status_code == 200
    assert requests.get(server.url, timeout=10).json()["version"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workflow_type": "nextflow"}, "CWL, WDL, PYTHON"),
        ({"workflow_type_version": "v9"}, "3.10"),
        ({"workflow_type": ""}, "workflow_type: is missing"),
        ({"workflow_url": "other.py"}, "no workflow_attachment has this name"),
        ({"workflow_url": "../work.py"}, "workflow_url"),
        ({"workflow_url": "%2e%2e/work.py"}, "workflow_url"),
        ({"workflow_url": "/etc/passwd"}, "not a file in a folder"),
        ({"workflow_url": "file:///etc/passwd"}, "not a file in a folder"),
        ({"workflow_url": "ftp://host/work.py"}, "cannot be read"),
        ({"workflow_params": "[1]"}, "workflow_params: must be a JSON object"),
        ({"workflow_params": "{"}, "workflow_params: is not JSON"),
        ({"workflow_params": '{"a": NaN}'}, "workflow_params: is not JSON"),
        ({"workflow_params": '{"a":' + "[" * 200_000 + "]" * 200_000 + "}"}, "nested too deeply"),
        ({"tags": '{"a": {}}'}, "tags"),
        ({"workflow_engine": "cromwell"}, "it has toilfn"),
        ({"workflow_engine_version": "0.1.0"}, "workflow_engine: is missing"),
        ({"workflow_engine_parameters": '{"--rescue": "1"}'}, "allowed are"),
        ({"workflow_engine_parameters": '{"--retry": "1"}'}, "did you mean 'retries'"),
        ({"workflow_engine_parameters": '{"--retries": "many"}'}, "retries"),
        ({"workflow_engine_parameters": '{"--store-options": "a=b"}'}, "not an allowed option"),
        ({"workflow_engine_parameters": '{"--cluster": "slurm"}'}, "not an allowed option"),
    ],
)
def test_a_document_that_cannot_be_run_is_refused_with_a_reason(client, change, message):
    refusal = client.post(FORM | change, {"work.py": SCRIPT}, status=400)
    assert message in refusal["msg"]
    assert refusal["status_code"] == 400


def test_engine_parameters_become_options(client):
    parameters = {"--retryCount": "4", "maxMemory": "3G", "--doubleMem": None, "--logDebug": None, "--outdir": "/x"}
    run = client.script(workflow_engine_parameters=json.dumps(parameters))
    client.wait(run)
    command = client.get(f"/runs/{run}")["run_log"]["cmd"]
    assert {"--retries=4", "--max-memory=3G", "--double-memory", "--log-level=debug"} <= set(command)
    assert "/x" not in " ".join(command)


def test_a_document_in_an_allowed_folder(client, server):
    document = Path(server.place).parent / "allowed" / "work.py"
    document.write_text(SCRIPT)
    outside = Path(server.place).parent / "secret.py"
    outside.write_text(SCRIPT)
    (document.parent / "link.py").symlink_to(outside)
    run = client.post(FORM | {"workflow_url": document.as_uri()})["run_id"]
    assert client.wait(run) == "COMPLETE"
    client.post(FORM | {"workflow_url": (document.parent / "link.py").as_uri()}, status=400)
    client.post(FORM | {"workflow_url": f"{document.parent}/../secret.py"}, status=400)


@pytest.mark.parametrize("id", ["run-1", "..%2f..%2fetc", "%2e%2e", "run-" + "0" * 32, "run-" + "G" * 32])
def test_unknown_runs(client, id):
    for path in ("", "/status", "/tasks", "/tasks/00"):
        client.get(f"/runs/{id}{path}", status=404)
    client.request("POST", f"/runs/{id}/cancel", status=404)


@pytest.mark.parametrize("query", ["page_size=0", "page_size=-1", "page_size=x", "page_token=%00", "page_token=x"])
def test_pages_that_do_not_exist(client, query):
    client.get(f"/runs?{query}", status=400)


def test_streams_by_ranges(client):
    run = client.script("print('0123456789' * 100)")
    client.wait(run)
    url = client.get(f"/runs/{run}")["run_log"]["stdout"]
    part = requests.get(url, headers={"Range": "bytes=5-9"}, timeout=10)
    assert (part.status_code, part.text, part.headers["content-range"]) == (206, "56789", "bytes 5-9/1001")
    assert requests.get(url, headers={"Range": "bytes=-3"}, timeout=10).text == "89\n"
    assert requests.get(url, headers={"Range": "bytes=999-"}, timeout=10).text == "9\n"
    assert requests.get(url, headers={"Range": "bytes=5000-"}, timeout=10).status_code == 416
    assert requests.head(url, timeout=10).headers["content-length"] == "1001"


def raw_status(port: int, path: str) -> int:
    """The status of a request whose path nobody has tidied up."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    with closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def test_outputs_of_a_script_are_the_files_it_leaves(client, server):
    run = client.script(
        "import os, pathlib\n"
        "top = pathlib.Path(os.environ['TOILFN_OUTPUTS'])\n"
        "(top / 'a').mkdir()\n(top / 'a' / 'b c.txt').write_text('found')\n"
        "(top / 'secret').symlink_to('/etc/passwd')\n"
    )
    client.wait(run)
    outputs = client.get(f"/runs/{run}")["outputs"]
    assert list(outputs) == ["a/b c.txt"]
    url = outputs["a/b c.txt"]["location"]
    assert requests.get(url, timeout=10).text == "found"
    for name in ("secret", "../stdout", "..%2fstdout", "%2e%2e/stdout", "a", "a/../../stdout"):
        assert raw_status(server.port, f"{PREFIX}/runs/{run}/outputs/{name}") == 404, name


def test_a_cancelled_run_is_cancelled_in_every_state(client):
    blockers = [client.script(params={"seconds": 300}) for _ in range(2)]
    for run in blockers:
        client.wait(run, "RUNNING")
    queued = client.script()
    assert client.state(queued) == "QUEUED"
    client.cancel(queued)
    assert client.wait(queued) == "CANCELED"
    for run in blockers:
        client.cancel(run)
        client.cancel(run)
        assert client.state(run) in ("CANCELING", "CANCELED")
    assert [client.wait(run) for run in blockers] == ["CANCELED"] * 2
    client.cancel(queued)
    assert client.state(queued) == "CANCELED"


def test_a_run_that_ended_cannot_be_cancelled(client):
    run = client.script()
    assert client.wait(run) == "COMPLETE"
    client.cancel(run)
    assert client.state(run) == "COMPLETE"


def test_other_methods_and_paths_are_refused_as_json(server):
    for method, path, status in [("PUT", "/runs", 405), ("DELETE", "/service-info", 405), ("GET", "/nothing", 404)]:
        answer = requests.request(method, f"{server.url}{PREFIX}{path}", timeout=10)
        assert (answer.status_code, answer.json()["status_code"]) == (status, status)
