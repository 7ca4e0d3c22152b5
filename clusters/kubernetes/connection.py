"""Send requests to the Kubernetes API, and distinguish refusals from temporary outages."""

from __future__ import annotations

import getpass
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toilfn.clusters.common.commands import CredentialsError, UnavailableError
from toilfn.errors import ClusterError, InputError

if TYPE_CHECKING:
    from kubernetes.client import Configuration
    from urllib3 import HTTPResponse

__all__ = ["Connection", "ExpiredError", "QuotaError", "RefusedError", "Stream", "user"]

_log = logging.getLogger(__name__)
_TIMEOUT = (5.0, 30.0)
"""Timeouts for connecting and for an answer, in seconds."""
_AWAY = {0, 408, 429, 500, 502, 503, 504}
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""The file in a container that has the namespace of its pod."""
_PAGE = 500
"""Number of objects to list in one request."""


class Permission(NamedTuple):
    """An operation of the leader on one kind of object."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


_NEEDED = [
    *(Permission("batch", "jobs", verb) for verb in ("create", "delete", "list", "watch")),
    *(Permission("", "pods", verb) for verb in ("list", "watch")),
]
"""Permissions that every run needs."""
_HELPFUL = {
    Permission("", "pods", "delete"): "a killed task may continue until the other tasks of its job have finished",
    Permission("", "pods/log", "get"): "the output of failed workers will not be shown",
    Permission("", "events", "list"): "the reasons why pods do not start will not be shown",
}
"""Optional permissions, and the consequences of lacking them."""


class ExpiredError(UnavailableError):
    """A watch cannot continue from its version, because the server no longer has it or ended the stream with an error.

    The caller must list all objects again.
    """


