"""Settings of `KubernetesCluster`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

__all__ = ["KubernetesSettings"]


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
    secrets, config_maps : mapping of str to str
        Folders to create in the pods, each with the secret or config map whose keys become its files, such as
        ``{"/root/.aws": "aws-credentials"}``.
    host_path : str
        A folder on the nodes, created if missing, in which the pods of a node share a file cache. It is mounted at the
        run's `work_dir`, by default ``/var/lib/toilfn``, instead of a volume that is deleted with the pod.
    image_pull_policy : str
        ``"Always"``, ``"IfNotPresent"`` or ``"Never"``. Default: Kubernetes decides by the tag of the image.
    image_pull_secrets : sequence of str
        Kubernetes secrets for pulling private images.
    security_context : mapping
        ``securityContext`` of the container, such as ``{"privileged": True}``.
    labels, annotations : mapping of str to str
        Additional labels and annotations of jobs and pods.
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
    job_script_prologue, job_script_epilogue : sequence of str
        Shell lines to run before and after the worker.
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
