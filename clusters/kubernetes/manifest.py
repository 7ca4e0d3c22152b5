"""The settings of the cluster, and pure functions that build the Job of a submission and interpret such Jobs.

This module follows the reference of the API ``batch/v1``,
https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from toilfn.clusters.base import OUTPUT_VARIABLE, JobId, RunContext, worker_command
from toilfn.clusters.common.settings import Submission, render
from toilfn.clusters.kubernetes.placement import (
    ACCELERATOR_LABELS,
    PREEMPTIBLE_LABELS,
    affinity,
    amounts,
    disruption_annotations,
    tolerations,
)
from toilfn.errors import InputError
from toilfn.units import parse_duration

__all__ = [
    "CONTAINER", "JOB", "OWNER", "WORKFLOW", "Element", "KubernetesSettings", "batches", "element", "job", "job_name",
    "merged", "user_label",
]  # fmt: skip

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


class KubernetesSettings(TypedDict, total=False):
    """Settings of `KubernetesCluster`, passed as keywords or set in ``dask.config`` under ``toilfn.kubernetes``.

    Parameters
    ----------
    image : str
        Container image of the workers, with Python, toilfn and all modules that tasks import. The page on Kubernetes
        explains how to build one. Default: ``TOILFN_IMAGE``.
    namespace : str
        Namespace of the jobs. Default: that of the context, or of the leader's own pod.
    kubeconfig : str
        Configuration file for reaching the cluster. Default: ``KUBECONFIG``, else ``~/.kube/config``, else, in a pod,
        its service account.
    context : str
        Context in the configuration file. Default: the current context.
    owner : str
        Owner of the run, a label of all jobs and pods. Default: the user's name, with ``-`` instead of characters that
        labels cannot contain.
    service_account : str
        Service account of the workers' pods.
    env : mapping of str to str
        Additional environment variables. For secrets, use `secret_env` instead.
    secret_env : sequence of str
        Kubernetes secrets. Each of their keys becomes an environment variable, such as ``AWS_ACCESS_KEY_ID``.
    secrets : mapping of str to str
        Folders to create in the pods, each with the secret whose keys become its files, such as
        ``{"/root/.aws": "aws-credentials"}``.
    config_maps : mapping of str to str
        Folders to create in the pods, each with the config map whose keys become its files.
    host_path : str
        A folder on the nodes, created if missing, in which the pods of a node share a file cache. It is mounted at the
        run's `work_dir`, by default ``/var/lib/toilfn``, instead of a volume that is deleted with the pod.
    image_pull_policy : str
        ``"Always"``, ``"IfNotPresent"`` or ``"Never"``. Default: Kubernetes decides by the tag of the image.
    image_pull_secrets : sequence of str
        Kubernetes secrets for pulling private images.
    security_context : mapping
        ``securityContext`` of the container, such as ``{"privileged": True}``.
    labels : mapping of str to str
        Additional labels of jobs and pods.
    annotations : mapping of str to str
        Additional annotations of jobs and pods.
    pod_template : mapping or str
        A pod template, or the path of a YAML file with one, to merge into the generated template. Mappings are merged;
        lists of named items are merged by name, so that a container named ``worker`` changes the generated one; other
        lists are concatenated.
    preemptible_labels : mapping of str to str
        Labels of preemptible nodes and their values, and also the taints that such nodes may have. Default: those of
        GKE, EKS, AKS, kOps and Karpenter.
    accelerator_labels : sequence of str
        Labels of nodes that may name the model of their accelerators. Default: those of GKE, EKS, AKS and NVIDIA's
        feature discovery.
    accelerator_resources : mapping of str to str
        Resource name for each brand or kind of accelerator, such as ``{"gpu": "nvidia.com/mig-1g.5gb"}``. Default:
        ``<brand>.com/<kind>`` in lower case, such as ``nvidia.com/gpu`` and ``google.com/tpu``, or the names used by
        the device plugins of AWS, Habana and Intel.
    pod_timeout : str or float
        How long a pod that has a node may fail to start, for example because its image cannot be pulled, before its
        tasks fail. Default: 2 minutes. Waiting for a node has no limit.
    ttl : str or float
        How long Kubernetes keeps a job that ended while no leader was running. Default: a day.
    walltime : str or float
        Time limit of jobs whose tasks have no walltime, such as ``"2h"``.
    job_script_prologue : sequence of str
        Shell lines to run before the worker.
    job_script_epilogue : sequence of str
        Shell lines to run after the worker.
    python : str
        Python interpreter in the image. Default: ``python3``.
    shell : str
        Shell in the image that runs the script. Default: ``/bin/sh``.
    job_name : str
        Prefix of job names, before the name of the workflow.
    max_jobs : int
        Maximum number of jobs in the system at the same time.
    max_array_size : int
        Maximum number of pods in one Indexed Job. Default: 1000.
    poll_interval : str or float
        Time between two checks for pods that do not start. Default: 2 seconds. Other changes are watched, not polled.
    patience : str or float
        How long the API may be unreachable before the run ends. Default: 10 minutes.
    worker_command : sequence of str
        Command that runs a batch; the store's URL and the name of the batch are appended.
    """

    image: str
    namespace: str
    kubeconfig: str
    context: str
    owner: str
    service_account: str
    env: Mapping[str, str]
    secret_env: Sequence[str]
    secrets: Mapping[str, str]
    config_maps: Mapping[str, str]
    host_path: str
    image_pull_policy: str
    image_pull_secrets: Sequence[str]
    security_context: Mapping[str, Any]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    pod_template: Mapping[str, Any] | str
    preemptible_labels: Mapping[str, str]
    accelerator_labels: Sequence[str]
    accelerator_resources: Mapping[str, str]
    pod_timeout: str | float
    ttl: str | float
    walltime: str | float
    job_script_prologue: Sequence[str]
    job_script_epilogue: Sequence[str]
    python: str
    shell: str
    job_name: str
    max_jobs: int
    max_array_size: int
    poll_interval: str | float
    patience: str | float
    worker_command: Sequence[str]


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
    """Build a valid name of at most 52 characters: the names of its pods are longer, and limited to 63 characters."""
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
    own = disruption_annotations(submission.resources) | annotations
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
        If it is not a valid label value.
    """
    if not _LABEL.fullmatch(owner):
        raise InputError(
            f"owner={owner!r} is not a valid Kubernetes label value",
            hint="use up to 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
        )
    return owner


def _completion(submission: Submission) -> dict[str, Any]:
    """Return the fields of the Job that make each batch run only once, since the leader decides on retries.

    The limit on failures is per index. A limit for the whole Job would end all other batches when one fails.
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
    # All users may read the files, since a container may run as any user. Volumes are not accessible outside the pod.
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
