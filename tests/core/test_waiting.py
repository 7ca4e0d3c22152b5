"""Jobs that wait for what may never come: what is said of them, and when they fail."""

from __future__ import annotations

import pytest

from toilfn.clusters.base import JobId, JobState, Update
from toilfn.leader.jobs import Queued, SubmittedBatch, Waiting
from toilfn.model import records

OURS = "PENDING QOSMaxJobsPerUserLimit"


@pytest.fixture
def said():
    return []


@pytest.fixture
def waiting(said):
    return Waiting(600.0, said.append)


def job(number, state=JobState.QUEUED, reason="", service=None, is_held=False):
    batch = SubmittedBatch(number, f"1-{number}", JobId(f"j{number}"), service=service)
    batch.note(Update(batch.job, state, None, reason, is_held=is_held), 0.0)
    return batch


SERVICE = job(1, JobState.RUNNING, service=b"s")


def failed(waiting, batches, now):
    return [(batch.job, why) for batch, why in waiting.stuck(batches, now)]


def test_clients_that_wait_for_their_own_service_are_named_and_fail(waiting, said):
    batches = [SERVICE, job(2, reason=OURS)]
    assert failed(waiting, batches, 59.0) == []
    assert said == []
    assert failed(waiting, batches, 61.0) == []
    text = f"job j2 waits in the queue ({OURS}) while only 1 service of the workflow runs (j1)"
    assert said == [f"{text}; it fails after 10m 00s (service_patience)"]
    assert failed(waiting, batches, 599.0) == []
    ((name, why),) = failed(waiting, batches, 601.0)
    assert name == "j2"
    assert "QOSMaxJobsPerUserLimit" in why
    assert "only 1 service of the workflow runs (j1)" in why


def test_a_long_queue_is_no_deadlock_for_long(waiting):
    batches = [SERVICE, job(2, reason="PENDING Priority")]
    assert failed(waiting, batches, 14_000.0) == []
    assert len(failed(waiting, batches, 14_500.0)) == 1


@pytest.mark.parametrize(
    "batches",
    [
        [job(2, reason=OURS)],
        [SERVICE],
        [SERVICE, job(2, reason=OURS), job(3, JobState.RUNNING)],
    ],
    ids=["no service", "no client", "something else runs"],
)
def test_batches_that_may_still_start_are_left_alone(waiting, said, batches):
    assert failed(waiting, batches, 1e6) == []
    assert said == []


def test_a_reason_that_changes_starts_the_time_again(waiting):
    client = job(2, reason=OURS)
    client.note(Update(client.job, JobState.QUEUED, None, "PENDING QOSMaxCpuPerUserLimit"), 500.0)
    assert failed(waiting, [SERVICE, client], 1000.0) == []
    assert len(failed(waiting, [SERVICE, client], 1101.0)) == 1


def test_held_jobs_are_named_with_their_reason_periodically(waiting, said):
    batches = [job(1, reason="PENDING JobHeldAdmin", is_held=True), job(2, reason="PENDING Priority")]
    for now in range(0, 3 * 3600, 10):
        assert failed(waiting, batches, float(now)) == []
    assert said == ["job j1 may never start: PENDING JobHeldAdmin; you or an administrator must change something"] * 3


class Log:
    """Keeps the messages."""

    def __init__(self):
        self.written = []

    def add(self, data):
        record = records.decode(data)
        self.written.append((record.waiting, record.begun))


def test_the_log_names_waiting_tasks_and_later_changes():
    log, first, second = Log(), job(1, reason="PENDING Priority"), job(2, reason="PENDING Priority")
    queued = Queued(log)
    queued.write([SERVICE, first, second], 0.0)
    assert log.written.pop() == ({"j1": "PENDING Priority", "j2": "PENDING Priority"}, ())
    first.note(Update(first.job, JobState.RUNNING), 6.0)
    queued.write([first, second], 6.0)
    assert log.written.pop() == ({}, ("j1",))
    queued.write([first], 12.0)  # the second has ended: its outcome says so
    assert log.written.pop() == ({}, ())
    queued.write([first], 18.0)
    assert log.written == []


def test_reasons_that_change_constantly_are_written_periodically():
    log, batch = Log(), job(1, reason="PENDING Priority")
    queued = Queued(log)
    for now in range(600):
        batch.note(Update(batch.job, JobState.QUEUED, None, f"PENDING {now}"), float(now))
        queued.write([batch], float(now))
    assert len(log.written) == 10


def test_a_run_without_a_queue_writes_nothing():
    log = Log()
    Queued(log).write([job(1, JobState.RUNNING)], 0.0)
    assert log.written == []
