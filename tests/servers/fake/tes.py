"""A strict fake of a GA4GH TES 1.1 server, on loopback, in a thread of the test.

Every request and every answer is checked against the published OpenAPI document (``openapi/tes-1.1.yaml``, from
github.com/ga4gh/task-execution-schemas); what that does not list is refused. Executors run as processes: an input's
path is looked for in the task's own folder, as if that were its container.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from openapi_schema_validator import OAS30ReadValidator, OAS30WriteValidator

BASE = "/ga4gh/tes/v1"
SLOTS = 4
LIVE = ("QUEUED", "INITIALIZING", "RUNNING", "PAUSED", "CANCELING")


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    text = Path(__file__).with_name("openapi").joinpath("tes-1.1.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def validate(kind: str, value: Any, *, is_answer: bool) -> None:
    """Check a value against one of the document's schemas; properties that it does not list are wrong, too."""
    schema = {"$ref": f"#/components/schemas/{kind}", "components": document()["components"]}
    (OAS30ReadValidator if is_answer else OAS30WriteValidator)(schema).validate(value)
    _only_known(document()["components"]["schemas"][kind], value, kind)


def _only_known(schema: dict[str, Any], value: Any, where: str) -> None:
    if "$ref" in schema:
        schema = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if schema.get("type") == "array":
        for item in value:
            _only_known(schema["items"], item, where)
    elif schema.get("type") == "object" and "additionalProperties" not in schema:
        for name, item in value.items():
            if name not in schema.get("properties", {}):
                raise ValueError(f"{where} has no property {name!r}")
            _only_known(schema["properties"][name], item, f"{where}.{name}")


