"""A leader continues with the jobs of an earlier one: what it takes over, writes down, and listens to."""

from __future__ import annotations

import pytest

from toilfn.clusters.base import JobId
from toilfn.ids import Budget
from toilfn.leader.abandoned import adopt
from toilfn.leader.jobs import Jobs
from toilfn.leader.mailbox import Mailbox
from toilfn.model.records import Started, decode
from toilfn.resources import Capacity, Resources
from toilfn.scheduler import Scheduler
from toilfn.scheduler.events import NewTask, Submitted

A, B, C = (bytes([n]) * 16 for n in range(3))


class Written(list):
    """What would be in the log."""

    def add(self, record):
        self.append(decode(record))


class Messages(Mailbox):
    """Batches 1-1 and 1-2 are known; of others the message is gone."""

    def tasks(self, name):
        return {"1-1": (A, B), "1-2": (C,)}.get(name, ())


@pytest.fixture
def written():
    return Written()


@pytest.fixture
def jobs(written):
    return Jobs(None, written, None)


def adopted(jobs, live, void=()):
    scheduler = Scheduler(Capacity(None))
    scheduler.handle(Submitted(tuple(NewTask(id, (), Resources(), 0, Budget()) for id in (A, B, C))))
    return adopt(live, Messages(), lambda id, name: (id, name) in void, scheduler, jobs)


def test_the_current_task_of_an_adopted_job_is_recorded(jobs, written):
    assert adopted(jobs, {JobId("j1"): "1-1", JobId("j2"): "1-2"}) == []
    assert [(record.ids, record.job) for record in written] == [((A, B), "j1"), ((C,), "j2")]
    assert all(isinstance(record, Started) for record in written)
    assert jobs.of(JobId("j1")).name == "1-1"


def test_a_job_may_report_all_its_tasks_unless_something_was_rolled_back(jobs):
    adopted(jobs, {JobId("j1"): "1-1"})
    assert jobs.of(JobId("j1")).owed is None
    assert list(jobs) == [jobs.of(JobId("j1"))]


def test_a_job_does_not_report_tasks_that_were_rolled_back_since(jobs, written):
    assert adopted(jobs, {JobId("j1"): "1-1"}, void={(A, "1-1")}) == []
    assert jobs.of(JobId("j1")).owed == {B}
    assert [record.ids for record in written] == [(B,)]


def test_jobs_of_which_nothing_is_needed_are_ended(jobs, written):
    live = {JobId("j1"): "1-2", JobId("j2"): "1-9", JobId("j3"): ""}
    assert adopted(jobs, live, void={(C, "1-2")}) == ["j1", "j2", "j3"]
    assert not jobs
    assert not written
