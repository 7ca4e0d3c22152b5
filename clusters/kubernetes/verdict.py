"""Interpret the status of pods, and the messages of a quota.

This module follows the Kubernetes documentation, "Pod Lifecycle", "Node-pressure Eviction", "Disruptions" and
"Images".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from toilfn.clusters.base import JobState, exit_cause
from toilfn.clusters.common.polled import JobReport
from toilfn.clusters.kubernetes.manifest import CONTAINER, PREEMPTIBLE
from toilfn.ids import Cause

__all__ = ["QUOTA_TOO_SMALL", "blocked", "exceeds_whole_quota", "gone", "is_starting", "judge", "termination_message"]

QUOTA_TOO_SMALL = "the whole quota is smaller than that; request less, or raise the quota (`kubectl describe quota`)"

_NODE_REASONS = {
    "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "NodeAffinity", "OutOfcpu", "OutOfmemory",
    "OutOfephemeral-storage", "OutOfpods", "UnexpectedAdmissionError", "DeletionByTaintManager",
    "DeletionByPodGC", "TerminationByKubelet", "EvictionByEvictionAPI",
}  # fmt: skip
"""Reasons of pods and their DisruptionTarget condition that are not the task's fault."""

_PREEMPTION_REASONS = {"Preempting", "Preempted", "PreemptionByScheduler", "PreemptionByKubeScheduler"}

_BLOCKED = {
    "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError",
    "RegistryUnavailable", "SignatureValidationFailed", "CreateContainerConfigError", "CreateContainerError",
    "RunContainerError", "StartError",
}  # fmt: skip
"""Reasons for a waiting container that rarely go away on their own."""

_NOT_STARTED = {"ContainerCannotRun", "StartError"}
"""Reasons given by Docker and containerd for a container whose command does not exist."""

_AMOUNTS = re.compile(r"(requested|limited): (\S+)")
_QUANTITY = re.compile(r"([\d.]+(?:[eE]\d+)?)(\w{0,2})")
_SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_SUFFIXES |= {f"{letter}i": 2.0 ** (10 * power) for power, letter in enumerate("KMGTPE", 1)}


def judge(pod: Mapping[str, Any]) -> JobReport:
    """Return the state of a pod's batch.

    Parameters
    ----------
    pod : mapping
        The pod object from the API.
    """
    match pod["status"].get("phase"):
        case "Succeeded":
            return JobReport(JobState.ENDED)
        case "Failed":
            return _failed(pod)
        case "Running":
            return JobReport(JobState.RUNNING, None, f"in pod {pod['metadata']['name']}")
        case _:
            return JobReport(JobState.QUEUED, None, _waits_for_node(pod))


def gone(pod: Mapping[str, Any] | None) -> JobReport:
    """Return the state of a batch whose pod was deleted before it ended; None for `pod` means that it had none."""
    if pod is None:
        return JobReport(JobState.ENDED, Cause.LOST, "the job was deleted before it had a pod")
    found = _disrupted(pod)
    return found or JobReport(JobState.ENDED, _lost(pod), f"pod {pod['metadata']['name']} was deleted")


def termination_message(pod: Mapping[str, Any]) -> str:
    """Return the container's termination message, to which the worker writes the output of the current task."""
    ends = (status.get("state", {}).get("terminated") for status in _statuses(pod) if status["name"] == CONTAINER)
    return "".join(str(end.get("message") or "") for end in ends if end)


