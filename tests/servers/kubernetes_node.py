"""Stand-ins for nodes: pods that the real scheduler binds to them run as processes of this machine.

``python -m tests.servers.kubernetes_node FOLDER``, where FOLDER is the server's. Each pod has a mount namespace of its
own, in which its volumes really are where it asked for them, and its memory limit and deadline are kept. Images are
known by name only. Everything else a pod asks for is left to the machine.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import re
import shlex
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from tests.servers.kubernetes import IMAGE, PORT, TOKEN

LOGS = PORT + 3
MERGE = "application/strategic-merge-patch+json"
SPOT = {"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NoSchedule"}
SIZE = {"cpu": "16", "memory": "16Gi", "ephemeral-storage": "50Gi", "pods": "500"}
NODES: dict[str, dict[str, Any]] = {
    "ordinary": {"labels": {}, "size": SIZE},
    "spot": {"labels": {SPOT["key"]: SPOT["value"]}, "taints": [SPOT], "size": SIZE},
    "gpu": {
        "labels": {"cloud.google.com/gke-accelerator": "nvidia-tesla-k80"},
        "taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
        "size": {**SIZE, "nvidia.com/gpu": "2"},
    },
}

Pod = dict[str, Any]


class Api:
    """An API server, as a node sees it."""

    def __init__(self, url: str, certificate: Path | None = None) -> None:
        self._url = url
        self._context = ssl.create_default_context(cafile=certificate) if certificate else None

    def open(self, method: str, path: str, body: object = None, kind: str = "application/json", timeout: float = 30):
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}{path}", data, headers, method=method)
        return urllib.request.urlopen(request, context=self._context, timeout=timeout)

    def ask(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        with self.open(method, path, body, kind) as response:
            return json.load(response)

    def status(self, pod: Pod, status: dict[str, Any]) -> None:
        """Report a pod's status, repeatedly while the server does not answer. A pod that is gone has no status."""
        for _ in range(120):
            try:
                self.ask("PATCH", f"{path_of(pod)}/status", {"status": status}, MERGE)
                return
            except urllib.error.HTTPError as error:
                if error.code in (404, 409):
                    return
            except OSError:
                pass
            time.sleep(0.5)


