"""Google Cloud Storage: an emulator, behind a relay that checks the preconditions that the emulator ignores.

``ifGenerationMatch=0`` lets one of several writers of an object win; any other condition is refused, since nothing
of ours sends one. ``python -m tests.servers.gcs start`` prints the variables with which Google's tools find it.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from tests.servers.machine import Server, ServerMissingError, end_process, main, start_daemon, wait_for
from tests.servers.relay import Answer, Relay, Request

PORT, EMULATOR_PORT = 27490, 27491


class Strict(Relay):
    """A relay that checks preconditions: of writes with ``ifGenerationMatch=0`` to one name, one succeeds."""

    def __init__(self, upstream: int, port: int = 0) -> None:
        super().__init__(upstream, port)
        self._writing = threading.Lock()
        self._uploads: dict[str, str] = {}

    def answer(self, request: Request) -> Answer:
        """Refuse requests that the real server refuses."""
        parts = urllib.parse.urlsplit(request.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        unknown = [name for name in query if name.startswith("if") and name != "ifGenerationMatch"]
        if unknown or query.get("ifGenerationMatch", "0") != "0":
            return refusal(400, f"this relay knows no condition but ifGenerationMatch=0: {parts.query}")
        if not parts.path.startswith("/upload/"):
            return self.ask(request)
        with self._writing:
            return self._write(request, parts.path, query)

    def _write(self, request: Request, path: str, query: dict[str, str]) -> Answer:
        upload = query.get("upload_id")
        if upload is not None:
            name = self._uploads.get(upload)
        elif "ifGenerationMatch" in query:
            name = f"/storage/v1{path.removeprefix('/upload/storage/v1')}/{written_name(request, query)}"
        else:
            name = None
        if name is not None and self.ask(Request("GET", name, request.headers, b"")).status != 404:
            return refusal(412, "At least one of the pre-conditions you specified did not hold.")
        answer = self.ask(request)
        if answer.status == 200:  # the emulator says of what is finished, too, how far it has come
            answer = answer._replace(headers=[pair for pair in answer.headers if pair[0] != "Range"])
        if name is not None and upload is None and query.get("uploadType") == "resumable":
            location = dict(answer.headers)["Location"]
            self._uploads[dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(location).query))["upload_id"]] = name
        return answer


def written_name(request: Request, query: dict[str, str]) -> str:
    """Return the name of the object that an upload writes, as a part of a path."""
    if "name" in query:
        return urllib.parse.quote(query["name"], safe="")
    start = request.body.index(b"\n\n") + 2
    described, _ = json.JSONDecoder().raw_decode(request.body[start : start + 20_000].decode(errors="replace"))
    return urllib.parse.quote(described["name"], safe="")


def refusal(status: int, message: str) -> Answer:
    """Refuse a request as Google does."""
    body = json.dumps({"error": {"code": status, "message": message}}).encode()
    return Answer(status, [("Content-Type", "application/json")], body)


class GoogleStorage(Server):
    """Google Cloud Storage with its objects in memory."""

    name = "gcs"
    packages = ()
    commands = ()

    @property
    def url(self) -> str:
        """The address at which the server listens."""
        return f"http://127.0.0.1:{PORT}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which gcsfs finds the server, without gRPC."""
        return {"STORAGE_EMULATOR_HOST": self.url, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

    def configure(self) -> None:
        """Check that the program is installed; the server needs nothing else."""
        if shutil.which("gcp-storage-emulator", path=str(Path(sys.executable).parent)) is None:
            raise ServerMissingError("the emulator is not installed: pip install gcp-storage-emulator")

    def start(self) -> None:
        """Start the emulator and the relay."""
        emulator = str(Path(sys.executable).with_name("gcp-storage-emulator"))
        start_daemon(
            self.folder, "emulator", emulator, "start", "--host=127.0.0.1", f"--port={EMULATOR_PORT}", "--in-memory"
        )
        start_daemon(self.folder, "relay", sys.executable, "-m", "tests.servers.gcs", "serve")
        wait_for(self._answers, "the emulator of Google Storage")

    def stop(self) -> None:
        """Stop both."""
        for name in ("relay", "emulator"):
            end_process(self.folder / f"{name}.pid")

    def _answers(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/storage/v1/b?project=tests", timeout=5) as answer:
            return bool(answer.status == 200)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        Strict(EMULATOR_PORT, PORT).serve_forever()
    else:
        main(GoogleStorage())
