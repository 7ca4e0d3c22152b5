"""Google's cloud in this process, strict about requests: it is made from the public discovery documents.

Each request must be a method of compute, container, iam or cloudresourcemanager, with parameters and a body that the
method's schema knows. Changes of compute are operations that must be polled until they are done.
"""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import requests
from requests.adapters import BaseAdapter

PROJECT = "my-project-1"
REGION = "europe-west3"
ZONES = [f"{REGION}-{letter}" for letter in "abc"]
_DOCUMENTS = ("compute.v1", "container.v1", "iam.v1", "cloudresourcemanager.v1")
TYPES = {"e2-medium": (2, 4096), "n2-standard-4": (4, 16384), "n2d-standard-4": (4, 16384), "c4-standard-8": (8, 30720)}

PERMISSIONS: dict[str, tuple[str, ...]] = {
    "compute.disks.aggregatedList": ("compute.disks.list",),
    "compute.disks.delete": ("compute.disks.delete",),
    "compute.firewalls.delete": ("compute.firewalls.delete", "compute.networks.updatePolicy"),
    "compute.firewalls.insert": ("compute.firewalls.create", "compute.networks.updatePolicy"),
    "compute.firewalls.list": ("compute.firewalls.list",),
    "compute.globalOperations.aggregatedList": (
        "compute.globalOperations.list",
        "compute.regionOperations.list",
        "compute.zoneOperations.list",
    ),
    "compute.globalOperations.wait": ("compute.globalOperations.get",),
    "compute.images.getFromFamily": (),  # of a public project
    "compute.instanceTemplates.delete": ("compute.instanceTemplates.delete",),
    "compute.instanceTemplates.get": ("compute.instanceTemplates.get",),
    "compute.instanceTemplates.insert": ("compute.instanceTemplates.create",),
    "compute.instanceTemplates.list": ("compute.instanceTemplates.list",),
    "compute.instances.aggregatedList": ("compute.instances.list",),
    "compute.instances.delete": ("compute.instances.delete",),
    "compute.instances.insert": ("compute.instances.create",),
    "compute.machineTypes.aggregatedList": ("compute.machineTypes.list",),
    "compute.regionInstances.bulkInsert": ("compute.instances.create", "compute.instanceTemplates.useReadOnly"),
    "compute.regionOperations.wait": ("compute.regionOperations.get",),
    "compute.regions.get": ("compute.regions.get",),
    "compute.subnetworks.get": ("compute.subnetworks.get",),
    "compute.zoneOperations.wait": ("compute.zoneOperations.get",),
    "container.projects.locations.clusters.create": ("container.clusters.create",),
    "container.projects.locations.clusters.delete": ("container.clusters.delete",),
    "container.projects.locations.clusters.list": ("container.clusters.list",),
    "iam.projects.roles.create": ("iam.roles.create",),
    "iam.projects.roles.delete": ("iam.roles.delete",),
    "iam.projects.roles.list": ("iam.roles.list",),
    "iam.projects.serviceAccounts.create": ("iam.serviceAccounts.create",),
    "iam.projects.serviceAccounts.delete": ("iam.serviceAccounts.delete",),
    "iam.projects.serviceAccounts.get": ("iam.serviceAccounts.get",),
    "iam.projects.serviceAccounts.getIamPolicy": ("iam.serviceAccounts.getIamPolicy",),
    "iam.projects.serviceAccounts.setIamPolicy": ("iam.serviceAccounts.setIamPolicy",),
    "cloudresourcemanager.projects.getIamPolicy": ("resourcemanager.projects.getIamPolicy",),
    "cloudresourcemanager.projects.setIamPolicy": ("resourcemanager.projects.setIamPolicy",),
}
"""The permissions that each method needs; those for machines depend on the machine."""


