"""The meaning of HTCondor's job ads, holds and event logs; every row of the tables is tried."""

from __future__ import annotations

import json
from enum import IntEnum

import pytest

from toilfn.clusters.base import JobState
from toilfn.clusters.htcondor import (
    EVENTS,
    HOLDS,
    STATES,
    ad_key,
    batch_names,
    event_log,
    job_ad,
    json_ads,
)
from toilfn.ids import Cause

QUEUED, RUNNING, UNKNOWN, ENDED = JobState.QUEUED, JobState.RUNNING, JobState.UNKNOWN, JobState.ENDED

WAITED_FOR = {1, 15, 16}
ERRORS = {3, 5, 25, 26, 32, 33, 35, 36, 37, 43, 44}
BY_CODE = (
    {(code, None): Cause.LOST for code in {*range(2, 49)} - WAITED_FOR - ERRORS}
    | {(code, None): Cause.ERROR for code in ERRORS}
    | {(34, None): Cause.MEMORY, (46, None): Cause.WALLTIME, (47, None): Cause.WALLTIME}
    | {(code, 102): Cause.MEMORY for code in (21, 26, 34)}
    | {(code, 104): Cause.ERROR for code in (21, 26, 34)}
)

PERIODIC = "The job attribute PeriodicRemove expression '{}' evaluated to TRUE"


def held(code, subcode=None, reason="because"):
    values = {"HoldReasonCode": code, "HoldReasonSubCode": subcode}
    return {"JobStatus": 5, "HoldReason": reason} | {name: value for name, value in values.items() if value is not None}


def test_the_tables_hold_what_is_tried_here():
    assert HOLDS.keys() == BY_CODE.keys() | {(code, None) for code in WAITED_FOR}
    assert all(row.meaning and row.source for table in (STATES, HOLDS, EVENTS) for row in table.values())


@pytest.mark.parametrize(
    ("status", "state"), [(0, UNKNOWN), (1, QUEUED), (2, RUNNING), (6, RUNNING), (7, RUNNING), (8, UNKNOWN)]
)
def test_live_states(status, state):
    assert (job_ad({"JobStatus": status}).state, job_ad({"JobStatus": str(status)}).state) == (state, state)


@pytest.mark.parametrize(
    ("ad", "cause"),
    [
        ({"ExitCode": 0, "ExitBySignal": False}, None),
        ({"ExitCode": 0}, None),
        ({"ExitCode": 3}, Cause.ERROR),
        ({"ExitCode": 137}, Cause.LOST),
        ({"ExitBySignal": True, "ExitSignal": 9}, Cause.LOST),
        ({"ExitBySignal": True, "ExitSignal": 11}, Cause.ERROR),
        ({"ExitBySignal": True, "ExitSignal": 11, "ExitCode": 0}, Cause.ERROR),
        ({"ExitBySignal": True}, Cause.LOST),
        ({"ExitBySignal": True, "ExitCode": 0}, Cause.LOST),
        ({}, Cause.LOST),
        ({"ExitCode": None}, Cause.LOST),
        ({"ExitCode": "undefined"}, Cause.LOST),
        ({"ExitCode": []}, Cause.LOST),
    ],
)
def test_completed_jobs_end_as_their_exit_says_and_not_well_without_one(ad, cause):
    found = job_ad({"JobStatus": 4} | ad)
    assert (found.state, found.cause) == (ENDED, cause)


@pytest.mark.parametrize(("code", "subcode", "cause"), [(*key, cause) for key, cause in BY_CODE.items()])
def test_holds_of_the_system_end_a_job(code, subcode, cause):
    found = job_ad(held(code, subcode))
    assert (found.state, found.cause, found.is_stuck) == (ENDED, cause, True)
    assert "because" in found.detail


@pytest.mark.parametrize("code", [*WAITED_FOR, 0, None])
def test_holds_of_people_are_waited_for_and_never_removed(code):
    found = job_ad(held(code, reason="via condor_hold (by user alice)"))
    assert (found.state, found.cause, found.is_stuck) == (QUEUED, None, False)
    assert "via condor_hold (by user alice)" in found.detail


@pytest.mark.parametrize(
    ("code", "subcode", "reason", "cause"),
    [
        (26, 0, "The job attribute SystemPeriodicHold: memory usage exceeded 4000 MB", Cause.MEMORY),
        (26, None, "memory usage exceeded", Cause.MEMORY),
        (26, 0, "The job ran longer than the maximum runtime of 72 hours", Cause.WALLTIME),
        (26, 0, "Job was started too often", Cause.ERROR),
        (21, 0, "Job has gone over memory limit of 128 megabytes", Cause.MEMORY),
        (21, 0, "machine policy", Cause.LOST),
        (21, 0, "Error from slot1@n1: the job exceeded its allocated disk", Cause.ERROR),
        (3, 7, "The job attribute PeriodicHold expression 'ResidentSetSize > 5' evaluated to TRUE", Cause.MEMORY),
        (34, 0, "Error from slot1@host: memory usage exceeded request_memory", Cause.MEMORY),
        (34, 0, "Error from slot1@host: disk usage exceeded request_disk", Cause.ERROR),
        (34, 102, "disk", Cause.MEMORY),
        (99, 0, "something new", Cause.LOST),
    ],
)
def test_the_reason_of_a_policy_says_what_was_exceeded(code, subcode, reason, cause):
    assert job_ad(held(code, subcode, reason)).cause is cause


@pytest.mark.parametrize(
    ("ad", "cause"),
    [
        ({"RemoveReason": "via condor_rm (by user alice)"}, Cause.LOST),
        ({}, Cause.LOST),
        ({"RemoveReason": "SYSTEM_PERIODIC_REMOVE: memory usage"}, Cause.MEMORY),
        ({"RemoveReason": PERIODIC.format("RemoteWallClockTime > 3600")}, Cause.WALLTIME),
        ({"RemoveReason": PERIODIC.format("ResidentSetSize > RequestMemory * 1024")}, Cause.MEMORY),
        ({"RemoveReason": PERIODIC.format("NumJobStarts > 3")}, Cause.LOST),
        (held(34, 102), Cause.MEMORY),
        (held(47), Cause.WALLTIME),
        (held(34, 104), Cause.ERROR),
        (held(1), Cause.LOST),
    ],
)
def test_removed_jobs_are_lost_unless_a_hold_came_first(ad, cause):
    found = job_ad(ad | {"JobStatus": 3})
    assert (found.state, found.cause, found.is_stuck) == (ENDED, cause, False)


@pytest.mark.parametrize("ad", [{}, {"JobStatus": None}, {"JobStatus": "x"}, {"JobStatus": True}, {"JobStatus": 1.5}])
def test_an_ad_without_a_status_says_nothing(ad):
    assert job_ad(ad) is None


class Undefined(IntEnum):
    """As in the module classad2."""

    UNDEFINED = 2


def test_a_value_that_the_bindings_call_undefined_is_not_a_number():
    assert job_ad({"JobStatus": 4, "ExitCode": Undefined.UNDEFINED}).cause is Cause.LOST
    assert job_ad({"JobStatus": 5, "HoldReasonCode": Undefined.UNDEFINED}).is_stuck is False
    assert job_ad({"JobStatus": Undefined.UNDEFINED}) is None


def test_ads_name_their_jobs():
    assert ad_key({"ClusterId": 4, "ProcId": 0}) == ("4", 0)
    assert ad_key({"ClusterId": "4", "ProcId": "1"}) == ("4", 1)
    assert [ad_key(ad) for ad in ({}, {"ClusterId": 4}, {"ClusterId": None, "ProcId": 0})] == [None, None, None]


