"""Build the Job for a submission, and read Jobs back. All functions are pure.

This module follows the reference of the API ``batch/v1``, https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from toilfn.clusters.base import OUTPUT_VARIABLE, JobId, RunContext, worker_command
from toilfn.clusters.common.jobscript import Submission, render
from toilfn.clusters.kubernetes.placement import (
    ACCELERATOR_LABELS,
    PREEMPTIBLE_LABELS,
    affinity,
    amounts,
    tolerations,
    undisturbed,
)
from toilfn.errors import InputError
from toilfn.units import parse_duration

__all__ = [
    "CONTAINER",
    "JOB",
    "OWNER",
    "WORKFLOW",
    "Element",
    "batches",
    "element",
    "job",
    "job_name",
    "merged",
    "user_label",
]

WORKFLOW, OWNER, JOB = "toilfn/workflow", "toilfn/owner", "toilfn/job"
"""Labels of jobs and their pods."""
BATCHES = "toilfn/batches"
"""The annotation with the names of a job's batches, as JSON."""
PREEMPTIBLE = "toilfn/preemptible"
"""The label of preemptible jobs."""
CONTAINER = "worker"
"""The name of the container that runs tasks."""
INDEX = "batch.kubernetes.io/job-completion-index"
"""The annotation of an Indexed Job's pods."""
WORK_DIR = "/var/lib/toilfn"
_MESSAGE = "/dev/termination-log"
_DAY = 86400.0
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


class Element(NamedTuple):
    """One pod of a Job."""

    job: str
    number: int | None = None
    """The index in an Indexed Job."""

    @property
    def id(self) -> JobId:
        """The leader's id of the pod."""
        return JobId(self.job if self.number is None else f"{self.job}/{self.number}")


def job_name(prefix: str, workflow: str, token: str) -> str:
    """Build a valid name of at most 52 characters, which leaves room for the suffixes of pod names."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{prefix}-{workflow}".lower()).strip("-")
    return f"{words[: 51 - len(token)].rstrip('-')}-{token}"


def user_label(name: str) -> str:
    """Turn a user's name into a valid label value, such as ``ada@lab.org`` into ``ada-lab.org``."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:63].strip("-_.") or "unknown"


def job(submission: Submission, context: RunContext, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Build the Job of a submission: an Indexed Job if it has more than one batch.

    Parameters
    ----------
    submission : Submission
    context : RunContext
    settings : mapping
        The given settings of `KubernetesSettings`, including `image` and `owner`.

    Raises
    ------
    InputError
        If the pod template cannot be read.
    """
    labels = {
        **settings.get("labels", {}),
        "app.kubernetes.io/managed-by": "toilfn",
        WORKFLOW: context.workflow,
        OWNER: _owner(settings["owner"]),
        JOB: submission.name,
        PREEMPTIBLE: str(submission.resources.preemptible).lower(),
    }
    annotations = dict(settings.get("annotations", {}))
    own = undisturbed(submission.resources) | annotations
    template = {"metadata": {"labels": labels, "annotations": own}, "spec": _pod(submission, context, settings)}
    names = json.dumps([batch.name for batch in submission.batches])
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": submission.name, "labels": labels, "annotations": {**annotations, BATCHES: names}},
        "spec": {
            **_completion(submission),
            "ttlSecondsAfterFinished": math.ceil(parse_duration(settings.get("ttl", _DAY))),
            "template": merged(template, _override(settings.get("pod_template", {}))),
        },
    }


def batches(manifest: Mapping[str, Any]) -> dict[JobId, str]:
    """Return the elements of a Job, and the names of their batches."""
    name = manifest["metadata"]["name"]
    names: list[str] = json.loads(manifest["metadata"].get("annotations", {}).get(BATCHES, "[]"))
    is_indexed = manifest["spec"].get("completionMode") == "Indexed"
    return {Element(name, number if is_indexed else None).id: batch for number, batch in enumerate(names)}


def element(pod: Mapping[str, Any]) -> Element:
    """Return the element that a pod runs."""
    index = pod["metadata"].get("annotations", {}).get(INDEX)
    return Element(pod["metadata"]["labels"][JOB], None if index is None else int(index))


def merged(ours: Any, theirs: Any) -> Any:
    """Merge a user's template into ours: mappings by key, lists of named items by name; concatenate other lists."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        both = {key: merged(ours[key], value) if key in ours else value for key, value in theirs.items()}
        return {**ours, **both}
    if isinstance(ours, list) and isinstance(theirs, list):
        given = {item["name"]: item for item in theirs if _has_name(item)}
        known = {item["name"] for item in ours if _has_name(item)}
        joined = [
            merged(item, given[item["name"]]) if _has_name(item) and item["name"] in given else item for item in ours
        ]
        return joined + [item for item in theirs if not (_has_name(item) and item["name"] in known)]
    return theirs


def _owner(owner: str) -> str:
    """Check that the owner is a valid label value, and return it.

    Raises
    ------
    InputError
        If it is not.
    """
    if not _LABEL.fullmatch(owner):
        raise InputError(
            f"owner={owner!r} is not a valid Kubernetes label value",
            hint="use up to 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
        )
    return owner


def _completion(submission: Submission) -> dict[str, Any]:
    """Return the fields that make each batch run only once, since the leader decides on retries.

    With a limit for each index instead of one for the Job, a failed batch does not affect the others.
    """
    if not submission.is_array:
        return {"backoffLimit": 0}
    count = len(submission.batches)
    return {"completionMode": "Indexed", "completions": count, "parallelism": count, "backoffLimitPerIndex": 0}


def _pod(submission: Submission, context: RunContext, settings: Mapping[str, Any]) -> dict[str, Any]:
    resources = submission.resources
    labels = settings.get("preemptible_labels", PREEMPTIBLE_LABELS)
    names = settings.get("accelerator_resources", {})
    walltime = resources.walltime or (parse_duration(settings["walltime"]) if "walltime" in settings else None)
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,  # workers never use the API
        "enableServiceLinks": False,
        "containers": [_container(submission, context, settings)],
        "volumes": [volume for volume, _ in _volumes(context, settings)],
        "affinity": affinity(resources, labels, settings.get("accelerator_labels", ACCELERATOR_LABELS)),
        "tolerations": tolerations(resources, labels, names),
        "imagePullSecrets": [{"name": name} for name in settings.get("image_pull_secrets", ())],
        **({"serviceAccountName": settings["service_account"]} if "service_account" in settings else {}),
        **({"activeDeadlineSeconds": math.ceil(walltime)} if walltime is not None else {}),
    }