class Connection:
    """A connection to the API for one namespace.

    Parameters
    ----------
    settings : mapping
        The settings `kubeconfig`, `context` and `namespace` of `KubernetesSettings`.

    Raises
    ------
    ClusterError
        If there is no configuration for reaching a cluster.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        try:
            from kubernetes import client
        except ImportError as error:
            raise ClusterError(
                f"KubernetesCluster needs optional packages: {error}", hint="pip install 'toilfn[kubernetes]'"
            ) from error
        configuration = client.Configuration()
        configuration.retries = False  # the caller decides on retries
        self.namespace: str = _configure(configuration, settings)
        self.host: str = configuration.host
        self._client = client.ApiClient(configuration)
        self._jobs, self._pods = client.BatchV1Api(self._client), client.CoreV1Api(self._client)
        self._version, self._authorization = client.VersionApi(self._client), client.AuthorizationV1Api(self._client)
        self._job = client.V1Job
        self._settings = settings
        self._sees_nodes = True
        self._raised = client.ApiException

    def version(self) -> tuple[int, int]:
        """Return the server's version."""
        found = self._ask(self._version.get_code)
        major, minor = (int("".join(filter(str.isdigit, str(found[key]))) or 0) for key in ("major", "minor"))
        return major, minor

    def check(self, selector: str) -> None:
        """Check the namespace, the credentials and the permissions.

        Raises
        ------
        UnavailableError
            If the server does not answer.
        ClusterError
            If the server refuses, or a permission is missing.
        """
        try:
            self._ask(self._pods.read_namespace, self.namespace)
        except RefusedError as error:
            if error.status == 404:
                raise ClusterError(f"namespace {self.namespace!r} not found in {self.host}") from error
            if error.status != 403:  # an account may lack the permission to read a namespace that it may use
                raise
        with suppress(RefusedError):  # servers are not required to answer queries about permissions
            self._check_permissions()
        self._ask(self._jobs.list_namespaced_job, self.namespace, label_selector=selector, limit=1)
        self._ask(self._pods.list_namespaced_pod, self.namespace, label_selector=selector, limit=1)

    def _check_permissions(self) -> None:
        missing = [str(permission) for permission in _NEEDED if not self._may(permission)]
        role = "examples/kubernetes/role.yaml has all permissions that a leader needs"
        if missing:
            raise ClusterError(
                f"Kubernetes at {self.host} does not allow this user to {', '.join(missing)} in the namespace"
                f" {self.namespace!r}",
                hint=f"{role}; check with `kubectl auth can-i {missing[0]} -n {self.namespace}`",
            )
        for permission, loss in _HELPFUL.items():
            if not self._may(permission):
                _log.warning("Kubernetes does not allow this user to %s: %s; %s", permission, loss, role)

    def _may(self, permission: Permission) -> bool:
        """Return whether this user has a permission."""
        resource, _, part = permission.resource.partition("/")
        wanted = {"namespace": self.namespace, "group": permission.group, "resource": resource, "verb": permission.verb}
        wanted |= {"subresource": part} if part else {}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wanted},
        }
        answer = self._ask(self._authorization.create_self_subject_access_review, review)
        return bool(answer.get("status", {}).get("allowed"))

    def check_job(self, manifest: dict[str, Any]) -> None:
        """Check the description of a job against the client's model.

        Raises
        ------
        InputError
            If it has a field that the client does not know, or a value of the wrong type.
        """
        if validate := getattr(self._job, "model_validate", None):  # older clients do not validate
            try:
                validate(manifest)
            except ValueError as error:
                raise _unfit(error) from None

    def create_job(self, manifest: dict[str, Any]) -> None:
        """Create a job. If a job with its name exists, ignore that: an earlier request created it, and lost its answer.

        Names are unique, so no one else can have created it.
        """
        try:
            self._ask(self._jobs.create_namespaced_job, self.namespace, manifest, field_validation="Strict")
        except RefusedError as error:
            if error.status != 409:
                raise

    def delete_job(self, name: str) -> None:
        """Delete a job and its pods; a missing job is ignored."""
        with suppress(GoneError):
            self._ask(self._jobs.delete_namespaced_job, name, self.namespace, propagation_policy="Background")

    def delete_pod(self, name: str) -> None:
        """Delete a pod; a missing pod is ignored."""
        with suppress(GoneError):
            self._ask(self._pods.delete_namespaced_pod, name, self.namespace)

    def list(self, kind: str, selector: str) -> tuple[list[dict[str, Any]], str]:
        """Return all jobs or pods with some labels, and the version from which to watch for changes."""
        items: list[dict[str, Any]] = []
        options = {"label_selector": selector, "limit": _PAGE}
        while True:
            try:
                page = self._ask(self._lister(kind), self.namespace, **options)
            except ExpiredError:
                if "_continue" not in options:
                    raise
                items, options = [], {"label_selector": selector}  # the pages have expired; list everything at once
                continue
            items += page["items"]
            if not (more := page["metadata"].get("continue")):
                break
            options["_continue"] = more
        return items, page["metadata"]["resourceVersion"]

    def watch(self, kind: str, selector: str, version: str, seconds: int) -> Stream:
        """Watch the changes of jobs or pods after a version. The server ends the stream after `seconds`."""
        response = self._request(
            self._lister(kind),
            self.namespace,
            label_selector=selector,
            resource_version=version,
            watch=True,
            allow_watch_bookmarks=True,
            timeout_seconds=seconds,
            _request_timeout=(_TIMEOUT[0], seconds + 30.0),
        )
        return Stream(response, self._meaning)

    def log(self, pod: str, container: str, size: int) -> str:
        """Return the end of a container's output, at most `size` bytes."""
        response = self._request(
            self._pods.read_namespaced_pod_log, pod, self.namespace, container=container, tail_lines=50
        )
        with closing(response):
            return bytes(response.data)[-size:].decode(errors="replace").strip()

    def node(self, name: str) -> dict[str, Any] | None:
        """Return a node; None if it no longer exists, or if this user may not read nodes (an optional permission)."""
        if self._sees_nodes:
            try:
                return self._ask(self._pods.read_node, name)
            except GoneError:
                return None
            except RefusedError as error:
                self._sees_nodes = error.status != 403
        return None

    def warnings(self, name: str) -> Sequence[str]:
        """Return the warning events of an object, oldest first."""
        fields = f"involvedObject.name={name},type=Warning"
        found = self._ask(self._pods.list_namespaced_event, self.namespace, field_selector=fields)
        items = sorted(found["items"], key=lambda event: event.get("lastTimestamp") or "")
        return [f"{event.get('reason', '')}: {event.get('message', '')}" for event in items]

    def close(self) -> None:
        """Close all connections."""
        self._client.rest_client.pool_manager.clear()
        self._client.close()

    def _lister(self, kind: str) -> Callable[..., Any]:
        return self._jobs.list_namespaced_job if kind == "job" else self._pods.list_namespaced_pod

    def _ask(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any]:
        with closing(self._request(call, *arguments, **options)) as response:
            try:
                answer: dict[str, Any] = json.loads(response.data)
            except ValueError as error:
                raise UnavailableError(f"Kubernetes at {self.host} returned invalid JSON: {error}") from error
        return answer

    def _request(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> HTTPResponse:
        from urllib3.exceptions import HTTPError

        options = {"_request_timeout": _TIMEOUT, **options, "_preload_content": False}
        try:
            try:
                response: HTTPResponse = call(*arguments, **options)
            except self._raised as error:
                if error.status != 401 or not self._renew():
                    raise
                response = call(*arguments, **options)
        except self._raised as error:
            raise self._meaning(error.status or 0, error.body, str(error.reason)) from None
        except (HTTPError, OSError) as error:
            raise UnavailableError(f"Kubernetes at {self.host} does not respond: {error}") from error
        except ValueError as error:  # raised by the client's models
            raise _unfit(error) from None
        return response

    def _renew(self) -> bool:
        """Read the credentials again; return whether they have changed."""
        configuration = self._client.configuration
        before = dict(configuration.api_key)
        with suppress(ClusterError):
            _configure(configuration, self._settings)
        return bool(before != configuration.api_key)

    def _meaning(self, status: int, body: Any, reason: str) -> ClusterError:
        """Build the error for an unsuccessful response."""
        said = reason
        with suppress(ValueError, TypeError, AttributeError):
            said = json.loads(body).get("message") or reason
        if status == 410:
            return ExpiredError(f"Kubernetes at {self.host} no longer has that version: {said}")
        if status in _AWAY:
            return UnavailableError(f"Kubernetes at {self.host} is temporarily unavailable: {status} {said}")
        if status == 401:
            hint = "the credentials are wrong or have expired: check `kubectl config view`, kubeconfig= and context="
            return CredentialsError(f"Kubernetes at {self.host} rejects the credentials ({said})", hint=hint)
        if status == 403 and "exceeded quota" in said:
            return QuotaError(f"Kubernetes at {self.host} temporarily refuses the request: {said}", status)
        if status == 403 and " cannot " in said:  # the text for a missing permission
            hint = "examples/kubernetes/role.yaml has the permissions that a leader needs"
            return RefusedError(f"Kubernetes at {self.host} forbids the request: {said}", status, hint=hint)
        kind = GoneError if status == 404 else RefusedError
        return kind(f"Kubernetes at {self.host} refuses the request: {status} {said}", status)


class RefusedError(ClusterError):
    """The API refused a request."""

    def __init__(self, message: str, status: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class QuotaError(RefusedError):
    """The namespace's quota is used up."""


class GoneError(RefusedError):
    """The object does not exist."""


class Stream:
    """A stream of changes, which another thread may end."""

    def __init__(self, response: HTTPResponse, judge: Callable[[int, Any, str], ClusterError]) -> None:
        self._response, self._judge = response, judge

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the changes.

        Raises
        ------
        ExpiredError
            If the server no longer has all changes, or cannot continue.
        UnavailableError
            If the connection was interrupted.
        ClusterError
            If the server refuses to continue.
        """
        from urllib3.exceptions import HTTPError

        try:
            for line in _lines(self._response):
                event: dict[str, Any] = json.loads(line)
                if event["type"] == "ERROR":
                    raise self._error(event["object"])
                yield event
        except (HTTPError, OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise UnavailableError(f"the watch stream was interrupted: {error}") from error
        finally:
            self._response.close()

    def _error(self, status: Mapping[str, Any]) -> ClusterError:
        """Build the exception for an error event, with which the server ends the stream."""
        found = self._judge(int(status.get("code") or 500), None, str(status.get("message", "")))
        return ExpiredError(str(found)) if type(found) is UnavailableError else found

    def end(self) -> None:
        """End the stream now, from any thread."""
        with suppress(ValueError, RuntimeError, OSError):  # the stream has already ended
            self._response.shutdown()


def user() -> str:
    """Return the name of the user who runs this process, or a name made from the user id if there is none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user-{os.getuid()}"


def _unfit(error: ValueError) -> InputError:
    """Build the error that names the fields the client's models reject."""
    wrong = [
        f"{'.'.join(str(part) for part in found['loc'] if part != 'body')}: {found['msg']}"
        for found in getattr(error, "errors", list)()
    ]
    return InputError(
        f"the Kubernetes client rejects the description of the job: {'; '.join(wrong) or error}",
        hint="correct pod_template, labels, annotations or security_context; for a field of a newer Kubernetes, "
        "install a newer 'kubernetes' package",
    )


def _lines(response: HTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(amt=None):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from filter(None, whole)


def _configure(configuration: Configuration, settings: Mapping[str, Any]) -> str:
    """Configure the client the way kubectl does, and return the namespace."""
    from kubernetes.config import ConfigException, kube_config, load_incluster_config, load_kube_config

    given, context = settings.get("kubeconfig"), settings.get("context")
    file = str(given or os.environ.get("KUBECONFIG") or "~/.kube/config")
    try:
        if given or context or any(Path(part).expanduser().exists() for part in file.split(os.pathsep)):
            load_kube_config(file, context, client_configuration=configuration)
            contexts, current = kube_config.list_kube_config_contexts(file)
            chosen = next((entry for entry in contexts if entry["name"] == context), current)
            return str(settings.get("namespace") or chosen["context"].get("namespace") or "default")
        load_incluster_config(client_configuration=configuration)
        return str(settings.get("namespace") or _NAMESPACE.read_text().strip())
    except (ConfigException, OSError) as error:
        raise ClusterError(
            f"no Kubernetes configuration found: {error}",
            hint="pass kubeconfig= and context=, set KUBECONFIG, or run the leader in a pod whose service"
            " account may create jobs (examples/kubernetes/)",
        ) from error
