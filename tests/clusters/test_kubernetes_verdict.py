"""The meaning of pods' statuses: those of the Kubernetes documentation that a test cannot bring about."""

from __future__ import annotations

import re

import pytest

from toilfn.clusters.base import JobState
from toilfn.clusters.kubernetes import verdict
from toilfn.ids import Cause

LOW_MEMORY = "The node was low on resource: memory. Container worker was using 2Gi, which exceeds its request of 0."
OWN_DISK = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "
OWN_VOLUME = 'Usage of EmptyDir volume "toilfn-0" exceeds the limit "1Mi". '


def pod(phase="Failed", preemptible=False, **status):
    labels = {"toilfn/job": "j", "toilfn/preemptible": str(preemptible).lower()}
    return {"metadata": {"name": "p", "labels": labels}, "spec": {}, "status": {"phase": phase, **status}}


def ended(code, reason="Error", name="worker", **more):
    return {"name": name, "state": {"terminated": {"exitCode": code, "reason": reason, **more}}}


def disrupted(reason):
    return [{"type": "Ready", "status": "False"}, {"type": "DisruptionTarget", "status": "True", "reason": reason}]


@pytest.mark.parametrize(
    ("status", "cause", "words"),
    [
        ({"containerStatuses": [ended(3)]}, Cause.ERROR, "exit status 3"),
        ({"containerStatuses": [ended(139)]}, Cause.ERROR, "exit status 139"),
        ({"containerStatuses": [ended(137)]}, Cause.LOST, "exit status 137"),
        ({"containerStatuses": [ended(137, "OOMKilled")]}, Cause.MEMORY, "OOMKilled"),
        ({"containerStatuses": [ended(0, "Completed"), ended(1, name="sidecar")]}, Cause.ERROR, "exit status 1"),
        ({"containerStatuses": [ended(4), ended(1, name="sidecar")]}, Cause.ERROR, "exit status 4"),
        ({"containerStatuses": [ended(128, "StartError", message="exec: no")]}, Cause.INPUT, "StartError: pod p: exec"),
        ({"containerStatuses": [ended(127, "ContainerCannotRun")]}, Cause.INPUT, "ContainerCannotRun"),
        ({"reason": "Evicted", "message": LOW_MEMORY}, Cause.LOST, "low on resource: memory"),
        ({"reason": "Evicted", "message": OWN_DISK}, Cause.ERROR, "exceeds the total limit"),
        ({"reason": "Evicted", "message": OWN_VOLUME}, Cause.ERROR, "exceeds the limit"),
        ({"reason": "NodeLost", "message": "Node n1 is unresponsive"}, Cause.LOST, "NodeLost.*n1"),
        ({"reason": "NodeShutdown", "message": "Node is shutting"}, Cause.LOST, "NodeShutdown"),
        ({"reason": "Terminated", "containerStatuses": [ended(143)]}, Cause.LOST, "Terminated"),
        ({"reason": "OutOfcpu"}, Cause.LOST, "OutOfcpu"),
        ({"reason": "OutOfnvidia.com/gpu", "message": "Node didn't have enough resource"}, Cause.LOST, "OutOfnvidia"),
        ({"reason": "TopologyAffinityError"}, Cause.LOST, "TopologyAffinityError: pod p did not run"),
        ({"conditions": disrupted("PreemptionByKubeScheduler")}, Cause.PREEMPTED, "PreemptionByKubeScheduler"),
        ({"reason": "Preempting"}, Cause.PREEMPTED, "Preempting"),
        ({"conditions": disrupted("PreemptionByScheduler")}, Cause.PREEMPTED, "PreemptionByScheduler"),
        ({"conditions": disrupted("DeletionByTaintManager")}, Cause.LOST, "DeletionByTaintManager"),
        ({"conditions": disrupted("EvictionByEvictionAPI"), "containerStatuses": [ended(143)]}, Cause.LOST, "Eviction"),
        ({"reason": "DeadlineExceeded", "containerStatuses": [ended(137)]}, Cause.WALLTIME, "walltime"),
        ({"reason": "DeadlineExceeded"}, Cause.LOST, "did not start within"),
        ({}, Cause.ERROR, "exit status 1"),
    ],
)
def test_failed_pods(status, cause, words):
    found = verdict.judge(pod(**status))
    assert (found.state, found.cause) == (JobState.ENDED, cause)
    assert re.search(words, found.detail), found.detail


def test_a_preemptible_task_has_not_failed_when_its_node_is_taken_away():
    for status in ({"reason": "NodeLost"}, {"reason": "Evicted", "message": LOW_MEMORY},
                   {"conditions": disrupted("DeletionByPodGC")}, {"containerStatuses": [ended(137)]}):  # fmt: skip
        assert verdict.judge(pod(preemptible=True, **status)).cause is Cause.PREEMPTED
    assert verdict.judge(pod(preemptible=True, containerStatuses=[ended(3)])).cause is Cause.ERROR
    assert verdict.gone(pod("Running", preemptible=True)).cause is Cause.PREEMPTED
    assert verdict.gone(pod("Running")).cause is Cause.LOST


@pytest.mark.parametrize(
    ("phase", "state"),
    [("Pending", JobState.QUEUED), ("Running", JobState.RUNNING), ("Unknown", JobState.QUEUED)],
)
def test_pods_that_have_not_ended(phase, state):
    assert verdict.judge(pod(phase)).state is state


def test_success_has_no_cause():
    assert verdict.judge(pod("Succeeded", containerStatuses=[ended(0, "Completed")])).cause is None


def test_a_pod_of_the_api_may_have_no_status_at_all():
    assert verdict.judge({"metadata": {"name": "p"}, "status": {}}).state is JobState.QUEUED