class FakeTES:
    """The server; what tests change about it are its attributes.

    Attributes
    ----------
    user, password, token : str
        Credentials that it asks for, if any.
    images : set of str
        What can be pulled.
    page : int
        The most tasks in one page, whatever was asked for.
    is_away : bool
        Whether all requests are answered with 503.
    loses_answers : int
        How many answers to CreateTask will get lost.
    largest : float
        The most memory that a task may ask for, in GB.
    may_create : threading.Event
        Tasks are taken while it is set; else CreateTask waits for it.
    requests : list of str
        What was asked.
    """

    def __init__(self) -> None:
        self.user = self.password = self.token = ""
        self.images = {"toilfn:test"}
        self.page = 2047
        self.is_away = False
        self.loses_answers = 0
        self.goes_away = False
        self.late: list[threading.Event] = []
        self.largest = 1000.0
        self.may_create = threading.Event()
        self.may_create.set()
        self.requests: list[str] = []
        self.tasks: dict[str, dict[str, Any]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.RLock()
        self._slots = threading.Semaphore(SLOTS)
        self._folder = tempfile.TemporaryDirectory(prefix="fake-tes-")
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[FakeTES]:
        """Serve until the end of the block, and leave nothing behind."""
        thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            for task in list(self.tasks):
                self.stop_task(task, "CANCELED")
            self._http.shutdown()
            self._http.server_close()
            for other in (thread, *self._threads):
                other.join()
            self._folder.cleanup()

    def allows(self, given: str) -> bool:
        """Return whether these credentials are accepted."""
        if self.token:
            return given == f"Bearer {self.token}"
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return not self.user or given == f"Basic {pair}"

    def create(self, body: Any) -> dict[str, Any]:
        """CreateTask."""
        validate("tesTask", body, is_answer=False)
        if body["resources"]["ram_gb"] > self.largest:
            raise ValueError("the server has no machine of this size")
        with self._lock:
            name = f"task-{len(self.tasks) + 1}"
            self.tasks[name] = {**body, "id": name, "state": "QUEUED", "creation_time": _now(), "logs": []}
            thread = threading.Thread(target=self._run, args=(name,))
            self._threads.append(thread)
        thread.start()
        return {"id": name}

    def create_later(self, body: Any, when: threading.Event) -> None:
        """Create a task after the client has stopped waiting for the answer."""

        def create() -> None:
            assert when.wait(60)
            self.create(body)

        self._threads.append(threading.Thread(target=create))
        self._threads[-1].start()

    def show(self, name: str, view: str) -> dict[str, Any]:
        """GetTask."""
        with self._lock:
            return _viewed(json.loads(json.dumps(self.tasks[name])), view)

    def listed(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """ListTasks: filtered by prefix, state and tags, page by page."""
        unknown = query.keys() - {"name_prefix", "state", "tag_key", "tag_value", "page_size", "page_token", "view"}
        size = int(query.get("page_size", ["256"])[0])
        if unknown or not 0 < size < 2048:
            raise ValueError(f"bad query: {query}")
        tags = dict(zip(query.get("tag_key", ()), query.get("tag_value", ()), strict=False))
        with self._lock:
            names = [name for name, task in self.tasks.items() if _matches(task, query, tags)]
        start = int(query.get("page_token", ["0"])[0])
        end = start + min(size, self.page)
        view = query.get("view", ["MINIMAL"])[0]
        page = {"tasks": [self.show(name, view) for name in names[start:end]]}
        return {**page, "next_page_token": str(end)} if end < len(names) else page

    def stop_task(self, name: str, state: str) -> None:
        """End a task in a certain state, as the system or its user may."""
        with self._lock:
            task = self.tasks[name]
            if task["state"] not in LIVE:
                return
            task["state"] = state
            process = self._processes.get(name)
            if process is not None and process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def cancel(self, name: str) -> None:
        """CancelTask: ask the first process to end, as engines of containers do, and end the others after that."""
        with self._lock:
            process = self._processes.get(name)
            if self.tasks[name]["state"] != "RUNNING" or process is None:
                self.stop_task(name, "CANCELED")
                return
            self.tasks[name]["state"] = "CANCELING"
        process.terminate()
        thread = threading.Thread(target=self._finish_off, args=(process,))
        self._threads.append(thread)
        thread.start()

    def _finish_off(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def live(self) -> list[str]:
        """The ids of tasks that run."""
        return [name for name, task in self.tasks.items() if task["state"] == "RUNNING"]

    def _run(self, name: str) -> None:
        with self._slots:
            self._step(name, "INITIALIZING")
            task, log = self.tasks[name], {"logs": [], "outputs": [], "system_logs": [], "start_time": _now()}
            task["logs"].append(log)
            state = "COMPLETE"
            for executor in task["executors"]:
                if executor["image"] not in self.images:
                    log["system_logs"].append(f"cannot pull the image {executor['image']}: manifest unknown")
                    state = "SYSTEM_ERROR"
                    break
                if not self._execute(name, executor, log):
                    state = "EXECUTOR_ERROR"
                    break
            log["end_time"] = _now()
            self._step(name, "CANCELED" if task["state"] == "CANCELING" else state)

    def _execute(self, name: str, executor: dict[str, Any], log: dict[str, Any]) -> bool:
        folder = Path(self._folder.name, name)
        folder.mkdir()
        command = list(executor["command"])
        for number, given in enumerate(self.tasks[name].get("inputs", ())):
            (folder / str(number)).write_text(given["content"])
            command = [word.replace(given["path"], str(folder / str(number))) for word in command]
        with self._lock:
            if not self._step(name, "RUNNING"):
                return False
            env = {"PATH": os.environ["PATH"], "HOME": str(folder), **executor.get("env", {})}
            process = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
            self._processes[name] = process
        out, err = process.communicate()
        status = process.returncode
        outputs = {"stdout": out.decode()[-5000:], "stderr": err.decode()[-5000:]}
        log["logs"].append({"exit_code": status if status >= 0 else 128 - status, **outputs, "end_time": _now()})
        return status == 0

    def _step(self, name: str, state: str) -> bool:
        """Move a task to a state, unless it was cancelled meanwhile."""
        with self._lock:
            if self.tasks[name]["state"] not in LIVE:
                return False
            self.tasks[name]["state"] = state
            return True


def _matches(task: dict[str, Any], query: dict[str, list[str]], tags: dict[str, str]) -> bool:
    own = task.get("tags", {})
    has_tags = all(key in own and value in ("", own[key]) for key, value in tags.items())
    is_named = task.get("name", "").startswith(query.get("name_prefix", [""])[0])
    return has_tags and is_named and query.get("state", [task["state"]])[0] == task["state"]


def _viewed(task: dict[str, Any], view: str) -> dict[str, Any]:
    """Leave out fields that a view does not show."""
    if view == "MINIMAL":
        return {"id": task["id"], "state": task["state"], "executors": []}
    if view == "BASIC":
        for log in task["logs"]:
            log.pop("system_logs", None)
            for executor in log["logs"]:
                executor.pop("stdout", None)
                executor.pop("stderr", None)
        for given in task.get("inputs", ()):
            given.pop("content", None)
    elif view != "FULL":
        raise ValueError(f"there is no view {view}")
    return task


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class _Handler(BaseHTTPRequestHandler):
    fake: FakeTES
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.fake.requests.append(f"{self.command} {self.path}")
        if self.fake.is_away:
            return self._answer(503, {"message": "the service is restarting"})
        if not self.fake.allows(self.headers.get("Authorization", "")):
            return self._answer(401, {"message": "who are you?"})
        if self.command == "POST" and self.path == f"{BASE}/tasks" and self.fake.late:
            self.fake.create_later(json.loads(text), self.fake.late.pop())
            self.close_connection = True
            return None
        try:
            kind, found = self._call(urlsplit(self.path).path, text)
        except KeyError as error:
            return self._answer(404, {"message": f"there is no {error}"})
        except Exception as error:
            return self._answer(400, {"message": str(error)})
        if kind == "tesCreateTaskResponse" and self.fake.loses_answers:
            self.fake.loses_answers -= 1
            self.fake.is_away = self.fake.goes_away
            self.close_connection = True
            return None
        if kind:
            validate(kind, found, is_answer=True)
        return self._answer(200, found)

    def _call(self, path: str, text: bytes) -> tuple[str, Any]:
        if not path.startswith(BASE):
            raise KeyError(path)
        query = parse_qs(
            urlsplit(self.path).query, keep_blank_values=True, strict_parsing=bool(urlsplit(self.path).query)
        )
        name = path.removeprefix(f"{BASE}/tasks/")
        match self.command, path.removeprefix(BASE):
            case "GET", "/service-info":
                return "", {"id": "fake", "name": "fake", "type": {"artifact": "tes", "version": "1.1.0"}}
            case "GET", "/tasks":
                return "tesListTasksResponse", self.fake.listed(query)
            case "POST", "/tasks":
                assert self.fake.may_create.wait(60)
                return "tesCreateTaskResponse", self.fake.create(json.loads(text))
            case "GET", _:
                return "tesTask", self.fake.show(name, query.get("view", ["MINIMAL"])[0])
            case "POST", _ if name.endswith(":cancel"):
                self.fake.cancel(name.removesuffix(":cancel"))
                return "tesCancelTaskResponse", {}
        raise KeyError(path)

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