class RefusalError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Method:
    """A method of a discovery document."""

    def __init__(self, document: dict[str, Any], id: str, described: dict[str, Any]) -> None:
        self.id = id
        self.verb = described["httpMethod"]
        self.parameters = {**document["parameters"], **described.get("parameters", {})}
        self.request = described.get("request", {}).get("$ref")
        self.schemas = document["schemas"]
        path = document["servicePath"] + described["path"]
        parts = re.split(r"\{(\+?)(\w+)\}", path)
        pattern = re.escape(parts[0])
        for plus, name, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            own = described["parameters"][name].get("pattern", "^.+$" if plus else "^[^/:]+$")
            pattern += f"(?P<{name}>{own.strip('^$')})" + re.escape(rest)
        self.path = re.compile(pattern)


@cache
def _methods() -> dict[str, list[Method]]:
    """The methods of each host."""
    found: dict[str, list[Method]] = {}
    for name in _DOCUMENTS:
        text = files("googleapiclient").joinpath(f"discovery_cache/documents/{name}.json").read_text()
        document = json.loads(text)
        document.setdefault("servicePath", "")

        def walk(resources: dict[str, Any], document: dict[str, Any] = document) -> Iterator[Method]:
            for resource in resources.values():
                for method in resource.get("methods", {}).values():
                    if method["id"] in PERMISSIONS:
                        yield Method(document, method["id"], method)
                yield from walk(resource.get("resources", {}))

        found[urlsplit(document["rootUrl"]).hostname or ""] = list(walk(document["resources"]))
    assert {method.id for methods in found.values() for method in methods} == set(PERMISSIONS)
    return found