def test_odd_ads_do_not_hide_others():
    ads = [{"ClusterId": 1}, {"JobStatus": 2}, {"ClusterId": 4, "ProcId": 0, "JobStatus": 1, "JobBatchName": "x"}]
    ads += [
        {"ClusterId": 5, "ProcId": 0, "JobStatus": 4, "JobBatchName": "x"},
        {"ClusterId": 6, "ProcId": 0, "JobStatus": 1},
    ]
    assert batch_names(ads) == {("4", 0): "x", ("6", 0): ""}


ADS = json.dumps([{"ClusterId": 4, "ProcId": 0}, {"ClusterId": 5, "ProcId": 0}], indent=1)


@pytest.mark.parametrize(
    "text", [ADS, f"NOTICE [today]\n{ADS}\nbye [all]\n", f"[news]\n{ADS}", ADS.replace("\n", "\r\n")]
)
def test_notices_around_an_answer_are_left_out(text):
    assert [ad_key(ad) for ad in json_ads(text)] == [("4", 0), ("5", 0)]


def test_an_empty_answer_means_no_jobs():
    assert json_ads("") == json_ads("\n") == json_ads("[\n]\n") == []


@pytest.mark.parametrize("kept", range(1, len(ADS) - 1, 3))
def test_an_answer_that_is_cut_is_no_answer(kept):
    assert json_ads(ADS[:kept]) is None


@pytest.mark.parametrize("text", ["Warning: overloaded", "{}", "3", "null", "]["])
def test_text_that_is_not_an_answer(text):
    assert json_ads(text) is None


def event(code, words, job="114.000.000"):
    return f"{code} ({job}) 2024-03-04 11:04:10 {words}\n...\n"


HELD = "Job was held.\n\t{}\n\tCode {} Subcode {}"


@pytest.mark.parametrize("code", [code for code, row in EVENTS.items() if row.state is not ENDED])
def test_events_that_end_no_job(code):
    assert event_log(event(code, "words\n\tmore words")) == {}


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("Job terminated.\n\t(1) Normal termination (return value 0)", None),
        ("Job terminated.\n\t(1) Normal termination (return value 3)", Cause.ERROR),
        ("Job terminated.\n\t(0) Abnormal termination (signal 9)", Cause.LOST),
        ("Job terminated.\n\t(0) Abnormal termination (signal 11)", Cause.ERROR),
        ("Job terminated.", Cause.LOST),
        ("Job terminated.\n\t(1) Normal termination (return value )", Cause.LOST),
    ],
)
def test_terminations(words, cause):
    found = event_log(event("005", words))[("114", 0)]
    assert (found.state, found.cause) == (ENDED, cause)


def test_other_ends():
    assert event_log(event("009", "Job was aborted.\n\tvia condor_rm"))[("114", 0)].cause is Cause.LOST
    assert event_log(event("046", "Dataflow job was skipped."))[("114", 0)].cause is Cause.LOST


ABORTED = event("009", "Job was aborted.\n\tvia condor_rm (by user root)")


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        (event("012", HELD.format("memory usage exceeded request_memory", 34, 102)), Cause.MEMORY),
        (event("012", HELD.format("disk usage exceeded", 34, 104)), Cause.ERROR),
        (event("012", HELD.format("exceeded allowed execute duration", 47, 0)), Cause.WALLTIME),
        (event("012", HELD.format("via condor_hold", 1, 0)), Cause.LOST),
        (event("012", HELD.format("memory", 34, 102)) + event("013", "Job was released."), Cause.LOST),
        (event("012", "Job was held."), Cause.LOST),
    ],
)
def test_a_removal_after_a_hold_has_the_holds_cause(before, cause):
    assert event_log(before + ABORTED)[("114", 0)].cause is cause


def test_a_job_that_was_started_again_has_not_ended():
    ended = event("005", "Job terminated.\n\t(1) Normal termination (return value 3)")
    assert event_log(ended + event("001", "Job executing on host: <1.2.3.4>")) == {}


def test_lines_that_are_no_events_are_left_out():
    ended = event("005", "Job terminated.\n\t(1) Normal termination (return value 3)")
    assert event_log(f"a notice\n{ended}...\n005 (oops\n...\n").keys() == {("114", 0)}