class Running:
    """A pod's process."""

    def __init__(self, api: Api, folder: Path, pod: Pod) -> None:
        self.api, self.pod, self.uid = api, pod, pod["metadata"]["uid"]
        self.folder = folder / "pods" / self.uid
        self.folder.mkdir(parents=True, exist_ok=True)
        self.message = self.folder / "termination-log"
        self.process: subprocess.Popen[bytes] | None = None
        self.is_unwanted = threading.Event()
        self.started = now()
        self.verdict = ""
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.pod["spec"]
        return spec

    @property
    def container(self) -> dict[str, Any]:
        container: dict[str, Any] = self.spec["containers"][0]
        return container

    def run(self) -> None:
        if self.container["image"] != IMAGE:
            return self.wait_for_image()
        script = self.volumes()
        if script is None:
            return None
        variables = self.variables()
        if variables is None:
            return None
        self.start(script, variables)
        self.watch()
        return None

    def wait_for_image(self) -> None:
        text = f'Back-off pulling image "{self.container["image"]}"'
        for reason in ("ErrImagePull", "ImagePullBackOff"):
            self.waiting(reason, f"{text}: not found")
            time.sleep(0.2)

    def waiting(self, reason: str, message: str) -> None:
        self.report("Pending", {"waiting": {"reason": reason, "message": message}})

    def volumes(self) -> str | None:
        """Build the shell commands that mount the pod's volumes; None if a volume does not exist."""
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes", [])}
        places = {}
        for mount in self.container.get("volumeMounts", []):
            try:
                places[mount["mountPath"]] = self.source(volumes[mount["name"]])
            except urllib.error.HTTPError:
                self.event("FailedMount", f'MountVolume.SetUp failed for volume "{mount["name"]}": not found')
                self.waiting("ContainerCreating", "")
                return None
        parents = {existing_parent(Path(place)) for place in places if not Path(place).exists()}
        lines = [self.overlay(number, parent) for number, parent in enumerate(sorted(parents))]
        for place, source in places.items():
            here = shlex.quote(place)
            lines.append(f"mkdir -p {here} && mount --bind {shlex.quote(str(source))} {here}")
        told = self.container["terminationMessagePath"]
        self.message.touch(mode=0o666)
        lines.append(f": >> {told} && mount --bind {shlex.quote(str(self.message))} {told}")
        return " && ".join([*lines, 'exec "$@"'])

    def overlay(self, number: int, folder: Path) -> str:
        """Build the command that lets the pod make folders inside one of the machine, which others do not see."""
        upper, work = self.folder / f"upper-{number}", self.folder / f"work-{number}"
        upper.mkdir()
        work.mkdir()
        options = f"lowerdir={folder},upperdir={upper},workdir={work}"
        return f"mount -t overlay -o {shlex.quote(options)} overlay {shlex.quote(str(folder))}"

    def source(self, volume: dict[str, Any]) -> Path:
        place = self.folder / volume["name"]
        place.mkdir(exist_ok=True, mode=0o700)
        if "hostPath" in volume:
            host = Path(volume["hostPath"]["path"])
            if volume["hostPath"].get("type") == "DirectoryOrCreate":
                host.mkdir(parents=True, exist_ok=True)
            return host
        if "secret" in volume:
            for name, text in (self.object("secrets", volume["secret"]["secretName"]).get("data") or {}).items():
                (place / name).write_bytes(base64.b64decode(text))
        if "configMap" in volume:
            for name, text in (self.object("configmaps", volume["configMap"]["name"]).get("data") or {}).items():
                (place / name).write_text(text)
        return place

    def object(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.ask("GET", f"{namespace_of(self.pod)}/{kind}/{name}")
        return found

    def variables(self) -> dict[str, str] | None:
        found = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(PORT)}
        try:
            for source in self.container.get("envFrom", []):
                data = self.object("secrets", source["secretRef"]["name"]).get("data") or {}
                found |= {name: base64.b64decode(text).decode() for name, text in data.items()}
        except urllib.error.HTTPError:
            self.waiting("CreateContainerConfigError", f'secret "{source["secretRef"]["name"]}" not found')
            return None
        for variable in self.container.get("env", []):
            field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            found[variable["name"]] = self.field(field) if field else expand(variable.get("value", ""), found)
        return found

    def field(self, path: str) -> str:
        match = re.fullmatch(r"metadata\.annotations\['(.*)'\]", path)
        if match is None:
            raise ValueError(f"{path}: the stand-in knows annotations only")
        return str(self.pod["metadata"]["annotations"][match[1]])

    def start(self, script: str, variables: dict[str, str]) -> None:
        words = [expand(word, variables) for word in self.container["command"] + self.container.get("args", [])]
        with (self.folder / "log").open("wb") as log:  # behind a pipe, as a kubelet has it
            self.logger = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log, start_new_session=True)
        with self.logger.stdin as pipe:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script, "sh", *words],
                env=os.environ | variables, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True,
            )  # fmt: skip
        self.report("Running", {"running": {"startedAt": self.started}})

    def watch(self) -> None:
        """Wait until the process ends or must be ended."""
        assert self.process is not None
        limit = quantity(self.container.get("resources", {}).get("limits", {}).get("memory", "0"))
        deadline = time.monotonic() + self.spec.get("activeDeadlineSeconds", 10**9)
        grace = self.spec.get("terminationGracePeriodSeconds", 30)
        while self.process.poll() is None:
            if limit and memory(self.process.pid) > limit:
                self.end("OOMKilled", signal.SIGKILL)
            elif time.monotonic() > deadline and not self.verdict:
                self.end("DeadlineExceeded", signal.SIGKILL)
            elif self.is_unwanted.is_set() and not self.verdict:
                self.end("Deleted", signal.SIGTERM)
                deadline = time.monotonic() + grace
            elif self.verdict == "Deleted" and time.monotonic() > deadline:
                self.end("Deleted", signal.SIGKILL)
            time.sleep(0.05)
        code = self.process.wait()
        with contextlib.suppress(subprocess.TimeoutExpired):  # something that the pod started may live on
            self.logger.wait(1)
        self.ended(code)

    def end(self, verdict: str, number: signal.Signals) -> None:
        assert self.process is not None
        self.verdict = verdict
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def ended(self, code: int) -> None:
        code = 128 - code if code < 0 else code
        reason = self.verdict if self.verdict == "OOMKilled" else "Error" if code else "Completed"
        state = {"exitCode": code, "reason": reason, "startedAt": self.started, "finishedAt": now()}
        state["message"] = self.told(code)
        more = {"reason": self.verdict, "message": "Pod was active on the node longer than the specified deadline"}
        self.report(
            "Failed" if code else "Succeeded",
            {"terminated": state},
            more if self.verdict == "DeadlineExceeded" else {},
        )

    def told(self, code: int) -> str:
        """Read the end of the termination message, or of the log if the message is empty and the policy allows it."""
        said = self.message.read_bytes()[-4096:]
        if not said and code and self.container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            said = (self.folder / "log").read_bytes()[-2048:]
        return said.decode(errors="replace")

    def report(self, phase: str, state: dict[str, Any], more: dict[str, Any] | None = None) -> None:
        container = {"name": self.container["name"], "image": self.container["image"], "imageID": "", "restartCount": 0}
        containers = [{**container, "ready": "running" in state, "state": state}]
        status = {"phase": phase, "startTime": self.started, "podIP": "127.0.0.1", "hostIP": "127.0.0.1"}
        self.api.status(self.pod, {**status, "containerStatuses": containers, **(more or {})})

    def event(self, reason: str, message: str) -> None:
        about = {"kind": "Pod", **{key: self.pod["metadata"][key] for key in ("name", "namespace", "uid")}}
        event = {"metadata": {"generateName": "node-"}, "involvedObject": about, "type": "Warning"}
        self.api.ask("POST", f"{namespace_of(self.pod)}/events", {**event, "reason": reason, "message": message})


