"""The words with which batch systems refuse a job: for good, for now since it is full, for now, or not at all."""

from __future__ import annotations

import pytest

from toilfn.clusters import cluster_class
from toilfn.clusters.base import Refusal
from toilfn.errors import ClusterError

FAILED = "sbatch: error: Batch job submission failed: "
POLICY = f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"

FINAL = {
    "slurm": [
        f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY}", f"sbatch: error: AssocMaxCpuPerJobLimit\n{POLICY}",
        f"sbatch: error: QOSMaxMemoryPerJob\n{POLICY}", f"sbatch: error: QOSMaxNodePerJobLimit\n{POLICY}",
        f"sbatch: error: QOSMinGRES\n{POLICY}", f"sbatch: error: AssocMaxGRESPerNode\n{POLICY}",
        f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)",
        f"{FAILED}Requested node configuration is not available", f"{FAILED}Invalid qos specification",
        f"{FAILED}Invalid account or account/partition combination specified",
        f"{FAILED}Memory specification can not be satisfied", f"{FAILED}Node count specification invalid",
        f"{FAILED}User's group not permitted to use this partition", f"{FAILED}Access/permission denied",
        f"{FAILED}Invalid generic resource (gres) specification", f"{FAILED}Invalid job array specification",
    ],
    "lsf": [
        "RUNLIMIT: Cannot exceed queue's hard limit(s). Job not submitted.",
        "MEMLIMIT: Cannot exceed queue's hard limit(s). Job not submitted.",
        "normalx: No such queue. Job not submitted.", "Unknown host or host group. Job not submitted.",
    ],
    "pbs": [
        "qsub: Job violates queue and/or server resource limits", "qsub: Job exceeds queue resource limits",
        "qsub: Unknown queue", "qsub: Unknown resource: Resource_List.gpus", "qsub: Access to queue is denied",
        "qsub: Illegal attribute or resource value: Resource_List.walltime",
    ],
    "torque": [
        "qsub: submit error (Job exceeds queue resource limits MSG=cannot satisfy queue max mem requirement)",
    ],
    "gridengine": [
        'Unable to run job: unknown resource "gpu".\nExiting.',
        'Unable to run job: Job was rejected because job requests unknown queue "x".\nExiting.',
        'Unable to run job: job rejected: the requested parallel environment "smp" does not exist.\nExiting.',
        'Unable to run job: denied: host "n1" is no submit host.\nExiting.',
    ],
}  # fmt: skip
FULL = {
    "slurm": [
        f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}", f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}",
        f"sbatch: error: QOSMaxCpuPerUserLimit\n{POLICY}", "sbatch: error: MaxJobCount limit reached", POLICY,
    ],
    "lsf": [
        "User's pending job slot limit reached. Job not submitted.",
        "Job array size exceeds MAX_JOB_ARRAY_SIZE. Job not submitted.",
    ],
    "pbs": [
        "qsub: would exceed limit on number of jobs in server per user",
        "qsub: would exceed queue generic's per-user limit of jobs in 'Q' state",
        "qsub: Maximum number of jobs already in queue for user", "qsub: Array job exceeds server or queue size limit",
    ],
    "torque": [
        "qsub: submit error (Maximum number of jobs already in queue MSG=user u has reached the queue limit: queue q)",
    ],
    "gridengine": [
        "Unable to run job: job rejected: only 100 jobs are allowed per user (current job count: 100).\nExiting.",
        "Unable to run job: job rejected: only 75000 tasks are allowed per job.\nExiting.",
    ],
    "htcondor": ["ERROR: Number of submitted jobs would exceed MAX_JOBS_PER_OWNER"],
}  # fmt: skip
AWAY = {
    "slurm": [
        f"{FAILED}Unable to contact slurm controller (connect failure)",
        f"{FAILED}Socket timed out on send/recv operation",
        f"{FAILED}Slurm temporarily unable to accept job, sleeping and retrying",
        f"{FAILED}Zero Bytes were transmitted or received", f"{FAILED}Protocol authentication error",
    ],
    "lsf": [
        "LSF is down. Please wait ...", "Batch daemon not responding ... still trying",
        "Failed in an LSF library call: Failed in sending/receiving a message: Connection refused",
    ],
    "pbs": ["Connection refused\nqsub: cannot connect to server s (errno=15010)", "qsub: End of File"],
    "torque": ["qsub: submit error (Invalid credential)"],
    "gridengine": [
        "error: commlib error: got select error (Connection refused)\nUnable to run job: got send error.\nExiting.",
        "Unable to run job: failed receiving gdi request response (got syncron message receive timeout error).",
    ],
    "htcondor": ["ERROR: Failed to connect to local queue manager"],
}  # fmt: skip
PASSING = {
    "slurm": [f"{FAILED}Unspecified error", f"{FAILED}I/O error writing script/environment to file"],
    "lsf": ["Queue has been closed. Job not submitted.", "Request aborted by esub. Job not submitted."],
    "pbs": ["qsub: Queue is not enabled", "qsub: Job rejected by all possible destinations"],
    "gridengine": ["Unable to run job: JSV rejected job.\nExiting."],
}

ROWS = [
    (name, words, refusal)
    for refusal, table in (
        (Refusal.FINAL, FINAL), (Refusal.FULL, FULL), (Refusal.AWAY, AWAY), (Refusal.PASSING, PASSING)
    )
    for name, several in table.items()
    for words in several
]  # fmt: skip


@pytest.mark.parametrize(("name", "words", "refusal"), ROWS)
def test_a_refusal_is_judged_by_its_message(name, words, refusal):
    cluster = cluster_class(name)()
    with pytest.raises(ClusterError) as caught:
        cluster.commands.run(["sh", "-c", 'echo "$1" >&2; exit 1', "sh", words])
    assert cluster.refusal(caught.value, words) is refusal
