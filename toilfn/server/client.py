"""``toilfn wes``: submit runs to a WES server, toilfn's or another one, and manage them."""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

from toilfn.cli.common import print_json, print_table
from toilfn.cli.parser import Parser
from toilfn.errors import InputError, ToilfnError
from toilfn.server.needs import Upload, upload_of
from toilfn.stdio import unfailing_standard_error
from toilfn.text import visible

__all__ = ["Client", "WESError", "command", "configure", "main"]

ENDPOINT_VARIABLES = ("TOILFN_WES_ENDPOINT", "TOIL_WES_ENDPOINT")
_ENDPOINT = "http://localhost:8080"
_PREFIX = "/ga4gh/wes/v1"
_FINAL = {"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED", "PREEMPTED"}
_LONGEST_PAUSE = 5.0
_CHUNK = 1 << 20


class WESError(ToilfnError):
    """A server refused a request, or could not be reached."""


class Client:
    """A connection to a WES server.

    Parameters
    ----------
    endpoint : str
        The server's URL. If it has no path, ``/ga4gh/wes/v1`` is appended.
    """

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(f"{endpoint!r} is not the URL of a server", hint="use http://HOST:PORT or https://HOST")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or _PREFIX}"

    def get(self, path: str, **query: Any) -> Any:
        """Send a GET request, and return the JSON value of the response."""
        asked = f"?{urlencode(query)}" if query else ""
        return self._json(Request(f"{self.url}{path}{asked}"))  # noqa: S310 - the scheme was checked

    def submit(self, fields: Mapping[str, str], files: Sequence[tuple[str, Path]]) -> str:
        """Submit a run, and return its id. Files are sent in pieces, so they need not fit into memory."""
        form = _Form(fields, files)
        request = Request(f"{self.url}/runs", data=form.pieces(), method="POST")  # noqa: S310
        request.add_header("Content-Type", form.content_type)
        request.add_header("Content-Length", str(form.size))
        return str(self._json(request)["run_id"])

    def cancel(self, run: str) -> None:
        """Cancel a run."""
        self._json(Request(f"{self.url}/runs/{quote(run)}/cancel", data=b"", method="POST"))  # noqa: S310

    def wait(self, run: str) -> str:
        """Wait until a run has ended, and return its state. Temporary failures of the server are tolerated."""
        pause, failures = 0.2, 0
        while True:
            try:
                state = str(self.get(f"/runs/{quote(run)}/status")["state"])
                failures = 0
            except WESError:
                failures += 1
                if failures > 20:
                    raise
                state = ""
            if state in _FINAL:
                return state
            time.sleep(pause)
            pause = min(pause * 1.2, _LONGEST_PAUSE)

    def copy(self, url: str, target: BinaryIO) -> None:
        """Write the response at a URL of the server to a stream."""
        place = url if "://" in url else f"{self.url}/{url.lstrip('/')}"
        with self._open(Request(place)) as source:  # noqa: S310
            while chunk := source.read(_CHUNK):
                target.write(chunk)

    def _json(self, request: Request) -> Any:
        with self._open(request) as answer:
            try:
                return json.loads(answer.read())
            except ValueError:
                raise WESError(f"{request.full_url}: the response is not JSON; is this a WES server?") from None

    def _open(self, request: Request) -> Any:
        # Send the credential only to this server, since URLs in its responses may point to others.
        if request.full_url.startswith(self.url.partition(urlsplit(self.url).path)[0]):
            for name, value in _credential().items():
                request.add_header(name, value)
        try:
            return urlopen(request, timeout=300)  # noqa: S310
        except HTTPError as error:
            raise WESError(f"{request.full_url}: {_reason(error)}") from None
        except (URLError, OSError) as error:
            raise WESError(f"cannot reach {request.full_url}: {getattr(error, 'reason', error)}") from None