def check(schema: dict[str, Any], value: Any, schemas: dict[str, Any], path: str) -> None:
    """Refuse a value that does not match its schema, or has a field that only Google may write."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"]]
    kind = schema.get("type", "any")
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    if kind != "any" and (not isinstance(value, types[kind]) or (kind == "integer" and isinstance(value, bool))):
        raise RefusalError(400, "invalid", f"Invalid value at '{path}' ({kind}): {value!r}")
    if kind == "object":
        for key, item in value.items():
            known = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if known is None:
                raise RefusalError(
                    400, "badRequest", f'Invalid JSON payload received. Unknown name "{key}" at "{path}"'
                )
            if known.get("description", "").startswith("[Output Only]"):
                raise RefusalError(400, "invalid", f"{path}.{key} may not be set")
            check(known, item, schemas, f"{path}.{key}")
    elif kind == "array":
        for index, item in enumerate(value):
            check(schema["items"], item, schemas, f"{path}[{index}]")
    elif kind == "string":
        _check_string(schema, value, path)


def _check_string(schema: dict[str, Any], value: str, path: str) -> None:
    if "enum" in schema and value not in schema["enum"]:
        raise RefusalError(400, "invalid", f"{path}: {value!r} is not one of {schema['enum']}")
    if schema.get("format") in ("int64", "uint64") and not value.lstrip("-").isdigit():
        raise RefusalError(400, "invalid", f"{path}: {value!r} is not a number")
    pattern = schema.get("pattern")
    if pattern and not re.fullmatch(pattern, value):
        raise RefusalError(400, "invalid", f"{path}: {value!r} does not match {pattern}")


_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")


class FakeGoogle(BaseAdapter):
    """A project, as an adapter of requests.

    Attributes
    ----------
    calls : list of str
        The ids of the methods that were called.
    needed : set of str
        The permissions that these calls need.
    granted : set of str or None
        The permissions of the caller; None for all of them.
    fail_at : int or None
        The number of the call that fails.
    is_sent : bool
        Whether the failing call is carried out nevertheless: its answer is lost.
    refused : dict
        A method's id to the refusal that it answers with.
    broken : dict
        A method's id to the code and the message with which its operations fail.
    is_slow : bool
        Whether machines and other resources exist only when the operation that makes them has ended.
    full : set of str
        The zones that have no machines, and the provisioning models (such as ``SPOT``) that have none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.needed: set[str] = set()
        self.granted: set[str] | None = None
        self.fail_at: int | None = None
        self.is_sent = False
        self.refused: dict[str, RefusalError] = {}
        self.broken: dict[str, tuple[str, str]] = {}
        self.is_slow = False
        self.full: set[str] = set()
        self.bodies: dict[str, Any] = {}
        self.instances: dict[tuple[str, str], dict[str, Any]] = {}
        self.disks: dict[tuple[str, str], dict[str, Any]] = {}
        self.firewalls: dict[str, dict[str, Any]] = {}
        self.templates: dict[str, dict[str, Any]] = {}
        self.accounts: dict[str, dict[str, Any]] = {}
        self.account_policies: dict[str, dict[str, Any]] = {}
        self.roles: dict[str, dict[str, Any]] = {}
        self.clusters: dict[str, dict[str, Any]] = {}
        self.policy: dict[str, Any] = {"version": 1, "etag": "0", "bindings": [
            {"role": "roles/owner", "members": ["user:owner@example.org"]}]}  # fmt: skip
        self._operations: dict[str, dict[str, Any]] = {}
        self._ends: dict[str, Callable[[], None]] = {}
        self._number = 0
        self._request = ""
        self._requests: set[str] = set()

    def session(self) -> requests.Session:
        """A session whose requests arrive here."""
        session = requests.Session()
        session.trust_env = False  # reads all variables for each request, which takes longer than the rest
        session.mount("https://", self)
        return session

    def close(self) -> None:
        """Do nothing: this adapter has no connection."""

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        call = len(self.calls)
        try:
            method, values, body = self._read(request)
            self.calls.append(method.id)
            self.bodies[method.id] = body
            if call == self.fail_at and not self.is_sent:
                raise requests.ConnectionError("made to fail")
            status, answer = 200, self._answer(method, values, body)
        except RefusalError as error:
            status, answer = error.status, _error(error)
        if call == self.fail_at:
            raise requests.ConnectionError("made to fail")
        response = requests.Response()
        response.status_code, response.url, response.request = status, request.url or "", request
        response._content = json.dumps(answer).encode()
        return response

    def _read(self, request: requests.PreparedRequest) -> tuple[Method, dict[str, str], Any]:
        url = urlsplit(request.url)
        for method in _methods().get(url.hostname or "", []):
            match = method.path.fullmatch(unquote(url.path).lstrip("/"))
            if match and method.verb == request.method:
                break
        else:
            raise AssertionError(f"no method of Google's: {request.method} {request.url}")
        values = dict(match.groupdict())
        for key, value in parse_qsl(url.query):
            if key not in method.parameters:
                raise AssertionError(f"{method.id} has no parameter {key}")
            values[key] = value
        body = json.loads(request.body) if request.body else None
        if body is not None:
            if method.request is None:
                raise RefusalError(400, "badRequest", f"{method.id} takes no body")
            check(method.schemas[method.request], body, method.schemas, method.request)
        return method, values, body

    def _answer(self, method: Method, values: dict[str, str], body: Any) -> Any:
        self._need(*PERMISSIONS[method.id])
        if method.id in self.refused:
            raise self.refused[method.id]
        if values.get("project", PROJECT) != PROJECT and "images" not in method.id:
            raise RefusalError(404, "notFound", f"The project {values['project']} was not found")
        self._request = str(uuid.UUID(values["requestId"])) if "requestId" in values else ""
        assert not self._request or self._request not in self._requests, "a request's id was used before"
        self._requests.add(self._request)
        *_, resource, verb = method.id.split(".")
        return getattr(self, f"_{resource}_{verb}")(values, copy.deepcopy(body))

    def _need(self, *permissions: str) -> None:
        self.needed |= set(permissions)
        for permission in permissions:
            if self.granted is not None and permission not in self.granted:
                raise RefusalError(403, "forbidden", f"Required '{permission}' permission for 'projects/{PROJECT}'")

    # Operations

    def _operation(self, method: str, scope: str, end: Callable[[], None]) -> dict[str, Any]:
        """Begin a change, which ends when it is polled the second time."""
        self._number += 1
        name = f"operation-{self._number}"
        place = scope.partition("/")
        about = {place[0].removesuffix("s"): f"https://www.googleapis.com/compute/v1/projects/{PROJECT}/{scope}"}
        operation = {"kind": "compute#operation", "name": name, "status": "PENDING", **(about if place[1] else {})}
        if self._request:
            operation["clientOperationId"] = self._request
        self._operations[f"{scope}/{name}"] = operation
        if method in self.broken:
            code, message = self.broken[method]
            operation["error"] = {"errors": [{"code": code, "message": message}]}
        else:
            self._ends[name] = end
        return dict(operation)

    def _waited(self, scope: str, name: str) -> dict[str, Any]:
        operation = self._operations[f"{scope}/{name}"]
        if operation["status"] == "PENDING":
            operation["status"] = "RUNNING"
        elif operation["status"] == "RUNNING":
            operation["status"] = "DONE"
            self._ends.pop(name, lambda: None)()
        return dict(operation)

    def settle(self) -> None:
        """End all operations: time passes also if no one polls."""
        for operation in self._operations.values():
            operation["status"] = "DONE"
        for end in list(self._ends.values()):
            end()
        self._ends.clear()

    def _globalOperations_aggregatedList(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        assert values["filter"] == "status != DONE"
        found: dict[str, Any] = {f"zones/{zone}": {"warning": {"code": "NO_RESULTS_ON_PAGE"}} for zone in ZONES}
        for key, operation in self._operations.items():
            if operation["status"] != "DONE":
                found.setdefault(key.rpartition("/")[0], {}).setdefault("operations", []).append(dict(operation))
        return {"items": found}

    def _zoneOperations_wait(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        return self._waited(f"zones/{values['zone']}", values["operation"])

    def _regionOperations_wait(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        return self._waited(f"regions/{values['region']}", values["operation"])

    def _globalOperations_wait(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        return self._waited("global", values["operation"])

    # Places

    def _regions_get(self, values: dict[str, str], body: Any) -> Any:
        if values["region"] != REGION:
            raise RefusalError(404, "notFound", f"The resource 'regions/{values['region']}' was not found")
        return {"name": REGION, "zones": [_url(f"zones/{zone}") for zone in ZONES]}

    def _subnetworks_get(self, values: dict[str, str], body: Any) -> Any:
        if values["region"] != REGION or values["subnetwork"] not in ("default", "lab"):
            raise RefusalError(404, "notFound", f"The resource '{values['subnetwork']}' was not found")
        path = f"regions/{REGION}/subnetworks/{values['subnetwork']}"
        return {"name": values["subnetwork"], "network": _url("global/networks/default"), "selfLink": _url(path)}

    def _images_getFromFamily(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        if (values["project"], values["family"]) != ("ubuntu-os-cloud", "ubuntu-2404-lts-amd64"):
            raise RefusalError(404, "notFound", "The image was not found")
        return {"name": "ubuntu-2404-noble-amd64-v20261101"}

    def _machineTypes_aggregatedList(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        wanted = re.findall(r'\(name = "([^"]+)"\)', values["filter"])
        assert values["filter"] == " OR ".join(f'(name = "{name}")' for name in wanted)
        kinds = {name: TYPES[name] for name in wanted if name in TYPES}
        return {"items": {
            f"zones/{zone}": {"machineTypes": [
                {"name": name, "guestCpus": cores, "memoryMb": memory, "zone": zone}
                for name, (cores, memory) in kinds.items()]}
            for zone in ZONES
        }}  # fmt: skip

    # Machines

    def _instances_aggregatedList(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        return self._scattered("instances", self.instances, values)

    def _disks_aggregatedList(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        return self._scattered("disks", self.disks, values)

    def _scattered(self, kind: str, items: dict[tuple[str, str], dict[str, Any]], values: dict[str, str]) -> Any:
        match = re.fullmatch(r"labels\.([a-z-]+)(?:=([a-z0-9-]+)|:\*)", values["filter"])
        assert match, values["filter"]
        key, wanted = match.groups()
        found: dict[str, Any] = {f"zones/{zone}": {"warning": {"code": "NO_RESULTS_ON_PAGE"}} for zone in ZONES}
        for (zone, _), item in items.items():
            if key in item.get("labels", {}) and wanted in (None, item["labels"][key]):
                found[f"zones/{zone}"].setdefault(kind, []).append(item)
        first, rest = dict(list(found.items())[:2]), dict(list(found.items())[2:])  # two pages
        if "pageToken" in values:
            return {"items": rest}
        return {"items": first, "nextPageToken": "2"}

    def _instances_insert(self, values: dict[str, str], body: Any) -> Any:
        zone = values["zone"]
        self._machine_needs(body)
        for url, part in ((body["machineType"], "machineTypes"), (_parameters(body)["diskType"], "diskTypes")):
            if not url.startswith(f"zones/{zone}/{part}/"):
                raise RefusalError(400, "invalid", f"Invalid value for field 'resource.{part}': '{url}'")
        if (zone, body["name"]) in self.instances:
            raise RefusalError(409, "alreadyExists", f"The resource '{body['name']}' already exists")
        if zone in self.full:
            operation = self._operation("", f"zones/{zone}", lambda: None)
            error = {"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": f"The zone '{zone}' is exhausted"}
            self._operations[f"zones/{zone}/{operation['name']}"]["error"] = {"errors": [error]}
            return operation
        create = lambda: self._create(zone, body["name"], body)  # noqa: E731
        if "compute.instances.insert" in self.broken:
            create = lambda: None  # noqa: E731
        boot = lambda: self._boot(zone, body["name"])  # noqa: E731
        return self._created("compute.instances.insert", f"zones/{zone}", create, boot)

    def _created(
        self, method: str, scope: str, create: Callable[[], None], end: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Begin to create a resource, which exists at once, or only when the operation ends."""
        is_slow = self.is_slow
        if not is_slow:
            create()

        def complete() -> None:
            if is_slow:
                create()
            end()

        return self._operation(method, scope, complete)

    def _machine_needs(self, body: dict[str, Any]) -> None:
        needs = {"compute.disks.create": True, "compute.subnetworks.use": True}
        needs["compute.instances.setLabels"] = "labels" in body
        needs["compute.disks.setLabels"] = "labels" in _parameters(body)
        needs["compute.instances.setMetadata"] = "metadata" in body
        needs["compute.instances.setServiceAccount"] = bool(body.get("serviceAccounts"))
        needs["compute.instances.setTags"] = "tags" in body
        needs["compute.subnetworks.useExternalIp"] = bool(body["networkInterfaces"][0].get("accessConfigs"))
        self._need(*(name for name, is_needed in needs.items() if is_needed))
        for one in body.get("serviceAccounts", []):
            self._need("iam.serviceAccounts.actAs")
            if one["email"].removeprefix("given@") == one["email"] and one["email"] not in self.accounts:
                raise RefusalError(400, "invalid", f"The user does not have access to service account '{one['email']}'")

    def _create(self, zone: str, name: str, body: dict[str, Any]) -> None:
        if not _NAME.fullmatch(name):
            raise RefusalError(400, "invalid", f"Invalid value for field 'resource.name': '{name}'")
        _check_labels(body.get("labels", {}))
        self._number += 1
        interface = {**body["networkInterfaces"][0], "networkIP": f"10.0.0.{self._number}"}
        for access in interface.get("accessConfigs", []):
            access["natIP"] = f"198.51.100.{self._number}"
        self.instances[zone, name] = {
            **body, "name": name, "zone": _url(f"zones/{zone}"), "status": "PROVISIONING",
            "networkInterfaces": [interface],
        }  # fmt: skip
        about = {"name": name, "zone": _url(f"zones/{zone}"), "labels": _parameters(body).get("labels", {})}
        self.disks[zone, name] = {**about, "sizeGb": _parameters(body)["diskSizeGb"]}

    def _boot(self, zone: str, name: str) -> None:
        if (zone, name) in self.instances:
            self.instances[zone, name]["status"] = "RUNNING"

    def _regionInstances_bulkInsert(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        template = self.templates[body["sourceInstanceTemplate"].rpartition("/")[2]]["properties"]
        merged = _merge(template, body["instanceProperties"])
        names = list(body["perInstanceProperties"])
        if len(names) != int(body["count"]):
            raise RefusalError(400, "invalid", "count and perInstanceProperties differ")
        self._machine_needs(merged)
        allowed = [zone.removeprefix("zones/") for zone in body["locationPolicy"].get("locations", {})] or ZONES
        free = [zone for zone in allowed if zone not in self.full]
        if merged.get("scheduling", {}).get("provisioningModel") in self.full:
            free = []
        if taken := [name for zone, name in self.instances if name in names]:
            raise RefusalError(409, "alreadyExists", f"The resource '{taken[0]}' already exists")
        selections = list(body["instanceFlexibilityPolicy"]["instanceSelections"].values())
        made = []
        for index, name in enumerate(names if free else []):
            chosen = selections[index % len(selections)]
            own = {**merged, "machineType": f"zones/{free[0]}/machineTypes/{chosen['machineTypes'][0]}",
                   "disks": chosen["disks"]}  # fmt: skip
            made.append((free[index % len(free)], name, copy.deepcopy(own)))
        operation = self._created(
            "compute.regionInstances.bulkInsert",
            f"regions/{REGION}",
            lambda: [self._create(*one) for one in made] and None,
            lambda: [self._boot(zone, name) for zone, name, _ in made] and None,
        )
        if not free:
            error = {"code": "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "message": "no zone has enough resources"}
            self._operations[f"regions/{REGION}/{operation['name']}"]["error"] = {"errors": [error]}
        return operation

    def _instances_delete(self, values: dict[str, str], body: Any) -> Any:
        key = values["zone"], values["instance"]
        if key not in self.instances:
            raise RefusalError(404, "notFound", f"The resource '{values['instance']}' was not found")
        self.instances[key]["status"] = "STOPPING"

        def end() -> None:
            self.instances.pop(key, None)
            self.disks.pop(key, None)

        return self._operation("compute.instances.delete", f"zones/{values['zone']}", end)

    def _disks_delete(self, values: dict[str, str], body: Any) -> Any:
        key = values["zone"], values["disk"]
        if key in self.instances:
            raise RefusalError(400, "resourceInUseByAnotherResource", f"The disk '{values['disk']}' is being used")
        if key not in self.disks:
            raise RefusalError(404, "notFound", f"The resource '{values['disk']}' was not found")
        end = lambda: self.disks.pop(key, None) and None  # noqa: E731
        return self._operation("compute.disks.delete", f"zones/{values['zone']}", end)

    # Global resources

    def _insert(self, kind: str, items: dict[str, Any], body: dict[str, Any]) -> Any:
        if not _NAME.fullmatch(body["name"]):
            raise RefusalError(400, "invalid", f"Invalid value for field 'resource.name': '{body['name']}'")
        if body["name"] in items:
            raise RefusalError(409, "alreadyExists", f"The resource '{body['name']}' already exists")
        is_broken = f"compute.{kind}.insert" in self.broken
        create = lambda: None if is_broken else items.update({body["name"]: body})  # noqa: E731
        return self._created(f"compute.{kind}.insert", "global", create)

    def _drop(self, kind: str, items: dict[str, Any], name: str) -> Any:
        if name not in items:
            raise RefusalError(404, "notFound", f"The resource '{name}' was not found")
        return self._operation(f"compute.{kind}.delete", "global", lambda: items.pop(name, None) and None)

    def _firewalls_list(self, values: dict[str, str], body: Any) -> Any:
        return {"items": list(self.firewalls.values())} if self.firewalls else {}

    def _firewalls_insert(self, values: dict[str, str], body: Any) -> Any:
        if bool(body.get("allowed")) == bool(body.get("denied")):
            raise RefusalError(400, "invalid", "a firewall allows or denies")
        return self._insert("firewalls", self.firewalls, body)

    def _firewalls_delete(self, values: dict[str, str], body: Any) -> Any:
        return self._drop("firewalls", self.firewalls, values["firewall"])

    def _instanceTemplates_list(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        return {"items": list(self.templates.values())} if self.templates else {}

    def _instanceTemplates_get(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        if values["instanceTemplate"] not in self.templates:
            raise RefusalError(404, "notFound", f"The resource '{values['instanceTemplate']}' was not found")
        return self.templates[values["instanceTemplate"]]

    def _instanceTemplates_insert(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        properties = body["properties"]
        for name in (properties["machineType"], _parameters(properties)["diskType"]):
            if "/" in name:
                raise RefusalError(400, "invalid", f"a template takes a name only, not {name}")
        _check_labels(properties.get("labels", {}))
        self._machine_needs(properties)
        return self._insert("instanceTemplates", self.templates, body)

    def _instanceTemplates_delete(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        return self._drop("instanceTemplates", self.templates, values["instanceTemplate"])

    # Identity

    def _account(self, name: str) -> str:
        account = name.rpartition("/")[2]
        if account not in self.accounts:
            raise RefusalError(404, "notFound", f"Unknown service account {account}")
        return account

    def _serviceAccounts_get(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        return self.accounts[self._account(values["name"])]

    def _serviceAccounts_create(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        account = f"{body['accountId']}@{PROJECT}.iam.gserviceaccount.com"
        if not re.fullmatch(r"[a-z][-a-z0-9]{4,28}[a-z0-9]", body["accountId"]):
            raise RefusalError(400, "invalid", f"{body['accountId']} is not an account's id")
        if account in self.accounts:
            raise RefusalError(409, "alreadyExists", f"Service account {account} already exists")
        self.accounts[account] = {"email": account, **body.get("serviceAccount", {})}
        return self.accounts[account]

    def _serviceAccounts_delete(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        account = self._account(values["name"])
        del self.accounts[account]
        self.account_policies.pop(account, None)
        for binding in self.policy["bindings"]:
            member = f"serviceAccount:{account}"
            binding["members"] = [f"deleted:{m}?uid=1" if m == member else m for m in binding["members"]]
        return {}

    def _serviceAccounts_getIamPolicy(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        return self.account_policies.get(self._account(values["resource"]), {"etag": "0"})

    def _serviceAccounts_setIamPolicy(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        self._check_members(body["policy"]["bindings"])
        self.account_policies[self._account(values["resource"])] = body["policy"]
        return body["policy"]

    def _roles_list(self, values: dict[str, str], body: Any) -> Any:
        return {"roles": list(self.roles.values())} if self.roles else {}

    def _roles_create(self, values: dict[str, str], body: Any) -> Any:
        if not re.fullmatch(r"[a-zA-Z0-9_.]{3,64}", body["roleId"]):
            raise RefusalError(400, "invalid", f"{body['roleId']} is not a role's id")
        name = f"projects/{PROJECT}/roles/{body['roleId']}"
        self.roles[name] = {"name": name, **body["role"]}
        return self.roles[name]

    def _roles_delete(self, values: dict[str, str], body: Any) -> Any:
        if values["name"] not in self.roles:
            raise RefusalError(404, "notFound", "The role was not found")
        return {**self.roles.pop(values["name"]), "deleted": True}

    def _projects_getIamPolicy(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        if any("condition" in binding for binding in self.policy["bindings"]):
            assert body["options"]["requestedPolicyVersion"] == 3
        return copy.deepcopy(self.policy)

    def _projects_setIamPolicy(self, values: dict[str, str], body: Any) -> Any:  # noqa: N802
        policy = body["policy"]
        if policy.get("etag") != self.policy["etag"]:
            raise RefusalError(409, "aborted", "There were concurrent policy changes")
        if any("condition" in binding for binding in policy["bindings"]) and policy.get("version") != 3:
            raise RefusalError(400, "badRequest", "conditions need version 3")
        self._check_members(policy["bindings"])
        for binding in policy["bindings"]:
            if binding["role"].startswith("projects/") and binding["role"] not in self.roles:
                raise RefusalError(400, "badRequest", f"Role {binding['role']} is not supported for this resource")
        self.policy = {**policy, "etag": str(int(self.policy["etag"]) + 1)}
        return self.policy

    def _check_members(self, bindings: list[dict[str, Any]]) -> None:
        for binding in bindings:
            for member in binding["members"]:
                kind, _, name = member.partition(":")
                if kind == "serviceAccount" and ".svc.id.goog[" not in name and name not in self.accounts:
                    raise RefusalError(400, "badRequest", f"Service account {name} does not exist.")

    # Kubernetes

    def _clusters_list(self, values: dict[str, str], body: Any) -> Any:
        listed = copy.deepcopy(list(self.clusters.values()))
        for name, cluster in list(self.clusters.items()):  # time passes
            if cluster["status"] == "STOPPING":
                del self.clusters[name]
            cluster["status"] = "RUNNING"
        return {"clusters": listed} if listed else {}

    def _clusters_create(self, values: dict[str, str], body: Any) -> Any:
        cluster = body["cluster"]
        if cluster["name"] in self.clusters:
            raise RefusalError(409, "alreadyExists", f"Already exists: {cluster['name']}")
        if len(cluster["name"]) > 40 or any(len(pool["name"]) > 40 for pool in cluster["nodePools"]):
            raise RefusalError(400, "invalid", "a name is too long")
        if not any(pool["initialNodeCount"] for pool in cluster["nodePools"]):
            raise RefusalError(400, "invalid", "a cluster needs a node")
        for pool in cluster["nodePools"]:
            self._need("iam.serviceAccounts.actAs")
            if pool["config"]["serviceAccount"] not in self.accounts:
                raise RefusalError(400, "badRequest", "Service account does not exist.")
        location = values["parent"].rpartition("/")[2]
        self.clusters[cluster["name"]] = {**cluster, "status": "PROVISIONING", "location": location}
        return {"name": "operation-k", "status": "RUNNING"}

    def _clusters_delete(self, values: dict[str, str], body: Any) -> Any:
        name = values["name"].rpartition("/")[2]
        if name not in self.clusters:
            raise RefusalError(404, "notFound", f"Not found: {name}")
        if self.clusters[name]["status"] == "PROVISIONING":
            raise RefusalError(400, "failedPrecondition", "Cluster is running incompatible operation operation-k.")
        self.clusters[name]["status"] = "STOPPING"
        return {"name": "operation-k", "status": "RUNNING"}


def _error(error: RefusalError) -> dict[str, Any]:
    items = [{"message": str(error), "domain": "global", "reason": error.reason}]
    return {"error": {"code": error.status, "message": str(error), "errors": items}}


def _url(path: str) -> str:
    return f"https://www.googleapis.com/compute/v1/projects/{PROJECT}/{path}"


def _parameters(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["disks"][0]["initializeParams"]
    return found


def _check_labels(labels: dict[str, str]) -> None:
    for key, value in labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) or not re.fullmatch(r"[a-z0-9_-]{0,63}", value):
            raise RefusalError(400, "invalid", f"Invalid value for field 'resource.labels': {key}={value}")


def _merge(base: Any, patch: Any) -> Any:
    """Merge as RFC 7396 says."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged
