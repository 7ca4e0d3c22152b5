"""Submitting beside everything else: what is sent when, and what follows from refusals."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from toilfn.clusters.base import Batch, Refusal, SubmissionError
from toilfn.errors import ClusterError
from toilfn.leader.jobs import Parcel, Refused, Sent, Submitting
from toilfn.resources import Resources

SMALL, LARGE = Resources(memory=2**27), Resources(memory=2**37)
LIMIT = 30


class System:
    """A cluster that answers as it is told: a refusal is used up by one call, and everything else is taken."""

    submits_beside = True

    def __init__(self) -> None:
        self.refusals: list[tuple[Refusal, int]] = []
        self.calls: list[list[str]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.has_answered = threading.Semaphore(0)

    def submit(self, batches: Sequence[Batch]) -> list[str]:
        assert self.may_answer.wait(LIMIT)
        self.calls.append([batch.name for batch in batches])
        if self.refusals:
            refusal, taken = self.refusals.pop(0)
            jobs = {batch.name: f"job-{batch.name}" for batch in batches[:taken]}
            raise SubmissionError("no: the script", "no", refusal, jobs)
        return [f"job-{batch.name}" for batch in batches]

    def wake(self) -> None:
        self.has_answered.release()


@pytest.fixture
def system():
    return System()


@pytest.fixture
def submitting(system):
    made = Submitting(system)
    yield made
    made.close()


def parcels(*names: str, shape: Resources = SMALL) -> list[Parcel]:
    return [Parcel(n, Batch(name, "", shape)) for n, name in enumerate(names)]


def step(system, submitting, now, others=0):
    """Send the jobs that are due, and return the results."""
    assert list(submitting.work(now, others)) == []
    assert system.has_answered.acquire(timeout=LIMIT)
    return list(submitting.work(now, others))


def names(answers, kind):
    return [answer.parcel.batch.name for answer in answers if isinstance(answer, kind)]


def test_the_leader_does_not_wait_for_a_slow_system(system, submitting):
    system.may_answer.clear()
    submitting.put(parcels("a", "b"))
    for now in range(5):
        assert list(submitting.work(now, 0)) == []
    system.may_answer.set()
    assert system.has_answered.acquire(timeout=LIMIT)
    assert names(submitting.work(5, 0), Sent) == ["a", "b"]
    assert system.calls == [["a", "b"]]


def test_a_shape_that_is_refused_permanently_does_not_affect_others(system, submitting):
    system.refusals = [(Refusal.FINAL, 0)]
    submitting.put([*parcels("a", "b", shape=LARGE), *parcels("c")])
    refused = step(system, submitting, 0)
    assert [(answer.parcel.batch.name, answer.text) for answer in refused] == [("a", "no: the script"), ("b", "no")]
    assert system.has_answered.acquire(timeout=LIMIT)
    assert names(submitting.work(0, 0), Sent) == ["c"]


def test_jobs_accepted_before_a_refusal_count(system, submitting):
    system.refusals = [(Refusal.PASSING, 1)]
    submitting.put(parcels("a", "b"))
    assert names(step(system, submitting, 0), Sent) == ["a"]
    assert names(step(system, submitting, 10, 1), Sent) == ["b"]
    assert system.calls == [["a", "b"], ["b"]]


def test_a_refusal_that_may_pass_is_tried_again_later_each_time(system, submitting):
    system.refusals = [(Refusal.PASSING, 0)] * 3
    submitting.put(parcels("a"))
    assert step(system, submitting, 0) == []
    assert list(submitting.work(0.9, 0)) == []
    assert system.calls == [["a"]]
    assert step(system, submitting, 1) == []
    assert list(submitting.work(2.9, 0)) == []
    assert step(system, submitting, 3) == []
    assert names(step(system, submitting, 7), Sent) == ["a"]


def test_fewer_jobs_are_sent_to_a_full_system_and_its_limit_is_known(system, submitting):
    system.refusals = [(Refusal.FULL, 0)] * 3
    submitting.put(parcels("a", "b", "c", "d"))
    step(system, submitting, 0, others=7)
    assert system.has_answered.acquire(timeout=LIMIT)
    list(submitting.work(0, 7))
    assert system.has_answered.acquire(timeout=LIMIT)
    list(submitting.work(0, 7))
    assert system.calls == [["a", "b", "c", "d"], ["a", "b"], ["a"]]
    assert submitting.limit == 7
    assert names(step(system, submitting, 1, others=7), Sent) == ["a"]
    list(submitting.work(10_000, 7))
    assert submitting.limit is None


@pytest.mark.parametrize("refusal", [Refusal.FULL, Refusal.PASSING])
def test_a_refused_shape_fails_when_none_of_our_jobs_is_there(system, submitting, refusal):
    system.refusals = [(refusal, 0)] * 2
    submitting.put(parcels("a"))
    assert step(system, submitting, 0) == []
    assert names(step(system, submitting, 601), Refused) == ["a"]


def test_a_full_system_is_waited_for_while_our_jobs_are_there(system, submitting):
    system.refusals = [(Refusal.FULL, 0)] * 2
    submitting.put(parcels("a"))
    assert step(system, submitting, 0, others=1) == []
    assert step(system, submitting, 100_000, others=1) == []
    assert names(step(system, submitting, 200_000, others=1), Sent) == ["a"]


def test_a_system_that_is_away_for_long_ends_the_run(system, submitting):
    system.refusals = [(Refusal.AWAY, 0)] * 2
    submitting.put(parcels("a"))
    step(system, submitting, 0)
    with pytest.raises(ClusterError):
        step(system, submitting, 601)


def test_batches_that_were_not_sent_can_be_withdrawn(system, submitting):
    system.may_answer.clear()
    submitting.put([*parcels("a", shape=LARGE), *parcels("b")])
    list(submitting.work(0, 0))
    assert [parcel.batch.name for parcel in submitting.withdraw()] == ["b"]
    system.may_answer.set()