def _credential() -> dict[str, str]:
    """Return the header with the user's credential. It comes from the environment, since command lines are public."""
    if token := os.environ.get("TOILFN_WES_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    for prefix in ("TOILFN", "TOIL"):
        user, password = os.environ.get(f"{prefix}_WES_USER"), os.environ.get(f"{prefix}_WES_PASSWORD")
        if user and password:
            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
    return {}


def _reason(error: HTTPError) -> str:
    text = error.read(1 << 16)
    try:
        return f"{error.code} {json.loads(text)['msg']}"
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"


class _Form:
    """A form with files, which is sent in pieces. Its total size is known before, for the header Content-Length."""

    def __init__(self, fields: Mapping[str, str], files: Sequence[tuple[str, Path]]) -> None:
        boundary = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._parts: list[bytes | Path] = []
        start = f"--{boundary}\r\nContent-Disposition: form-data; name="
        for name, value in fields.items():
            self._parts.append(f'{start}"{name}"\r\n\r\n{value}\r\n'.encode())
        for name, path in files:
            quoted = name.replace("\\", "\\\\").replace('"', '\\"')
            head = f'{start}"workflow_attachment"; filename="{quoted}"\r\n\r\n'
            self._parts += [head.encode(), path, b"\r\n"]
        self._parts.append(f"--{boundary}--\r\n".encode())
        self.size = sum(len(part) if isinstance(part, bytes) else part.stat().st_size for part in self._parts)

    def pieces(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
                continue
            with part.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="run|submit|list|status|logs|outputs|cancel|info")
    for verb, help in (("run", "submit a workflow, wait for it, and print its outputs"),
                       ("submit", "submit a workflow, and print the id of the run")):  # fmt: skip
        one = verbs.add_parser(verb, help=help)
        _add_submission(one)
        _add_endpoint(one)
    listing = verbs.add_parser("list", help="list runs, the newest first")
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="maximum number of runs (default: 50)")
    listing.add_argument("--json", action="store_true", help="print JSON, for programs")
    _add_endpoint(listing)
    for verb, help in (("status", "print a run's state"), ("outputs", "print a run's outputs"),
                       ("cancel", "cancel a run")):  # fmt: skip
        one = verbs.add_parser(verb, help=help)
        one.add_argument("run", metavar="RUN", help="id of the run")
        _add_endpoint(one)
    logs = verbs.add_parser("logs", help="print the output of a run, or of one of its tasks")
    logs.add_argument("run", metavar="RUN", help="id of the run")
    logs.add_argument("task", metavar="TASK", nargs="?", help="name of a task, or the beginning of its id")
    logs.add_argument("--stdout", action="store_true", help="print standard output instead of standard error")
    _add_endpoint(logs)
    _add_endpoint(verbs.add_parser("info", help="describe the server and the kinds of workflows that it runs"))


def _add_endpoint(parser: argparse.ArgumentParser) -> None:
    default = next((os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)), _ENDPOINT)
    parser.add_argument("--endpoint", "--wes_endpoint", default=default, metavar="URL",
                        help=f"URL of the server (default: {ENDPOINT_VARIABLES[0]}, else {_ENDPOINT})")  # fmt: skip


