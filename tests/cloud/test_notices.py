"""A machine learns from its cloud that it will be taken away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.metadata import Metadata, metadata
from toilfn.cloud import notices, power
from toilfn.cloud.notices import AmazonNotices, GoogleNotices, watch
from toilfn.errors import ClusterError


@pytest.fixture
def cloud() -> Iterator[Metadata]:
    with metadata() as server:
        yield server


def test_aws_announces_an_end_with_its_time(cloud):
    machine = AmazonNotices(cloud.url)
    assert machine.look() == ""
    cloud.take_away()
    assert machine.look() == "terminate at 2026-11-30T12:00:00Z"
    assert len(cloud.tokens) == 1


def test_a_token_that_has_expired_is_replaced(cloud):
    machine = AmazonNotices(cloud.url)
    machine.look()
    cloud.take_away()
    cloud.expire_tokens()
    with pytest.raises(OSError, match="401"):
        machine.look()
    assert machine.look().startswith("terminate")


def test_google_announces_that_it_preempts(cloud):
    machine = GoogleNotices(cloud.url)
    assert machine.look() == ""
    cloud.take_away()
    assert machine.look() == "preempted"


def test_the_addresses_are_those_of_the_environment(cloud, monkeypatch):
    cloud.take_away()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{cloud.url}/")
    monkeypatch.setenv("GCE_METADATA_HOST", cloud.url.removeprefix("http://"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert AmazonNotices().look()
    assert GoogleNotices().look()


def test_a_node_is_drained_once_also_when_metadata_or_slurm_are_away_at_first(cloud, monkeypatch):
    drained, pauses = [], []

    def drain(node: str, reason: str) -> None:
        drained.append((node, reason))
        if len(drained) == 1:
            raise ClusterError("Unable to contact slurm controller")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            cloud.take_away()

    monkeypatch.setattr(notices, "drain", drain)
    monkeypatch.setattr(notices, "warn", lambda node, warned: False)
    cloud.expire_tokens()
    machine = AmazonNotices(cloud.url)
    machine._token = "of an earlier boot"
    assert watch("spot-3", machine, pause).startswith("terminate at")
    reason = "the cloud is taking this machine away: terminate at 2026-11-30T12:00:00Z"
    assert drained == [("spot-3", reason)] * 2
    assert pauses == [5.0] * 3


def rows(*jobs: tuple[str, str], comment: str = "") -> str:
    return "".join(f"{job:<30}{state:<30}{comment:<60}\n" for job, state in jobs)


@pytest.fixture
def slurm(monkeypatch):
    """What squeue shows, one after the other, and the other commands that were run; None is a Slurm that is away."""
    shown: list[str | None] = []
    sent: list[tuple[str, ...]] = []

    def run(*command: str) -> str:
        answer = shown.pop(0) if command[0] == "squeue" else ""
        if command[0] != "squeue":
            sent.append(command)
        if answer is None or (command[0] == "scancel" and away and away.pop()):
            raise ClusterError("Unable to contact slurm controller")
        return answer

    away: list[bool] = []
    monkeypatch.setattr(power, "_slurm", run)
    return shown, sent, away


def warned_jobs(sent: list[tuple[str, ...]]) -> list[str]:
    return [command[-1] for command in sent if command[0] == "scancel"]


def test_each_job_is_warned_once_also_one_that_has_just_started_and_if_slurm_is_away_in_between(cloud, slurm):
    shown, sent, _ = slurm
    starting, running = [("1", "RUNNING"), ("2", "CONFIGURING")], [("1", "RUNNING"), ("2", "RUNNING")]
    shown += [rows(*starting), None, rows(*starting), rows(*running)]
    cloud.take_away()
    watch("spot-3", AmazonNotices(cloud.url), lambda seconds: None)
    assert warned_jobs(sent) == ["1", "2"]
    assert shown == []


def test_a_job_that_could_not_be_warned_since_slurm_was_away_is_warned_later(cloud, slurm):
    shown, sent, away = slurm
    shown += [rows(("1", "RUNNING"))] * 2
    away += [False, True]
    cloud.take_away()
    watch("spot-3", AmazonNotices(cloud.url), lambda seconds: None)
    assert warned_jobs(sent) == ["1", "1"]


def test_a_job_that_an_earlier_watch_has_warned_is_left_alone(cloud, slurm):
    """A second watch starts when the first has crashed, or the notice arrives again."""
    shown, sent, _ = slurm
    shown += [rows(("1", "RUNNING"), comment=power._WARNED)]
    cloud.take_away()
    watch("spot-3", AmazonNotices(cloud.url), lambda seconds: None)
    assert warned_jobs(sent) == []