def is_starting(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod has a node but is not running yet."""
    return bool(pod["spec"].get("nodeName")) and pod["status"].get("phase") == "Pending"


def blocked(pod: Mapping[str, Any]) -> str:
    """Return Kubernetes' reason why a pod cannot start; empty if the pod is starting normally."""
    for status in pod["status"].get("initContainerStatuses", []) + pod["status"].get("containerStatuses", []):
        waiting = status.get("state", {}).get("waiting", {})
        if waiting.get("reason") in _BLOCKED:
            return f"{waiting['reason']}: {waiting.get('message') or 'image ' + status.get('image', '')}"
    return ""


def exceeds_whole_quota(said: str) -> bool:
    """Return whether a single request exceeds the whole quota of the namespace.

    Parameters
    ----------
    said : str
        The message of the API, such as ``"exceeded quota: lab, requested: pods=1, used: pods=2, limited: pods=2"``.
    """
    found = {kind: _quantities(text.rstrip(",.;)")) for kind, text in _AMOUNTS.findall(said)}
    limits = found.get("limited", {})
    return any(amount > limits.get(name, amount) for name, amount in found.get("requested", {}).items())


def _quantities(text: str) -> dict[str, float]:
    """Parse amounts such as ``pods=1,requests.memory=2Gi``, leaving out those that cannot be parsed."""
    pairs = (pair.partition("=")[::2] for pair in text.split(","))
    matches = {name: _QUANTITY.fullmatch(amount) for name, amount in pairs}
    return {name: float(m[1]) * _SUFFIXES[m[2]] for name, m in matches.items() if m and m[2] in _SUFFIXES}


def _failed(pod: Mapping[str, Any]) -> JobReport:
    status, name = pod["status"], pod["metadata"]["name"]
    reason, message = status.get("reason", ""), status.get("message", "")
    if reason == "DeadlineExceeded":
        return _too_long(pod)
    ended = _terminated(pod)
    if ended.get("reason") == "OOMKilled":
        return JobReport(JobState.ENDED, Cause.MEMORY, f"OOMKilled: pod {name} used more memory than its limit")
    if reason == "Evicted":
        return JobReport(JobState.ENDED, _evicted(pod, message), f"Evicted: pod {name}: {message}")
    disrupted = _disrupted(pod)
    if disrupted is not None:
        return disrupted
    if ended.get("reason") in _NOT_STARTED:
        return JobReport(JobState.ENDED, Cause.INPUT, f"{ended['reason']}: pod {name}: {ended.get('message', '')}")
    if reason and not ended:  # the node refused it, for example since a device is missing (OutOfnvidia.com/gpu)
        return JobReport(JobState.ENDED, _lost(pod), f"{reason}: pod {name} did not run: {message}")
    code = ended.get("exitCode", 1)
    cause = exit_cause(code, ended.get("signal", 0)) or Cause.ERROR
    parts = [f"exit status {code} of pod {name}", f"{reason} {message}".strip()]
    return JobReport(JobState.ENDED, _lost(pod) if cause is Cause.LOST else cause, "; ".join(filter(None, parts)))


def _disrupted(pod: Mapping[str, Any]) -> JobReport | None:
    """Return the state of a pod that was ended or deleted by the cluster for a known reason; None for any other pod."""
    status = pod["status"]
    conditions = [c for c in status.get("conditions", []) if c["type"] == "DisruptionTarget" and c["status"] == "True"]
    for said in (status, *conditions):
        reason, message = said.get("reason", ""), said.get("message", "")
        detail = f"{reason}: pod {pod['metadata']['name']}: {message}"
        if reason in _PREEMPTION_REASONS:
            return JobReport(JobState.ENDED, Cause.PREEMPTED, detail)
        if reason in _NODE_REASONS:
            return JobReport(JobState.ENDED, _lost(pod), detail)
    return None


def _too_long(pod: Mapping[str, Any]) -> JobReport:
    name = pod["metadata"]["name"]
    if any(status.get("state", {}).keys() & {"running", "terminated"} for status in _statuses(pod)):
        return JobReport(JobState.ENDED, Cause.WALLTIME, f"DeadlineExceeded: pod {name} took longer than its walltime")
    detail = f"DeadlineExceeded: pod {name} did not start within its walltime, which begins when it has a node"
    return JobReport(JobState.ENDED, Cause.LOST, detail)


def _evicted(pod: Mapping[str, Any], message: str) -> Cause:
    """Return the cause for an eviction: an error if the pod exceeded its own limit, a loss if the node was full."""
    is_own = "exceed" in message and "limit" in message and "low on resource" not in message
    return Cause.ERROR if is_own else _lost(pod)


def _lost(pod: Mapping[str, Any]) -> Cause:
    """Return the cause for a pod that was lost with its node: preemption if its tasks are preemptible, else a loss."""
    labels = pod["metadata"].get("labels", {})
    return Cause.PREEMPTED if labels.get(PREEMPTIBLE) == "true" else Cause.LOST


def _terminated(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how the worker's container ended, or, if it did not fail, another container that did."""
    ends = [(status["name"], status.get("state", {}).get("terminated")) for status in _statuses(pod)]
    worker = next((end for name, end in ends if end and name == CONTAINER), None)
    others = [end for _, end in ends if end and end.get("exitCode")]
    if worker and (worker.get("exitCode") or not others):
        return worker  # type: ignore[no-any-return]
    return others[0] if others else {}


def _statuses(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    status = pod["status"]
    found: list[dict[str, Any]] = status.get("containerStatuses", []) + status.get("initContainerStatuses", [])
    return found


def _waits_for_node(pod: Mapping[str, Any]) -> str:
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"
    return ""
