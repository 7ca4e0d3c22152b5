"""A fake of a newer Kubernetes than can be built here: its API, its controller of Jobs, and the stand-in for nodes.

Every object that it is sent is checked by the official client's own models, which know all fields and their types, and
by the rules of the API's reference for what toilfn uses. What it does not know is an error, and is kept in
`FakeKubernetes.complaints`.
"""

from __future__ import annotations

import contextlib
import copy
import http.server
import itertools
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kubernetes.client import V1Job, V1SelfSubjectAccessReview
from pydantic import ValidationError

from tests.servers.kubernetes import TOKEN
from tests.servers.kubernetes_node import NODES, Api, Nodes

Object = dict[str, Any]

QUERY = {
    "GET": {"labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "watch", "timeoutSeconds",
            "allowWatchBookmarks", "container", "tailLines"},
    "POST": {"fieldValidation"}, "PATCH": set(), "DELETE": {"propagationPolicy"},
}  # fmt: skip
PATH = re.compile(
    r"/(?:api/v1|apis/batch/v1|apis/authorization.k8s.io/v1)(?:/namespaces/(?P<space>[^/]+))?"
    r"/(?P<kind>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<part>[a-z]+))?)?"
)
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class FakeKubernetes:
    """Version 1.33, with one namespace, ``default``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.complaints: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.changed = threading.Condition()
        self.objects: dict[tuple[str, str], Object] = {}
        self.log: list[tuple[int, str, str, Object]] = []
        self.version = itertools.count(1)
        self.now = self.forgotten = 0
        self.is_closing = False
        self.quota = ""
        """The reason why jobs get no pods."""
        self.token = "token-of-the-leader"
        """The token of the user; nodes have `TOKEN`."""
        self.denied: set[str] = set()
        """Actions that the user has no right to, such as ``watch pods``."""
        self.refuse: Callable[[str, str, dict[str, str]], None] = lambda method, path, query: None
        """Called with each request; raises `RefusedError` for one that is not to be answered as usual."""
        self.refuse_after: Callable[[str, str, dict[str, str]], None] = lambda method, path, query: None
        """Called after the work of each request; if it raises, the answer is lost."""
        self.stream_error: Object | None = None
        """The event with which each stream ends as soon as it begins."""
        self.generation = 0
        """Streams of an earlier generation end."""
        self.server = _Server(self)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.nodes = Nodes(Api(self.url), folder)

    def kubeconfig(self) -> Path:
        """Write the configuration of clients of this server."""
        cluster, user = {"server": self.url}, {"token": self.token}
        context = {"cluster": "fake", "user": "fake", "namespace": "default"}
        parts = {"clusters": [{"name": "fake", "cluster": cluster}], "users": [{"name": "fake", "user": user}]}
        parts |= {"contexts": [{"name": "fake", "context": context}]}
        path = self.folder / "kubeconfig"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "fake", **parts}))
        return path

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeKubernetes]:
        """Serve, with nodes."""
        threads = [threading.Thread(target=target) for target in (self.server.serve_forever, self.nodes.follow)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self.nodes.is_stopped.set()
            self.is_closing = True
            with self.changed:
                pods = [pod for (kind, _), pod in self.objects.items() if kind == "pods"]
            for pod in pods:
                self.nodes.remove(pod)
            self.cut()
            threads[1].join()
            self.server.shutdown()
            self.server.server_close()

    def cut(self) -> None:
        """End all streams, as proxies do."""
        with self.changed:
            self.generation += 1
            self.changed.notify_all()

    def forget(self) -> None:
        """Forget all changes so far, as the server does after some minutes, and end all streams."""
        with self.changed:
            self.forgotten = self.now
            self.log.clear()
        self.cut()

    # What the API does.

    def put(self, kind: str, item: Object, change: str = "MODIFIED") -> Object:
        """Store or remove an object, and send the change to all watches."""
        with self.changed:
            self.now = next(self.version)
            item = copy.deepcopy(item)
            item["metadata"]["resourceVersion"] = str(self.now)
            if change == "DELETED":
                self.objects.pop((kind, item["metadata"]["name"]), None)
            else:
                self.objects[kind, item["metadata"]["name"]] = item
            self.log.append((self.now, kind, change, item))
            self.changed.notify_all()
        return item

    def get(self, kind: str, name: str) -> Object:
        with self.changed:
            try:
                return copy.deepcopy(self.objects[kind, name])
            except KeyError:
                raise RefusedError(404, f'{kind} "{name}" not found') from None

    def create_job(self, job: Object) -> Object:
        check_job(job)
        if ("jobs", job["metadata"]["name"]) in self.objects:
            raise RefusedError(409, f'jobs "{job["metadata"]["name"]}" already exists')
        job["status"] = {}
        job["metadata"]["namespace"] = "default"
        job = self.put("jobs", job, "ADDED")
        if not self.quota:
            self.start_pods(job)
        return job

    def start_pods(self, job: Object) -> None:
        """Build a job's pods."""
        for index in range(job["spec"].get("completions", 1)):
            self.put("pods", pod_of(job, index), "ADDED")

    def events(self) -> Object:
        """Report the reason that keeps the controller from making pods."""
        return {"items": [{"reason": "FailedCreate", "message": self.quota}] if self.quota else []}

    def patch_status(self, name: str, status: Object) -> Object:
        pod = self.get("pods", name)
        pod["status"] |= status
        return self.put("pods", pod)

    def delete_pod(self, name: str, options: Object) -> Object:
        pod = self.get("pods", name)
        if options.get("preconditions", {}).get("uid", pod["metadata"]["uid"]) != pod["metadata"]["uid"]:
            raise RefusedError(409, "another pod of that name")
        if options.get("gracePeriodSeconds") == 0:
            return self.put("pods", pod, "DELETED")
        pod["metadata"].setdefault("deletionTimestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        return self.put("pods", pod)

    def delete_job(self, name: str) -> Object:
        job = self.put("jobs", self.get("jobs", name), "DELETED")
        with self.changed:
            pods = [n for (kind, n), pod in self.objects.items() if kind == "pods" and owner(pod) == name]
        for pod in pods:
            self.delete_pod(pod, {})
        return job

    def listed(self, kind: str, query: dict[str, str]) -> Object:
        with self.changed:
            items = [item for (k, _), item in sorted(self.objects.items()) if k == kind and selected(item, query)]
            begin = int(query.get("continue", 0))
            end = begin + int(query.get("limit", len(items) or 1))
            more = {"continue": str(end)} if end < len(items) else {}
            return {"items": items[begin:end], "metadata": {"resourceVersion": str(self.now), **more}}

    def changes(self, kind: str, query: dict[str, str]) -> Iterator[Object]:
        """Return the changes since a version, as they come, until `cut`."""
        return self._changes(kind, query, self.generation)

    def _changes(self, kind: str, query: dict[str, str], generation: int) -> Iterator[Object]:
        since, end = int(query.get("resourceVersion", 0)), time.monotonic() + int(query.get("timeoutSeconds", 60))
        if self.stream_error is not None:
            yield {"type": "ERROR", "object": {"kind": "Status", **self.stream_error}}
            return
        while time.monotonic() < end and generation == self.generation and not self.is_closing:
            with self.changed:
                if since < self.forgotten:
                    yield {
                        "type": "ERROR",
                        "object": {"kind": "Status", "code": 410, "message": "too old resource version"},
                    }
                    return
                new = [entry for entry in self.log if entry[0] > since]
                if not new:
                    self.changed.wait(1.0)
                    continue
            for version, its_kind, change, item in new:
                since = version
                if its_kind == kind and selected(item, query):
                    yield {"type": change, "object": item}


def check_job(job: Object) -> None:
    """Refuse objects that the API refuses."""
    try:
        V1Job.model_validate(job)
    except ValidationError as error:
        raise RefusedError(422, str(error)) from None
    meta, spec = job["metadata"], job["spec"]
    pod = spec["template"]["spec"]
    texts = [*meta["labels"].values(), *spec["template"]["metadata"]["labels"].values()]
    is_indexed = spec.get("completionMode") == "Indexed"
    rules = {
        "metadata.name": NAME.fullmatch(meta["name"]) and len(meta["name"]) <= (57 if is_indexed else 63),
        "metadata.labels": all(LABEL.fullmatch(text) for text in texts),
        "spec.template.spec.restartPolicy": pod["restartPolicy"] == "Never",
        "spec.backoffLimitPerIndex": is_indexed or "backoffLimitPerIndex" not in spec,
        "spec.completions": not is_indexed or spec["completions"] == spec["parallelism"] > 0,
        "spec.template.spec.volumes": {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        <= {volume["name"] for volume in pod["volumes"]},
    }
    wrong = [name for name, is_right in rules.items() if not is_right]
    if wrong:
        raise RefusedError(422, f"Job is invalid: {wrong}")


def pod_of(job: Object, index: int) -> Object:
    """Build the pod of one index, as the controller does; the scheduler has chosen a node already."""
    meta, spec = job["spec"]["template"]["metadata"], copy.deepcopy(job["spec"]["template"]["spec"])
    name = f"{job['metadata']['name']}-{index}"
    annotations = dict(meta.get("annotations", {}))
    if job["spec"].get("completionMode") == "Indexed":
        annotations["batch.kubernetes.io/job-completion-index"] = str(index)
        spec["containers"][0]["env"] += [{"name": "JOB_COMPLETION_INDEX", "value": str(index)}]
    labels = {**meta["labels"], "batch.kubernetes.io/job-name": job["metadata"]["name"]}
    own = {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": labels, "annotations": annotations}
    return {"metadata": own, "spec": {**spec, "nodeName": "ordinary"}, "status": {"phase": "Pending"}}


def owner(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["batch.kubernetes.io/job-name"])


def selected(item: Object, query: dict[str, str]) -> bool:
    labels = item["metadata"].get("labels", {})
    wanted = (term.split("=") for term in query.get("labelSelector", "").split(",") if term)
    return all(labels.get(key) == value for key, value in wanted)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, fake: FakeKubernetes) -> None:
        self.fake = fake
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.connections.discard(request)

    def server_close(self) -> None:
        """End connections that clients keep open, which the handlers' threads would wait for."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5
    server: _Server

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_PATCH(self) -> None:
        self.answer("PATCH")

    def do_DELETE(self) -> None:
        self.answer("DELETE")

    def answer(self, method: str) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.server.fake.requests.append((method, url.path))
        try:
            found = self.found(method, url.path, query, body)
            self.server.fake.refuse_after(method, url.path, query)
        except RefusedError as error:
            return self.send(error.status, {"kind": "Status", "message": error.message, "code": error.status})
        except Exception as error:
            self.server.fake.complaints.append(f"{method} {self.path}: {error!r}")
            return self.send(500, {"message": repr(error)})
        if isinstance(found, bytes):
            return self.send_bytes(200, found)
        return self.send(200, found) if isinstance(found, dict) else self.stream(found)

    def found(self, method: str, path: str, query: dict[str, str], body: Object) -> Any:
        if self.headers.get("Authorization") not in (f"Bearer {TOKEN}", f"Bearer {self.server.fake.token}"):
            raise RefusedError(401, "Unauthorized")
        if unknown := query.keys() - QUERY[method]:
            raise ValueError(f"query {unknown}")
        self.server.fake.refuse(method, path, query)
        if path.rstrip("/") == "/version":
            return {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
        match = PATH.fullmatch(path)
        if match is None:
            raise ValueError("no such path")
        kind, name, part = match["kind"], match["name"], match["part"]
        if kind == "selfsubjectaccessreviews":
            return self.review(body)
        if kind == "namespaces":
            if name != "default":
                raise RefusedError(404, f'namespaces "{name}" not found')
            return {"metadata": {"name": name}}
        self.check_right(method, f"{kind}/{part}" if part else kind, bool(name), query)
        return self.of_kind(method, match, query, body)

    def of_kind(self, method: str, match: re.Match[str], query: dict[str, str], body: Object) -> Any:
        kind, name, part = match["kind"], match["name"], match["part"]
        match (method, kind, bool(name), part):
            case ("GET", "events", False, None):
                return self.server.fake.events()
            case ("GET", "jobs" | "pods", False, None):
                is_watch = query.get("watch", "").lower() in ("1", "true")
                return self.server.fake.changes(kind, query) if is_watch else self.server.fake.listed(kind, query)
            case ("GET", "pods", True, None):
                return self.server.fake.get("pods", name)
            case ("GET", "pods", True, "log"):
                return self.server.fake.nodes.log("default", name)
            case ("GET", "nodes", True, None):
                if name not in NODES:
                    raise RefusedError(404, f'nodes "{name}" not found')
                return {"metadata": {"name": name, "labels": NODES[name]["labels"]}, "spec": {}}
            case ("POST", "jobs", False, None):
                return self.server.fake.create_job(body)
            case ("PATCH", "pods", True, "status"):
                return self.server.fake.patch_status(name, body["status"])
            case ("DELETE", "pods", True, None):
                return self.server.fake.delete_pod(name, body)
            case ("DELETE", "jobs", True, None):
                if query.get("propagationPolicy") != "Background":
                    raise ValueError("the pods would stay")
                return self.server.fake.delete_job(name)
        raise ValueError("not known")

    def review(self, body: Object) -> Object:
        asked = V1SelfSubjectAccessReview.model_validate(body).spec.resource_attributes
        if (asked.group, asked.resource) not in (("batch", "jobs"), ("", "pods"), ("", "events")):
            raise ValueError(f"no right is about {asked.group}/{asked.resource}")
        resource = "/".join(filter(None, (asked.resource, asked.subresource)))
        return {**body, "status": {"allowed": f"{asked.verb} {resource}" not in self.server.fake.denied}}

    def check_right(self, method: str, resource: str, has_name: bool, query: dict[str, str]) -> None:
        reading = "watch" if query.get("watch", "").lower() in ("1", "true") else "get" if has_name else "list"
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method, reading)
        if f"{verb} {resource}" in self.server.fake.denied:
            raise RefusedError(403, f'{resource} is forbidden: User "u" cannot {verb} resource "{resource}"')

    def send(self, status: int, answer: Object) -> None:
        self.send_bytes(status, json.dumps(answer).encode())

    def send_bytes(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, changes: Iterator[Object]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        with contextlib.suppress(OSError):
            for change in changes:
                data = json.dumps(change).encode() + b"\n"
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
