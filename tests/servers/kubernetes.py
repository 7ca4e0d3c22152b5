"""A real Kubernetes control plane (etcd, API server, controllers, scheduler) with stand-ins for its nodes.

``python -m tests.servers.kubernetes start`` prints the variable that makes kubectl find it, and ``build`` builds
the programs, which is done once for a machine: see `tests.servers.kubernetes_build`.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.servers.kubernetes_build import build, build_in_background, programs_folder
from tests.servers.machine import Server, alive, end_process, main, wait_for

PORT = 26860
"""The port of the API server. The next ports belong to the controllers, the scheduler, the nodes and etcd."""

IMAGE = "toilfn-tests/worker:1"
"""The only image that the nodes have."""

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: tests, cluster: {{server: "https://127.0.0.1:{port}", certificate-authority: {folder}/server.crt}}}}]
users:
- {{name: admin, user: {{token: {token}}}}}
- {{name: nobody, user: {{token: wrong}}}}
contexts:
- {{name: admin, context: {{cluster: tests, user: admin, namespace: default}}}}
- {{name: nobody, context: {{cluster: tests, user: nobody, namespace: default}}}}
current-context: admin
"""

TOKEN = "token-of-the-tests"
SERVICES = "--service-account-private-key-file=server.key"
CONTROLLERS = (
    "job,namespace,garbagecollector,ttl-after-finished,podgc,resourcequota,serviceaccount,serviceaccount-token"
)
GATES = "--feature-gates=TTLAfterFinished=true"


class Kubernetes(Server):
    """Three nodes: one for all pods, one that is preemptible, one with accelerators."""

    name = "kubernetes"
    packages = ("golang-go", "etcd-server", "openssl")
    commands = ("go", "etcd", "openssl")

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which kubectl and the client find the configuration."""
        return {"KUBECONFIG": f"{self.folder}/kubeconfig"}

    def configure(self) -> None:
        """Build the programs if they do not exist; write the configuration, the certificate and the token."""
        build()
        self.folder.chmod(0o755)
        (self.folder / "kubeconfig").write_text(KUBECONFIG.format(port=PORT, folder=self.folder, token=TOKEN))
        (self.folder / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
        names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        key = ["-newkey", "rsa:2048", "-nodes", "-keyout", f"{self.folder}/server.key", "-out"]
        self.run("openssl", "req", "-x509", "-days", "30", *key, f"{self.folder}/server.crt", *names)

    def start(self) -> None:
        """Start all daemons, each after the one that it needs."""
        self._etcd()
        self.start_api()
        self.start_controllers()
        self.start_nodes()

    def stop(self) -> None:
        """End the daemons, last one first."""
        for name in ("nodes", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            end_process(self.folder / f"{name}.pid")

    def start_api(self) -> None:
        """Start the API server, also after `stop_api`."""
        options = {
            "etcd-servers": f"http://127.0.0.1:{PORT + 8}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": PORT,
            "insecure-port": 0,
            "tls-cert-file": "server.crt",
            "tls-private-key-file": "server.key",
            "token-auth-file": "tokens.csv",
            "authorization-mode": "RBAC",
            "service-cluster-ip-range": "10.0.0.0/24",
            "service-account-key-file": "server.key",
            "service-account-signing-key-file": "server.key",
            "service-account-issuer": "https://kubernetes.default.svc",
            "disable-admission-plugins": "TaintNodesByCondition",
            "kubelet-preferred-address-types": "InternalIP",
            "endpoint-reconciler-type": "none",
        }
        self._daemon("kube-apiserver", GATES, *(f"--{name}={value}" for name, value in options.items()))
        wait_for(lambda: self.ask("/readyz", raw=True) == "ok", "the API server", 60)
        wait_for(lambda: self.ask("/api/v1/namespaces/default"), "the namespace", 60)

    def stop_api(self) -> None:
        """Stop the API server alone: running pods continue."""
        end_process(self.folder / "kube-apiserver.pid")

    def start_controllers(self) -> None:
        """Start or restart controllers and scheduler, which wait for long after an absence of the API."""
        for name in ("kube-scheduler", "kube-controller-manager"):
            end_process(self.folder / f"{name}.pid")
        certificate = ["--tls-cert-file=server.crt", "--tls-private-key-file=server.key", "--port=0"]
        leader = ["--kubeconfig=kubeconfig", "--leader-elect=false", "--bind-address=127.0.0.1", *certificate]
        controllers = [f"--secure-port={PORT + 1}", f"--controllers={CONTROLLERS}", SERVICES, GATES]
        controllers += ["--root-ca-file=server.crt"]  # what pods check the API server's certificate with
        self._daemon("kube-controller-manager", *leader, *controllers)
        self._daemon("kube-scheduler", *leader, f"--secure-port={PORT + 2}")

    def start_nodes(self) -> None:
        """Start the nodes, and wait until pods can be made."""
        root = Path(__file__).parents[2]
        self._begin_process("nodes", [sys.executable, "-m", "tests.servers.kubernetes_node", str(self.folder)], root)
        wait_for(lambda: "ready" in (self.folder / "nodes.log").read_text(), "the nodes")
        wait_for(lambda: self.ask("/api/v1/namespaces/default/serviceaccounts/default"), "the service account", 60)

    def ask(self, path: str, *, method: str = "GET", body: object = None, raw: bool = False) -> Any:
        """Ask the API for something; `body` is sent as JSON."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"https://127.0.0.1:{PORT}{path}", data, headers, method=method)
        context = ssl.create_default_context(cafile=f"{self.folder}/server.crt")
        with urllib.request.urlopen(request, context=context, timeout=10) as response:
            text = response.read().decode()
        return text if raw else json.loads(text)

    def _etcd(self) -> None:
        here, peers = f"http://127.0.0.1:{PORT + 8}", f"http://127.0.0.1:{PORT + 9}"
        urls = {"listen-client-urls": here, "advertise-client-urls": here, "listen-peer-urls": peers}
        urls |= {"initial-advertise-peer-urls": peers, "initial-cluster": f"default={peers}"}
        options = [f"--{name}={value}" for name, value in urls.items()]
        self._begin_process("etcd", ["etcd", f"--data-dir={self.folder}/etcd", "--unsafe-no-fsync", *options])

    def _daemon(self, program: str, *options: str) -> None:
        self._begin_process(program, [str(programs_folder() / program), *options])

    def _begin_process(self, name: str, command: list[str], folder: Path | None = None) -> None:
        log = self.folder / f"{name}.log"
        script = f'echo $$ > "{self.folder}/{name}.pid"; exec "$@" > "{log}" 2>&1'
        subprocess.run(["setsid", "--fork", "sh", "-c", script, "sh", *command], cwd=folder or self.folder, check=True)
        wait_for(lambda: alive(self.folder / f"{name}.pid"), name)


if __name__ == "__main__":
    if sys.argv[1:] == ["build"]:
        print(build())
    elif sys.argv[1:] == ["build", "--background"]:
        build_in_background()
    else:
        main(Kubernetes())
