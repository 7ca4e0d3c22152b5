"""Documents and inputs from servers."""

from __future__ import annotations

import json
import socket
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cwl.conftest import DOCUMENTS
from toilfn.cwl import load
from toilfn.cwl.runner import main
from toilfn.errors import InputError

TOOL = "/api/ga4gh/v2/tools/quay.io%2Forg%2Fhello/versions/1.0"


class Answers(BaseHTTPRequestHandler):
    """A registry of tools (GA4GH TRS 2.0) with one tool, and files."""

    def __init__(self, *args, **kwargs):
        self.files = {
            f"{TOOL}/CWL/files": json.dumps([{"file_type": "PRIMARY_DESCRIPTOR", "path": "hello.cwl"}]),
            f"{TOOL}/plain-CWL/descriptor/hello.cwl": (DOCUMENTS / "hello.cwl").read_text(),
            "/shout.cwl": (DOCUMENTS / "shout.cwl").read_text(),
            "/text.txt": "from afar\n",
        }
        super().__init__(*args, **kwargs)

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, *, with_body):
        body = self.files.get(self.path)
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or "")))
        self.end_headers()
        if with_body and body is not None:
            self.wfile.write(body.encode())

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def server():
    """The URL of a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Answers)) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_a_tool_from_a_registry(runner, server):
    registry = ("--enable-ga4gh-tool-registry", "--add-ga4gh-tool-registry", server)
    result = runner(*registry, "quay.io/org/hello:1.0", "--message", "hi").result
    assert Path(result["said"]["path"]).read_text() == "hi\n"


def test_a_document_and_an_input_from_a_server(runner, server, tmp_path):
    text = {"class": "File", "location": f"{server}/text.txt"}
    (tmp_path / "job.json").write_text(json.dumps({"text": text, "words": ["a"], "loud": False}))
    result = runner(f"{server}/shout.cwl", "job.json").result
    assert Path(result["joined"]["path"]).read_text() == "a: from afar\n"


def test_a_server_that_says_nothing_is_named(monkeypatch, caplog):
    monkeypatch.setattr("toilfn.cwl.adapters._SILENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/tool.cwl"
        assert main(["--disable-color", url]) == 1
        with pytest.raises(InputError, match=f"{url}(.|\n)*timed out"):
            load(url)
    said = caplog.text
    assert url in said
    assert "timed out" in said
