"""Answers that a shared file system shows late, or never."""

from __future__ import annotations

import sys
from dataclasses import replace

import msgpack
import pytest

from toilfn.clusters.base import JobId, JobState, Update
from toilfn.errors import ToilfnError
from toilfn.ids import Cause
from toilfn.leader.mailbox import LateAnswers, LostJobAnswers
from toilfn.worker.passed import check_versions, versions

DONE = msgpack.packb(("done",))
OTHER = msgpack.packb(("records", [], []))
WELL = Update(JobId("j"), JobState.ENDED)
FAILED = Update(JobId("j"), JobState.ENDED, Cause.ERROR, "exit status 1")


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("toilfn.leader.mailbox.time.monotonic", lambda: now[0])
    return now


def test_an_end_is_noticed_when_the_last_answer_arrives(clock):
    late = LateAnswers("file:///shared/store", limit=10)
    for answers in ([], [OTHER]):
        assert late.is_late(WELL, answers)
        clock[0] += 1
        assert late.due() == [WELL]
    assert not late.is_late(WELL, [OTHER, DONE])
    clock[0] += 1
    assert late.due() == []


def test_the_store_is_not_searched_again_at_once(clock):
    late = LateAnswers("file:///shared/store")
    late.is_late(WELL, [])
    assert late.due() == [WELL]
    late.is_late(WELL, [])
    clock[0] += 0.1
    assert late.due() == []


def test_a_job_whose_answers_never_come_is_lost_and_the_directory_is_named(clock):
    late = LateAnswers("file:///local/store", limit=10)
    late.is_late(WELL, [])
    clock[0] += 11
    (update,) = late.due()
    assert update.cause is Cause.LOST
    assert "not in the store after 10 s" in update.detail
    assert "cannot see the directory file:///local/store" in update.detail
    assert not late.is_late(update, [])


def test_a_worker_that_failed_without_a_message_may_not_have_seen_the_store():
    late = LateAnswers("/local/store")
    assert "cannot see the directory /local/store" in late.explained(FAILED, []).detail
    assert late.explained(FAILED, [OTHER]) == FAILED
    assert late.explained(WELL, []) == WELL
    assert LateAnswers("s3://bucket/store").explained(FAILED, []).detail == "exit status 1"


def test_answers_of_a_lost_job_are_still_looked_for_periodically():
    said = {"1-0": [OTHER]}
    strays = LostJobAnswers(lambda name, start: said[name][start:])
    strays.add("1-0", 1)
    assert list(strays.news(0)) == []
    said["1-0"].append(DONE)
    assert list(strays.news(1)) == []
    assert list(strays.news(10)) == [("1-0", DONE)]
    assert list(strays.news(20)) == []
    assert strays.drop() == {"1-0": 2}
    assert list(strays.news(30)) == []


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("ModuleNotFoundError: No module named 'toilfn'", "lacks toilfn "),
        ("/usr/bin/python3: No module named toilfn", "lacks toilfn "),
        ("Traceback ...\nModuleNotFoundError: No module named 'msgpack.core'", "lacks the package msgpack:"),
        ("toilfn.worker: the versions of worker and leader differ: ...", "the versions of worker and leader differ"),
    ],
)
def test_a_job_that_says_why_it_has_not_started_is_not_said_to_see_no_store(said, advice):
    update = replace(FAILED, detail=said)
    explained = LateAnswers("file:///shared/store").explained(update, []).detail
    assert advice in explained
    assert "cannot see the directory" not in explained


def test_a_worker_of_another_version_says_what_differs(monkeypatch):
    check_versions()
    monkeypatch.setenv("TOILFN_VERSIONS", versions())
    check_versions()
    monkeypatch.setenv("TOILFN_VERSIONS", "toilfn 9.1 and Python 3.8")
    with pytest.raises(ToilfnError, match=r"and the leader has toilfn 9\.1 and Python 3\.8") as caught:
        check_versions()
    assert sys.executable in str(caught.value)
    assert versions() in str(caught.value)
