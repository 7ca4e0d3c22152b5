"""A real server for tests, and a client that compares every answer with the OpenAPI document."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import requests
import yaml
from openapi_schema_validator import OAS30Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

HERE = Path(__file__).parent
PREFIX = "/ga4gh/wes/v1"
FINAL = {"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED"}
INFO = "https://raw.githubusercontent.com/ga4gh-discovery/ga4gh-service-info/v1.0.0/service-info.yaml"

SCRIPT = """\
import sys, time
import toilfn as toil

@toil.task
def work(seconds):
    time.sleep(float(seconds))
    return "worked"

given = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
print(toil.compute(work(given.get("seconds", 0))))
if "fail" in given:
    sys.exit(int(given["fail"]))
"""
"""A workflow that takes as long as it is told, and ends as it is told."""


def _read(name: str) -> Any:
    # YAML reads the statuses as numbers.
    return json.loads(json.dumps(yaml.safe_load((HERE / name).read_text()), default=str))


@cache
def specification() -> tuple[dict[str, Any], Registry[Any]]:
    """The OpenAPI document, and whatever it refers to."""
    document = _read("wes-1.1.0.openapi.yaml")
    resources = [("urn:wes", document), (INFO, _read("service-info-1.0.0.yaml"))]
    made = [(url, Resource.from_contents(content, default_specification=DRAFT202012)) for url, content in resources]
    return document, Registry().with_resources(made)


def validate(method: str, path: str, status: int, body: Any) -> None:
    """Compare an answer with the document's schema for the operation and the status."""
    document, registry = specification()
    templates = {re.sub(r"\{\w+\}", "[^/]+", template): template for template in document["paths"]}
    template = next(templates[pattern] for pattern in templates if re.fullmatch(pattern, path))
    responses = document["paths"][template][method.lower()]["responses"]
    assert str(status) in responses, f"{method} {path} has no status {status}: {body}"
    schema = responses[str(status)]["content"]["application/json"]["schema"]
    OAS30Validator({"$ref": f"urn:wes{schema['$ref']}"}, registry=registry).validate(body)


class Client:
    """Sends requests, and compares answers to those of the specification with it."""

    def __init__(self, url: str, **keywords: Any) -> None:
        self.url = url
        self.session = requests.Session()
        for name, value in keywords.items():
            setattr(self.session, name, value)

    def request(self, method: str, path: str, *, status: int = 200, **keywords: Any) -> Any:
        answer = self.session.request(method, f"{self.url}{PREFIX}{path}", timeout=60, **keywords)
        assert answer.status_code == status, answer.text
        validate(method, path.partition("?")[0].rstrip("/"), status, answer.json())
        return answer.json()

    def get(self, path: str, **keywords: Any) -> Any:
        return self.request("GET", path, **keywords)

    def post(self, fields: dict[str, Any], files: dict[str, str | bytes] | None = None, *, status: int = 200) -> Any:
        parts: list[Any] = [(name, (None, value)) for name, value in fields.items()]
        parts += [("workflow_attachment", (name, content)) for name, content in (files or {}).items()]
        return self.request("POST", "/runs", status=status, files=parts)

    def script(self, text: str = SCRIPT, *, status: int = 200, **given: Any) -> str:
        """Submit a script; gives the run's id."""
        params = given.pop("params", {})
        fields = {
            "workflow_type": "PYTHON", "workflow_type_version": "3", "workflow_url": "work.py",
            "workflow_params": json.dumps(params), **given,
        }  # fmt: skip
        return self.post(fields, {"work.py": text}, status=status).get("run_id", "")

    def state(self, run: str) -> str:
        return self.get(f"/runs/{run}/status")["state"]

    def cancel(self, run: str) -> None:
        assert self.request("POST", f"/runs/{run}/cancel") == {"run_id": run}

    def wait(self, run: str, *states: str, limit: float = 120) -> str:
        """Wait until a run is in one of the states; by default in a final one."""
        end = time.monotonic() + limit
        while (state := self.state(run)) not in (states or FINAL):
            assert state not in FINAL, self.get(f"/runs/{run}")
            assert time.monotonic() < end, f"{run} is still {state}"
            time.sleep(0.1)
        return state


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """``toilfn server`` in a process of its own."""

    def __init__(self, place: Path | str, *options: str, log: Path, port: int = 0) -> None:
        self.place = place
        self.port = port or free_port()
        self.log = log
        self.command = ["toilfn", "server", f"--place={place}", f"--port={self.port}", *options]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        with self.log.open("ab") as log:
            program = os.path.join(os.path.dirname(sys.executable), self.command[0])
            self.process = subprocess.Popen([program, *self.command[1:]], stdout=log, stderr=log)
        end = time.monotonic() + 60
        while True:
            try:
                requests.get(f"{self.url}/engine/v1/status", timeout=5).raise_for_status()
                return self
            except requests.RequestException:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.1)

    def client(self, **keywords: Any) -> Client:
        return Client(self.url, **keywords)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(30)

    def end(self) -> None:
        """Cancel all runs, wait for their ends, and stop."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        client = self.client()
        for run in client.get("/runs?page_size=1000")["runs"]:
            if run["state"] not in FINAL:
                client.cancel(run["run_id"])
        for run in client.get("/runs?page_size=1000")["runs"]:
            client.wait(run["run_id"])
        self.stop()
