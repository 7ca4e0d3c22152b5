"""Choose the nodes on which a pod may run: the parts of its specification that follow from its requirements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toilfn.resources import Accelerator, Resources

__all__ = [
    "ACCELERATOR_LABELS", "PREEMPTIBLE_LABELS", "affinity", "amounts", "disruption_annotations", "reason_for_leaving",
    "tolerations",
]  # fmt: skip

PREEMPTIBLE_LABELS: dict[str, str] = {
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "kubernetes.azure.com/scalesetpriority": "spot",
    "node.kubernetes.io/lifecycle": "spot",
    "karpenter.sh/capacity-type": "spot",
}
"""Labels of preemptible nodes in GKE (the first two), EKS, AKS, kOps instance groups and Karpenter."""

ACCELERATOR_LABELS = (
    "cloud.google.com/gke-accelerator",
    "k8s.amazonaws.com/accelerator",
    "kubernetes.azure.com/accelerator",
    "nvidia.com/gpu.product",
)
"""Labels for the accelerator model of a node, by GKE, the EKS autoscaler, AKS and NVIDIA's feature discovery."""

_DEPARTING = (
    "node.kubernetes.io/unschedulable",
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "aws-node-termination-handler/",
    "cloud.google.com/impending-node-termination",
    "node.cloudprovider.kubernetes.io/shutdown",
)
"""Prefixes of the taints of nodes that are being drained, removed by an autoscaler, or reclaimed by the cloud."""

_MAKERS = {"tpu": "google", "neuron": "aws", "gaudi": "habana"}
"""Vendors of the kinds of accelerators that are not made by NVIDIA."""
_RESOURCES = {
    ("aws", "neuron"): "aws.amazon.com/neuron",
    ("habana", "gaudi"): "habana.ai/gaudi",
    ("intel", "gpu"): "gpu.intel.com/i915",
}
"""Resource names of device plugins that differ from ``<brand>.com/<kind>``."""


def amounts(resources: Resources, names: Mapping[str, str]) -> dict[str, str]:
    """Return the container's resources as Kubernetes quantities.

    Parameters
    ----------
    resources : Resources
    names : mapping
        Resource names for brands or kinds of accelerators, overriding the usual ones.

    Returns
    -------
    dict
        Names and amounts of resources: cores in thousandths, memory and disk in bytes, accelerators in devices.
    """
    given = {
        "cpu": f"{math.ceil(resources.cores * 1000)}m",
        "memory": str(resources.memory),
        "ephemeral-storage": str(resources.disk),
    }
    devices: dict[str, int] = {}
    for accelerator in resources.accelerators:
        name = _resource(accelerator, names)
        devices[name] = devices.get(name, 0) + accelerator.count
    return given | {name: str(count) for name, count in devices.items()}


def affinity(
    resources: Resources, preemptible_labels: Mapping[str, str], accelerator_labels: Sequence[str]
) -> dict[str, Any]:
    """Return the node affinity.

    A preemptible task prefers preemptible nodes; any other task avoids them. If a model of accelerator is requested,
    one of the labels must name it.
    """
    rules: dict[str, Any] = {}
    required = [] if resources.preemptible else [_rule(key, "NotIn", [v]) for key, v in preemptible_labels.items()]
    models = sorted({accelerator.model for accelerator in resources.accelerators if accelerator.model})
    terms: list[list[dict[str, Any]]] = [[_rule(label, "In", models)] for label in accelerator_labels if models]
    if required or terms:
        selectors = [{"matchExpressions": [*required, *term]} for term in terms or [[]]]
        rules["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": selectors}
    if resources.preemptible:
        rules["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {"weight": 100, "preference": {"matchExpressions": [_rule(key, "In", [value])]}}
            for key, value in preemptible_labels.items()
        ]
    return {"nodeAffinity": rules} if rules else {}


def tolerations(
    resources: Resources, preemptible_labels: Mapping[str, str], names: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the taints that the pod tolerates: those of preemptible nodes and of nodes with accelerators."""
    found = []
    if resources.preemptible:
        found += [
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
            for key, value in preemptible_labels.items()
        ]
    resource_names: Iterable[str] = dict.fromkeys(_resource(device, names) for device in resources.accelerators)
    found += [{"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in resource_names]
    return found


def disruption_annotations(resources: Resources) -> dict[str, str]:
    """Return the annotations that keep Karpenter, EKS and the autoscaler from removing a node while the pod runs.

    Preemptible pods do not get the annotation ``safe-to-evict``, which GKE Autopilot refuses on spot machines.
    """
    keep = {} if resources.preemptible else {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    return {"karpenter.sh/do-not-disrupt": "true", **keep}


def reason_for_leaving(node: Mapping[str, Any], preemptible_labels: Mapping[str, str]) -> str:
    """Return why a node may have left, and taken its pods with it: it is being drained, or it is preemptible.

    Parameters
    ----------
    node : mapping
        The node object from the API.
    preemptible_labels : mapping
        Labels of preemptible nodes.

    Returns
    -------
    str
        A text for the details of the lost job; empty if the node is neither.
    """
    name, spec, labels = node["metadata"]["name"], node.get("spec", {}), node["metadata"].get("labels", {})
    for taint in spec.get("taints") or []:
        if taint["key"].startswith(_DEPARTING):
            return f"node {name} has the taint {taint['key']}"
    if spec.get("unschedulable"):
        return f"node {name} is cordoned"
    label = next((key for key, value in preemptible_labels.items() if labels.get(key) == value), None)
    return f"node {name} has the label {label}={labels[label]}" if label else ""


def _rule(key: str, operator: str, values: list[str]) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": values}


def _resource(accelerator: Accelerator, names: Mapping[str, str]) -> str:
    """Return the resource name of an accelerator; these names are case-sensitive in Kubernetes."""
    kind, brand = accelerator.kind.lower(), (accelerator.brand or "").lower()
    given = {key.lower(): name for key, name in names.items()}
    maker = brand or _MAKERS.get(kind, "nvidia")
    return given.get(brand) or given.get(kind) or _RESOURCES.get((maker, kind), f"{maker}.com/{kind}")