class Nodes:
    """Some nodes, by default all permanent ones, and the pods that run on them."""

    def __init__(self, api: Api, folder: Path, nodes: dict[str, dict[str, Any]] | None = None) -> None:
        self.api, self.folder, self.nodes = api, folder, nodes or NODES
        self.running: dict[str, Running] = {}
        self.is_stopped = threading.Event()

    def register(self) -> None:
        for name, node in self.nodes.items():
            labels = {"kubernetes.io/hostname": name, **node["labels"]}
            spec = {"taints": node.get("taints", [])}
            with contextlib.suppress(urllib.error.HTTPError):
                self.api.ask("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}, "spec": spec})
            ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now()}
            status = {"capacity": node["size"], "allocatable": node["size"], "conditions": [ready]}
            status |= {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}
            status |= {"daemonEndpoints": {"kubeletEndpoint": {"Port": LOGS}}}
            self.api.ask("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, MERGE)

    def follow(self) -> None:
        """Run and end pods as the API server says, until the nodes are stopped."""
        while not self.is_stopped.is_set():
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                listed = self.api.ask("GET", "/api/v1/pods")
                for pod in listed["items"]:
                    self.handle(pod)
                path = f"/api/v1/pods?watch=1&resourceVersion={listed['metadata']['resourceVersion']}&timeoutSeconds=60"
                with self.api.open("GET", path, timeout=90) as stream:
                    for line in stream:
                        event = json.loads(line)
                        if event["type"] in ("ADDED", "MODIFIED"):
                            self.handle(event["object"])
            time.sleep(0.2)

    def handle(self, pod: Pod) -> None:
        uid = pod["metadata"]["uid"]
        if pod["spec"].get("nodeName") not in self.nodes:
            return
        if "deletionTimestamp" in pod["metadata"]:
            threading.Thread(target=self.remove, args=(pod,), daemon=True).start()
        elif uid not in self.running and pod["status"]["phase"] == "Pending":
            self.running[uid] = Running(self.api, self.folder, pod)

    def remove(self, pod: Pod) -> None:
        """End a pod's process, then report that the pod is gone."""
        running = self.running.get(pod["metadata"]["uid"])
        if running is not None:
            running.is_unwanted.set()
            running.thread.join()
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        for _ in range(120):  # also while the server is away for a while
            try:
                self.api.ask("DELETE", path_of(pod), {"kind": "DeleteOptions", "apiVersion": "v1", **options})
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                if self.is_stopped.wait(0.5):
                    return

    def log(self, namespace: str, name: str) -> bytes:
        pod = self.api.ask("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        return (self.folder / "pods" / pod["metadata"]["uid"] / "log").read_bytes()

    def serve(self) -> None:
        """Return logs to the API server."""
        nodes = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                _, namespace, name = self.path.split("?")[0].strip("/").split("/")[:3]
                try:
                    text = nodes.log(namespace, name)
                except OSError as error:
                    return self.send_error(404, str(error))
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                return None

        server = http.server.ThreadingHTTPServer(("127.0.0.1", LOGS), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()


def existing_parent(place: Path) -> Path:
    return next(parent for parent in place.parents if parent.exists())


def path_of(pod: Pod) -> str:
    return f"{namespace_of(pod)}/pods/{pod['metadata']['name']}"


def namespace_of(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}"


def expand(text: str, variables: dict[str, str]) -> str:
    """Expand ``$(NAME)`` and ``$$`` as a kubelet does."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", value, text)


def quantity(text: str) -> float:
    """Parse an amount of memory."""
    match = re.fullmatch(r"(\d+)(Ki|Mi|Gi|k|M|G)?", text)
    assert match is not None, text
    return int(match[1]) * {None: 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]]


def memory(pid: int) -> int:
    """Return the memory that a process and its descendants use together."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for process in family:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss - process.memory_info().shared
    return total


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


if __name__ == "__main__":
    place = Path(sys.argv[1])
    nodes = Nodes(Api(f"https://127.0.0.1:{PORT}", place / "server.crt"), place)
    nodes.register()
    nodes.serve()
    print("ready", flush=True)
    nodes.follow()
