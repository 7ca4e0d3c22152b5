"""The files that deploy a server: manifests for Kubernetes, the unit of systemd, and the commands of docs/server.md."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
import yaml

from tests.server.wes import free_port
from tests.servers.fixtures import kubernetes, kubernetes_server
from tests.servers.machine import ServerMissingError, missing
from tests.waiting import wait_for
from toilfn.server.command import make_parser

__all__ = ["kubernetes", "kubernetes_server"]

ROOT = Path(__file__).parents[2]
PLACES = {
    "Deployment": "apis/apps/v1", "Role": "apis/rbac.authorization.k8s.io/v1",
    "RoleBinding": "apis/rbac.authorization.k8s.io/v1",
}  # fmt: skip


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "examples" / "kubernetes" / name).read_text()))


def lost(sent: Any, answered: Any, where: str = "") -> list[str]:
    """List the fields that the API server does not know, or has changed: it drops unknown ones silently."""
    if isinstance(sent, dict):
        known = answered if isinstance(answered, dict) else {}
        return [found for key, value in sent.items() for found in lost(value, known.get(key), f"{where}.{key}")]
    if isinstance(sent, list):
        known = answered if isinstance(answered, list) and len(answered) == len(sent) else [None] * len(sent)
        pairs = enumerate(zip(sent, known, strict=True))
        return [found for i, (one, other) in pairs for found in lost(one, other, f"{where}[{i}]")]
    return [] if str(sent) == str(answered) else [f"{where}: {sent!r} became {answered!r}"]


@pytest.mark.parametrize("name", ["role.yaml", "server.yaml"])
def test_the_api_server_knows_each_field(kubernetes, name):
    namespace = f"server-{uuid4().hex[:8]}"
    kubernetes.ask("/api/v1/namespaces", method="POST", body={"metadata": {"name": namespace}})
    for manifest in manifests(name):
        kind = manifest["kind"]
        for subject in manifest.get("subjects", ()):
            subject["namespace"] = namespace  # as kubectl does
        path = f"/{PLACES.get(kind, 'api/v1')}/namespaces/{namespace}/{kind.lower()}s"
        assert lost(manifest, kubernetes.ask(f"{path}?dryRun=All", method="POST", body=manifest)) == []


def test_an_unknown_field_would_be_found(kubernetes):
    deployment = next(manifest for manifest in manifests("server.yaml") if manifest["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    answer = kubernetes.ask("/apis/apps/v1/namespaces/default/deployments?dryRun=All", method="POST", body=deployment)
    assert lost(deployment, answer) == [".spec.template.spec.containers[0].imagee: 'x' became None"]


def test_the_manifests_fit_together():
    found = {manifest["kind"]: manifest for manifest in [*manifests("role.yaml"), *manifests("server.yaml")]}
    pod = found["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert pod["spec"]["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    assert found["RoleBinding"]["subjects"][0]["name"] == pod["spec"]["serviceAccountName"]
    assert found["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert (
        pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        == (found["PersistentVolumeClaim"]["metadata"]["name"])
    )
    command = container["command"]
    assert command[:2] == ["toilfn", "server"]
    options = make_parser("toilfn server").parse_args(command[2:])
    assert (options.host, options.cluster, options.work_dir) == ("0.0.0.0", "kubernetes", "/work")
    assert options.port == container["ports"][0]["containerPort"]


def test_the_commands_of_compose_and_unit_are_understood():
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["server"]["command"]
    (unit,) = re.findall(r"^ExecStart=/usr/bin/env (.*)$", (ROOT / "docker/toilfn-server.service").read_text(), re.M)
    for words in ([word.replace("${TOILFN_MAX_RUNS:-4}", "4") for word in compose], shlex.split(unit)):
        assert words[:2] == ["toilfn", "server"]
        assert make_parser("toilfn server").parse_args(words[2:]).place.endswith("/wes")


def test_systemd_finds_no_fault_in_the_unit():
    if shutil.which("systemd-analyze") is None:
        missing(ServerMissingError("systemd-analyze is not installed"))
    command = ["systemd-analyze", "verify", str(ROOT / "docker" / "toilfn-server.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "toilfn-server" in line]
    assert (done.returncode, said) == (0, [])


def documented() -> list[list[str]]:
    """The commands under "Who may use it" in docs/server.md."""
    text = (ROOT / "docs" / "server.md").read_text().replace("\\\n", " ")
    section = text.partition("## Who may use it")[2].partition("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^    (toilfn server .*)$", section, re.M)]


def blocks(beginning: str) -> list[str]:
    """The blocks of commands in docs/server.md that begin with something."""
    text = (ROOT / "docs" / "server.md").read_text()
    found = [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n)+", text, re.M)]
    return [block for block in found if block.startswith(beginning)]


def test_the_first_steps_of_the_page_work_in_a_fresh_folder(server, tmp_path):
    (document,), (clients,), (curl,) = blocks("cat > hello.cwl"), blocks("toilfn wes run"), blocks("curl -F")
    environment = {**os.environ, "TOILFN_WES_ENDPOINT": server.url,
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip

    def said(commands: str) -> str:
        done = subprocess.run(["sh", "-ec", commands], cwd=tmp_path, env=environment, capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    said(document)
    run, listed, logs = clients.splitlines()
    assert json.loads(said(run))["said"]["size"] == 6
    (id,) = re.findall(r"^run-\w+", said(listed), re.M)[:1]
    said(logs.replace("RUN", id))
    submitted = json.loads(said(curl.replace("http://localhost:8080", server.url)))["run_id"]
    assert server.client().wait(submitted) == "COMPLETE"


def test_compose_reads_its_file():
    if shutil.which("docker-compose") is None:
        missing(ServerMissingError("docker-compose is not installed"))
    command = ["docker-compose", "-f", str(ROOT / "docker" / "compose.yaml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == {"server"} | {"prometheus", "grafana"}


def test_the_documented_commands_start_a_server_with_users_by_https(tmp_path):
    (certificate,) = blocks("openssl")
    made = certificate.splitlines()[0]
    subprocess.run(shlex.split(made), cwd=tmp_path, check=True, capture_output=True)
    tokens = {}
    for words in documented():
        command = [sys.executable, "-m", "toilfn", *words[1:]]
        if "token" in words:
            done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
            tokens[words[4]] = done.stdout.strip()
        elif "--tls-key" in words:
            serve = command
    port = free_port()
    here = ["127.0.0.1" if word == "0.0.0.0" else word for word in serve]
    url, trust = f"https://localhost:{port}/ga4gh/wes/v1/runs", str(tmp_path / "cert.pem")

    def answer(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return requests.get(url, headers=headers, verify=trust, timeout=60).status_code

    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([*here, f"--port={port}"], cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_for(lambda: server.poll() is not None or _listens(port), "the server")
        assert [answer(token) for token in tokens.values()] == [200, 200]
        assert answer("wrong") == 401
        assert set(tokens) == {"ann", "boss"}
    finally:
        server.terminate()
        server.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
