"""The rights of users, and requests that are meant to do harm."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import requests

from tests.server.wes import PREFIX, SCRIPT

FORM = {"workflow_type": "PYTHON", "workflow_type_version": "3", "workflow_url": "work.py"}


def token(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = os.path.join(os.path.dirname(sys.executable), "toilfn")
    command = [program, "server", "token", *words, f"--place={place}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_server_for_other_machines_needs_a_token(tmp_path):
    program = os.path.join(os.path.dirname(sys.executable), "toilfn")
    command = [program, "server", "--host=0.0.0.0", f"--place={tmp_path / 'place'}", "--port=0"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "toilfn server token add" in refused.stderr


def test_users_see_and_cancel_their_own_runs(start, tmp_path):
    place = tmp_path / "place"
    tokens = {name: token(place, "add", name).stdout.strip() for name in ("ann", "bob")}
    tokens["boss"] = token(place, "add", "boss", "--operator").stdout.strip()
    assert token(place, "list").stdout.split() == ["ann", "bob", "boss", "operator"]
    for secret in tokens.values():
        assert not [path for path in place.rglob("*") if path.is_file() and secret in path.read_text(errors="ignore")]
    server = start()
    clients = {name: server.client(headers={"Authorization": f"Bearer {text}"}) for name, text in tokens.items()}
    server.client = lambda: clients["boss"]
    run = clients["ann"].script(params={"seconds": 300})
    for name, expected in (("ann", [run]), ("bob", []), ("boss", [run])):
        assert [each["run_id"] for each in clients[name].get("/runs")["runs"]] == expected
    for path in ("", "/status", "/tasks"):
        clients["bob"].get(f"/runs/{run}{path}", status=404)
    clients["bob"].request("POST", f"/runs/{run}/cancel", status=404)
    for name in ("stdout", "stderr", "outputs/x"):
        url = f"{server.url}{PREFIX}/runs/{run}/{name}"
        assert requests.get(url, headers={"Authorization": f"Bearer {tokens['bob']}"}, timeout=10).status_code == 404
    clients["ann"].cancel(run)
    assert clients["boss"].wait(run) == "CANCELED"
    log = server.log.read_text()
    assert f"user=ann client=127.0.0.1 method=POST path='{PREFIX}/runs/{run}/cancel' status=200" in log
    assert not [secret for secret in tokens.values() if secret in log]


def test_credentials(start, tmp_path):
    secret = token(tmp_path / "place", "add", "ann", "--operator").stdout.strip()
    server = start()
    server.client = lambda: type(server).client(server, auth=("ann", secret))
    assert server.client().get("/runs")["runs"] == []
    anonymous = type(server).client(server)
    anonymous.get("/service-info")
    anonymous.get("/runs", status=401)
    anonymous.get("/runs/run-1", status=401)
    anonymous.post(FORM, status=401)
    for auth in (("ann", "wrong"), ("bob", secret)):
        type(server).client(server, auth=auth).get("/runs", status=401)
    for header in ("Bearer wrong", "Bearer", "Basic !!", "Digest x", f"Bearer {secret}x"):
        type(server).client(server, headers={"Authorization": header}).get("/runs", status=401)


def test_pages_of_other_sites_and_names_of_other_hosts_are_refused(client, server):
    url = f"{server.url}{PREFIX}/runs"
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert requests.post(url, headers=headers, timeout=10).status_code == 403
    assert requests.get(url, headers={"Host": "evil.example"}, timeout=10).status_code == 403
    assert "access-control-allow-origin" not in requests.get(url, headers={"Origin": "x"}, timeout=10).headers


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/etc/evil", "%2e%2e/evil", "..\\evil", "a\x01b", "wes_inputs.json", "x" * 300, "./"],
)
def test_attachments_stay_in_their_folder(client, server, name):
    client.post(FORM, {"work.py": SCRIPT, name: "evil"}, status=400)
    assert not list(Path(server.place).parent.rglob("evil"))


def archive(*members: tuple[str, bytes], link: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members:
            made.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            made.writestr(info, "/etc/passwd")
    return buffer.getvalue()


MANIFEST = json.dumps({"mainWorkflowURL": "src/work.py", "inputFileURLs": ["in.json"]}).encode()


@pytest.mark.parametrize(
    "made",
    [
        archive(("only.py", SCRIPT.encode())),
        archive(("main.py", SCRIPT.encode()), ("other.py", b"x")),
        archive(("src/work.py", SCRIPT.encode()), ("MANIFEST.json", MANIFEST), ("in.json", b'{"seconds": 0}')),
    ],
    ids=["alone", "main", "manifest"],
)
def test_archives(client, made):
    run = client.post(FORM | {"workflow_url": "workflow.zip"}, {"workflow.zip": made})["run_id"]
    assert client.wait(run) == "COMPLETE", client.get(f"/runs/{run}")


@pytest.mark.parametrize(
    "made",
    [
        archive(("../evil.py", b"")),
        archive(("/evil.py", b"")),
        archive(("main.py", b""), link="link.py"),
        archive(),
        archive(("MANIFEST.json", b'{"mainWorkflowURL": "../../etc/passwd"}')),
        archive(("MANIFEST.json", b'{"mainWorkflowURL": "file:///etc/passwd"}')),
        archive(("MANIFEST.json", b"[]")),
        archive(("a.txt", b""), ("b.txt", b"")),
        b"not an archive",
    ],
)
def test_harmful_archives_are_refused(client, made):
    refusal = client.post(FORM | {"workflow_url": "workflow.zip"}, {"workflow.zip": made}, status=400)
    assert "workflow_url" in refusal["msg"]


def test_limits_of_a_request(start):
    server = start("--max-field=1Ki", "--max-file=4Ki", "--max-upload=16Ki", "--max-files=3")
    client = server.client()
    bomb = archive(("main.py", b"#" * 1_000_000))
    many = {f"f{n}": "x" for n in range(5)}
    for fields, files in (
        ({"workflow_params": '{"a": "' + "x" * 2000 + '"}'}, {}),
        ({}, {"big": "x" * 5000}),
        ({}, {f"f{n}": "x" * 4000 for n in range(3)} | {"work.py": "x" * 4000}),
        ({}, many),
        ({"workflow_url": "w.zip"}, {"w.zip": bomb}),
    ):
        client.post(FORM | fields, {"work.py": SCRIPT} | files, status=400)
    assert not [path for path in Path(server.place, "work").iterdir() if path.name.startswith("run-")]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=a", b""),
        ("multipart/form-data; boundary=a", b'--a\r\nContent-Disposition: form-data; name="workflow_url"\r\n\r\nx'),
        ("multipart/form-data; boundary=a", b"--a\r\n" + b"X" * 100_000),
        ("multipart/form-data; boundary=a", b"--a\r\n\r\nx\r\n--a--\r\n"),
        ("application/json", b"{}"),
        ("", b"\x00" * 100),
    ],
)
def test_broken_forms_are_refused(client, kind, body):
    client.request("POST", "/runs", status=400, headers={"Content-Type": kind}, data=body)


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(client, server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST {PREFIX}/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=a\r\n"
        part = '--a\r\nContent-Disposition: form-data; name="workflow_attachment"; filename="gone.txt"\r\n\r\nxxx'
        connection.sendall(f"{head}Content-Length: 1000000\r\n\r\n{part}".encode())
    known = len(client.get("/runs")["runs"])
    client.wait(client.script())
    assert len(client.get("/runs")["runs"]) == known + 1
    assert not list(Path(server.place).rglob("gone.txt"))
