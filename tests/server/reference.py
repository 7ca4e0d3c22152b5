"""GA4GH's own client against a server: it submits, lists, reads and ends runs of CWL and WDL.

``python -m tests.server.reference --tool DIR/bin/wes-client``, from an environment that has ``wes-service``. The
command cannot end runs, so that the library beside it does that. WDL needs podman and an image: the tests' own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from tests.cwl.conformance import servers
from tests.server.wes import Client, Server
from tests.servers.containers import IMAGE, Containers

CWL = """\
cwlVersion: v1.0
class: CommandLineTool
baseCommand: [sh, -c, 'sleep $0; cat $1']
inputs: {seconds: {type: int, inputBinding: {position: 1}}, file: {type: File, inputBinding: {position: 2}}}
outputs: {out: stdout}
stdout: out.txt
"""
WDL = f"""\
version 1.0
task shout {{
  input {{ Int seconds File file }}
  command {{ sleep ~{{seconds}}; cat ~{{file}} }}
  output {{ String said = read_string(stdout()) }}
  runtime {{ docker: "{IMAGE}" }}
}}
"""
CANCEL = """\
import sys
from wes_client.util import WESClient
client = WESClient({"auth": {}, "proto": "http", "host": sys.argv[1]})
print(client.cancel(sys.argv[2]))
"""


class Reference:
    """The client's command, for one server."""

    def __init__(self, tool: Path, server: Server, folder: Path) -> None:
        self._tool, self._folder = tool, folder
        self._host = server.url.removeprefix("http://")

    def run(self, *words: str) -> str:
        command = [str(self._tool), "--proto=http", f"--host={self._host}", *words]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def cancel(self, run: str) -> None:
        python = self._tool.parent / "python"
        subprocess.run([str(python), "-c", CANCEL, self._host, run], check=True, capture_output=True)


def check(reference: Reference, client: Client, document: str, folder: Path) -> None:
    """Submit, wait, list and read a run; submit another one and end it."""
    inputs = {"seconds": 0, "file": {"class": "File", "path": "in.txt"} if document.endswith("cwl") else "in.txt"}
    (folder / "inputs.json").write_text(json.dumps(inputs))
    attachments = f"--attachments=in.txt,{document}"
    outputs = reference.run(attachments, document, "inputs.json")
    run = client.get("/runs")["runs"][0]["run_id"]
    assert client.state(run) == "COMPLETE", client.get(f"/runs/{run}")
    assert ("out.txt" in outputs) or ("hello" in outputs), outputs
    assert run in reference.run("--list")
    assert json.loads(reference.run("--get", run))["state"] == "COMPLETE"
    reference.run("--log", run)
    (folder / "inputs.json").write_text(json.dumps({**inputs, "seconds": 300}))
    reference.run("--no-wait", attachments, document, "inputs.json")
    run = client.get("/runs")["runs"][0]["run_id"]
    client.wait(run, "RUNNING")
    reference.cancel(run)
    assert client.wait(run) == "CANCELED"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", type=Path, required=True)
    options = parser.parse_args()
    with servers(Containers()), tempfile.TemporaryDirectory(prefix="wes-reference-") as name:
        folder, began = Path(name), time.monotonic()
        for path, text in {"tool.cwl": CWL, "tool.wdl": WDL, "in.txt": "hello\n"}.items():
            (folder / path).write_text(text)
        server = Server(folder / "place", log=folder / "log").start()
        try:
            reference = Reference(options.tool.absolute(), server, folder)
            assert json.loads(reference.run("--info"))["supported_wes_versions"]
            for document in ("tool.cwl", "tool.wdl"):
                check(reference, server.client(), document, folder)
                print(f"{document}: submitted, listed, read and ended")
        finally:
            server.end()
        print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