def _add_submission(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow", metavar="WORKFLOW", help="path or URL of a CWL or WDL document or a Python script")
    parser.add_argument("inputs", metavar="INPUTS", nargs="?", help="JSON or YAML file with the inputs")
    parser.add_argument("--attach", action="append", default=[], metavar="PATH", help="file or folder to upload, "
                        "in addition to the files that the document refers to; may be repeated")  # fmt: skip
    parser.add_argument(
        "--tag", action="append", default=[], metavar="NAME=VALUE", help="tag of the run; may be repeated"
    )
    parser.add_argument("--engine", action="append", default=[], metavar="OPTION[=VALUE]",
                        help="option for the engine, such as retries=2; may be repeated")  # fmt: skip


def _pairs(words: Sequence[str]) -> dict[str, str | None]:
    return {name: value if given else None for name, given, value in (word.partition("=") for word in words)}


def submitted(client: Client, upload: Upload, tags: Mapping[str, Any], engine: Mapping[str, Any]) -> str:
    """Submit a workflow with the files it needs, and return the run's id."""
    fields = {
        "workflow_type": upload.kind, "workflow_type_version": upload.version, "workflow_url": upload.url,
        "workflow_params": json.dumps(upload.params), "tags": json.dumps(tags),
        "workflow_engine_parameters": json.dumps(engine),
    }  # fmt: skip
    return client.submit(fields, upload.files)


def exit_status(client: Client, run: str, state: str) -> int:
    """Return the exit status for a finished run: that of its command if known, else by the state."""
    code = client.get(f"/runs/{quote(run)}")["run_log"].get("exit_code")
    if state == "CANCELED":
        return 130
    return int(code) if code is not None else int(state != "COMPLETE")


def _run(client: Client, options: argparse.Namespace) -> int:
    upload = upload_of(options.workflow, options.inputs, options.attach)
    tags = {name: value or "" for name, value in _pairs(options.tag).items()}
    run = submitted(client, upload, tags, _pairs(options.engine))
    if options.verb == "submit":
        print(run)
        return 0
    print(f"submitted {run}", file=sys.stderr)
    try:
        state = client.wait(run)
    except KeyboardInterrupt:
        client.cancel(run)
        raise KeyboardInterrupt(f"{run} was cancelled") from None
    return finished(client, run, state)


def finished(client: Client, run: str, state: str) -> int:
    """Print the outputs of a finished run, or the reason why there are none; return the exit status."""
    log = client.get(f"/runs/{quote(run)}")
    if state == "COMPLETE":
        print_json(log.get("outputs") or {})
        return exit_status(client, run, state)
    if url := log["run_log"].get("stderr"):
        sys.stderr.flush()
        client.copy(url, sys.stderr.buffer)
    for note in log["run_log"].get("system_logs") or []:
        print(visible(str(note)), file=sys.stderr)
    print(f"{run} ended as {state}", file=sys.stderr)
    return exit_status(client, run, state) or 1


def _list(client: Client, options: argparse.Namespace) -> int:
    runs: list[dict[str, Any]] = []
    token = ""
    while len(runs) < options.limit:
        page = client.get("/runs", page_size=min(options.limit - len(runs), 1000), page_token=token)
        runs += page.get("runs") or page.get("workflows") or []
        if not (token := page.get("next_page_token") or ""):
            break
    if options.json:
        print_json(runs)
        return 0
    rows = [
        [run["run_id"], run.get("state", ""), run.get("start_time", ""), run.get("end_time", ""),
         " ".join(f"{name}={value}" for name, value in (run.get("tags") or {}).items())] for run in runs
    ]  # fmt: skip
    print_table(["run", "state", "started", "ended", "tags"], rows)
    return 0


def _logs(client: Client, options: argparse.Namespace) -> int:
    log = client.get(f"/runs/{quote(options.run)}")["run_log"]
    url = log.get("stdout" if options.stdout else "stderr")
    if options.task:
        url = _task(client, options.run, options.task).get("stdout")
    if url:
        sys.stdout.flush()
        client.copy(url, sys.stdout.buffer)
    return 0


def _task(client: Client, run: str, wanted: str) -> dict[str, Any]:
    token, found = "", list[dict[str, Any]]()
    while True:
        page = client.get(f"/runs/{quote(run)}/tasks", page_size=1000, page_token=token)
        found += [task for task in page["task_logs"] if task["name"] == wanted or task["id"].startswith(wanted)]
        if not (token := page.get("next_page_token") or ""):
            break
    if len(found) != 1:
        raise InputError(f"{len(found)} tasks of {run} match {wanted!r}", hint="pass the id of one of them")
    return found[0]


def command(options: argparse.Namespace) -> int:
    """Execute the command."""
    client = Client(options.endpoint)
    match options.verb:
        case "run" | "submit":
            return _run(client, options)
        case "list":
            return _list(client, options)
        case "logs":
            return _logs(client, options)
        case "info":
            print_json(client.get("/service-info"))
        case "status":
            print(client.get(f"/runs/{quote(options.run)}/status")["state"])
        case "outputs":
            print_json(client.get(f"/runs/{quote(options.run)}").get("outputs") or {})
        case "cancel":
            client.cancel(options.run)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``toilfn-wes-cwl-runner``, which runs a CWL document on a server and can be used by cwltest.

    Options that this command does not know become parameters of the engine.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line. Default: that of this process.
    """
    parser = Parser(prog="toilfn-wes-cwl-runner", description="Run a CWL document on a WES server.")
    parser.add_argument("workflow", metavar="WORKFLOW")
    parser.add_argument("inputs", metavar="INPUTS", nargs="?")
    _add_endpoint(parser)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        from toilfn import __version__

        print(f"toilfn-wes-cwl-runner {__version__}")
        return 0
    engine = [word for word in words if word.startswith("--") and not word.startswith(("--endpoint", "--wes_endpoint"))]
    options = parser.parse_args([word for word in words if word not in engine])
    with unfailing_standard_error():
        try:
            client = Client(options.endpoint)
            upload = upload_of(options.workflow, options.inputs, [], kind="CWL")
            run = submitted(client, upload, {}, _pairs(engine))
            return finished(client, run, client.wait(run))
        except ToilfnError as error:
            print(visible(f"toilfn-wes-cwl-runner: {error}"), file=sys.stderr)
            return 1