def _container(submission: Submission, context: RunContext, settings: Mapping[str, Any]) -> dict[str, Any]:
    asked = amounts(submission.resources, settings.get("accelerator_resources", {}))
    variables = {"TOILFN_WORK_DIR": _work_dir(context), OUTPUT_VARIABLE: _MESSAGE, **settings.get("env", {})}
    container = {
        "name": CONTAINER,
        "image": settings["image"],
        # Kubernetes expands $(NAME) in commands; $$ stands for one $.
        "command": [settings.get("shell", "/bin/sh"), "-c", _script(submission, context, settings).replace("$", "$$")],
        "env": [{"name": name, "value": value.replace("$", "$$")} for name, value in variables.items()],
        "envFrom": [{"secretRef": {"name": name}} for name in settings.get("secret_env", ())],
        "resources": {"requests": asked, "limits": asked},
        "volumeMounts": [mount for _, mount in _volumes(context, settings)],
        # The pod's status includes the end of this file, however the container ended, even after the pod was deleted.
        "terminationMessagePath": _MESSAGE,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    optional = {"imagePullPolicy": "image_pull_policy", "securityContext": "security_context"}
    return container | {name: settings[key] for name, key in optional.items() if key in settings}


def _script(submission: Submission, context: RunContext, settings: Mapping[str, Any]) -> str:
    worker = settings.get("worker_command", worker_command(settings.get("python", "python3")))
    return render(
        submission,
        shell=settings.get("shell", "/bin/sh"),
        directives=(),
        index="JOB_COMPLETION_INDEX",
        first=0,
        command=(*worker, context.store),
        environment=context.environment,
        output=None,
        prologue=settings.get("job_script_prologue", ()),
        epilogue=settings.get("job_script_epilogue", ()),
    )


def _work_dir(context: RunContext) -> str:
    return context.environment.get("TOILFN_WORK_DIR", WORK_DIR)


def _volumes(context: RunContext, settings: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each volume with its mount."""
    host = settings.get("host_path")
    work = {"hostPath": {"path": host, "type": "DirectoryOrCreate"}} if host else {"emptyDir": {}}
    wanted: list[tuple[str, dict[str, Any], bool]] = [(_work_dir(context), work, False)]
    # Readable by all, since a container may run as any user; no one outside the pod can access its volumes.
    for place, name in settings.get("secrets", {}).items():
        wanted.append((place, {"secret": {"secretName": name, "defaultMode": 0o444}}, True))
    for place, name in settings.get("config_maps", {}).items():
        wanted.append((place, {"configMap": {"name": name}}, True))
    return [
        ({"name": f"toilfn-{n}", **source}, {"name": f"toilfn-{n}", "mountPath": place, "readOnly": is_read_only})
        for n, (place, source, is_read_only) in enumerate(wanted)
    ]


def _override(given: Mapping[str, Any] | str) -> Mapping[str, Any]:
    """Return the metadata and the spec of the user's pod template."""
    found: Any = _read(given) if isinstance(given, str) else given
    if not isinstance(found, Mapping) or not found.keys() <= {"apiVersion", "kind", "metadata", "spec", "template"}:
        raise InputError("pod_template must be a mapping with 'metadata' and 'spec', as in a PodTemplate")
    found = found.get("template", found)
    return {key: found[key] for key in ("metadata", "spec") if key in found}


def _read(path: str) -> Any:
    import yaml  # a dependency of the client

    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"pod_template: {path} cannot be read: {error}") from error


def _has_name(item: Any) -> bool:
    return isinstance(item, dict) and "name" in item
