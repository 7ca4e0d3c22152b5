"""Settings of `KubernetesCluster`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

__all__ = ["KubernetesSettings"]


class KubernetesSettings(TypedDict, total=False):
    """Settings of `KubernetesCluster`, by keyword or in ``dask.config`` under ``toilfn.kubernetes``.

    Parameters
    ----------
    image : str
        The workers' image; it has Python, toilfn and what the tasks import. The page on Kubernetes
        says how to build one.
        By default that of ``TOILFN_IMAGE``.
    namespace : str
        Where jobs are made; by default that of the context, or of the leader's own pod.
    kubeconfig : str
        The file that says how to reach the cluster; by default those of ``KUBECONFIG``, else ``~/.kube/config``,
        else, in a pod, its own service account.
    context : str
        One of the file's contexts; by default the current one.
    owner : str
        Owner of the run; a label of all jobs and pods. By default the name of the user, with ``-`` for what a label may
        not contain.
    service_account : str
        Whose rights the workers' pods have.
    env : mapping of str to str
        Further variables. Secrets do not belong here: see `secret_env`.
    secret_env : sequence of str
        Secrets whose every key becomes a variable, such as ``AWS_ACCESS_KEY_ID``.
    secrets, config_maps : mapping of str to str
        Folders to make in the pods, and the secret or config map whose keys are the files there, such as
        ``{"/root/.aws": "aws-credentials"}``.
    host_path : str
        A folder on the nodes, made when it is not there, in which the pods of a node share a cache of files. It is
        mounted at the run's `work_dir`, by default ``/var/lib/toilfn``, instead of a volume that ends with the pod.
    image_pull_policy : str
        ``"Always"``, ``"IfNotPresent"`` or ``"Never"``; by default what Kubernetes makes of the image's tag.
    image_pull_secrets : sequence of str
        Secrets with which private images are pulled.
    security_context : mapping
        The container's ``securityContext``, such as ``{"privileged": True}``.
    labels, annotations : mapping of str to str
        More of these for jobs and pods.
    pod_template : mapping or str
        A pod template, or the path of a YAML file with one, that is laid over ours. Mappings are joined; lists of
        things with names are joined by name, so a container called ``worker`` changes ours; other lists grow.
    preemptible_labels : mapping of str to str
        Labels of nodes that can be taken away, and their values; also the taints such nodes may have. By default
        those of GKE, EKS, AKS, kOps and Karpenter.
    accelerator_labels : sequence of str
        Labels of nodes any of which may tell the model of their accelerators. By default those of GKE, EKS, AKS and
        of NVIDIA's feature discovery.
    accelerator_resources : mapping of str to str
        The resource for each brand or kind of accelerator, such as ``{"gpu": "nvidia.com/mig-1g.5gb"}``. By default
        ``<brand>.com/<kind>`` in small letters, such as ``nvidia.com/gpu`` and ``google.com/tpu``, and what the device
        plugins of AWS, Habana and Intel have instead.
    pod_timeout : str or float
        How long a pod that has a node may be kept from starting, for example by an image that cannot be pulled,
        before its tasks fail; 2 minutes by default. Waiting for a node has no limit.
    ttl : str or float
        How long Kubernetes keeps a job that ended while no leader was there to see it; a day by default.
    walltime : str or float
        The longest time of a job whose tasks name none, such as ``"2h"``.
    job_script_prologue, job_script_epilogue : sequence of str
        Shell lines before and after the worker's command.
    python : str
        The interpreter in the image; ``python3`` by default.
    shell : str
        Shell that runs the script in the image; ``/bin/sh`` by default.
    job_name : str
        Prefix of job names, before the workflow's name.
    max_jobs : int
        The most jobs to have in the system at one time.
    max_array_size : int
        The most pods of one Indexed Job; 1000 by default.
    poll_interval : str or float
        Time between two looks at pods that do not start; 2 seconds by default. News come by themselves.
    patience : str or float
        How long the API may be out of reach before the run ends; 10 minutes by default.
    worker_command : sequence of str
        Command that runs a batch; the store's URL and the batch's name are appended.
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
