"""Every word and number of Grid Engine's manuals has its verdict, and what is not an answer has none."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toilfn.clusters.base import JobState
from toilfn.clusters.gridengine import EXITS, FAILED, STATES, accounted, queue_rows, queue_state, records
from toilfn.ids import Cause

QUEUED, RUNNING, ENDED, UNKNOWN = JobState.QUEUED, JobState.RUNNING, JobState.ENDED, JobState.UNKNOWN

# sge_status(5), "Job state"; N and P are of Univa's and Altair's qstat(1)
LETTERS = {
    QUEUED: ["qw", "Rq", "hqw", "hRwq", "w", "q", "hRqw"],
    RUNNING: [
        "r", "hr", "t", "Rr", "Rt", "s", "ts", "S", "tS", "T", "tT", "Rs", "Rts", "RS", "RtS", "RT", "RtT", "dr", "dt",
        "dRr", "dRt", "ds", "dS", "dT", "dRs", "dRS", "dRT", "N", "P", "rN", "dP",
    ],
    ENDED: ["Eqw", "Ehqw", "EhRqw", "dEqw"],
    UNKNOWN: ["", "?", "x"],
}  # fmt: skip


@pytest.mark.parametrize(("state", "letters"), [(state, one) for state, many in LETTERS.items() for one in many])
def test_each_state_of_the_manual_has_a_verdict(state, letters):
    found = queue_state(letters)
    assert found.state is state
    assert found.cause is (Cause.LOST if state is ENDED else None)  # it could not be started: that is not the task's
    assert found.is_stuck is (state is ENDED)
    assert found.is_held is (state is QUEUED and "h" in letters)


def record(failed="0", status="0", **more):
    return {"failed": failed, "exit_status": status, "hostname": "n1"} | more


# sge_status(5), '"Failed" states': the column OK tells whether the job ran
SYSTEM = [1, 3, 4, 6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23, 26, 27, 28, 29, 31, 32, 33, 34, 35, 36, 38]
RAN = [0, 12, 13, 14, 15, 16]


@pytest.mark.parametrize("code", SYSTEM)
def test_failures_of_the_system_are_not_the_tasks(code):
    for status in ("0", "1", "137"):
        assert accounted(record(f"{code}  : {FAILED[code].meaning}", status)).cause is Cause.LOST


@pytest.mark.parametrize("code", RAN)
def test_a_job_that_ran_is_judged_by_its_own_status(code):
    assert accounted(record(str(code))).cause is None
    assert accounted(record(str(code), "3")).cause is Cause.ERROR
    assert accounted(record(str(code), "137 (Killed)")).cause is Cause.LOST


@pytest.mark.parametrize(
    ("failed", "status", "cause"),
    [
        ("17 : through signal", "0", Cause.LOST),
        ("17 : through signal", "139", Cause.ERROR),
        ("24 : migrating (checkpointing jobs)", "0", Cause.PREEMPTED),
        ("25  : rescheduling", "0", Cause.PREEMPTED),
        ("30 : application error returned", "100", Cause.ERROR),
        ("37  : qmaster enforced h_rt, h_cpu, or h_vmem limit", "137", Cause.WALLTIME),
        ("100 : assumedly after job", "0", Cause.LOST),
        ("100 : assumedly after job", "137", Cause.LOST),
        ("100 : assumedly after job", "139", Cause.ERROR),
        ("100 : assumedly after job", "134", Cause.ERROR),
        ("77 : a new reason", "0", Cause.LOST),
        ("0", "99", Cause.LOST),
        ("0", "100", Cause.ERROR),
        ("0", "75", Cause.LOST),
    ],
)
def test_other_numbers_are_judged(failed, status, cause):
    assert accounted(record(failed, status)).cause is cause


LIMITS = {"category": "-l h_rt=310,h_vmem=683594K -pe smp 2", "slots": "1"}


@pytest.mark.parametrize("failed", ["37", "100", "0"])
@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        (LIMITS | {"maxvmem": "1.034G", "ru_wallclock": "2s"}, Cause.MEMORY),
        (LIMITS | {"maxvmem": "667.6M", "ru_wallclock": "311s"}, Cause.MEMORY),
        (LIMITS | {"maxvmem": "1.034G", "ru_wallclock": "311", "slots": "2"}, Cause.WALLTIME),
        (LIMITS | {"maxvmem": "100M", "wallclock": "310.123", "ru_wallclock": "0"}, Cause.WALLTIME),
        ({"category": "-l h_rt=0:5:0", "ru_wallclock": "300"}, Cause.WALLTIME),
        ({"category": "-q all.q -l h_cpu=60", "cpu": "61.5s"}, Cause.WALLTIME),
        ({"category": "-l h_rss=1G", "maxrss": "1.5G"}, Cause.MEMORY),
        ({"hard_resources": "h_vmem=1G", "maxvmem": "1.000G"}, Cause.MEMORY),
    ],
)
def test_the_exceeded_limit_is_named(failed, fields, cause):
    assert accounted(record(failed, "137", **fields)).cause is cause


def test_a_limit_that_was_not_reached_is_not_named():
    fields = LIMITS | {"maxvmem": "100M", "ru_wallclock": "2s"}
    assert accounted(record("100", "137", **fields)).cause is Cause.LOST
    assert accounted(record("0", "3", **LIMITS, maxvmem="2G", ru_wallclock="400")).cause is Cause.ERROR
    assert accounted(record("37", "137", category="-l h_vmem=1G", maxvmem="0.9G")).cause is Cause.MEMORY


def test_each_row_names_its_page():
    assert all(row.page for row in (*STATES.values(), *FAILED.values()))
    assert all(page for _, page in EXITS.values())


QACCT = """\
==============================================================
qname        all.q
hostname     n1
jobname      x
jobnumber    12
taskid       {task}
failed       0
exit_status  {status}
category     -l h_rt=60
"""


def test_only_whole_records_count():
    whole = QACCT.format(task=1, status=0) + QACCT.format(task="undefined", status=3)
    cut = QACCT.format(task=2, status=0).partition("exit_status")[0]
    text = (
        f"NOTICE: accounting is rotated on Monday\n{whole}{cut}\nTotal System Usage\n    WALLCLOCK  UTIME\n====\n 5 3\n"
    )
    assert [(number, task, found.cause) for number, task, found in records(text)] == [
        ("12", 1, None),
        ("12", None, Cause.ERROR),
    ]


@pytest.mark.parametrize("text", ["", "banner", "Total System Usage\n 1 2", "failed 0\nexit_status 0", "exit_status 0"])
def test_text_that_is_not_a_record_says_nothing(text):
    assert list(records(text)) == []


QSTAT = """\
<?xml version='1.0'?>
<job_info><queue_info>
<job_list><JB_job_number>12</JB_job_number>
<JB_name>a&amp;b</JB_name><state>r</state><tasks>3</tasks></job_list>
<job_list state="running"><JB_job_number>oh</JB_job_number><JB_name>c</JB_name><state>r</state></job_list>
</queue_info><job_info>
<job_list state="pending"><JB_job_number>13</JB_job_number><JB_name></JB_name><state>qw</state></job_list>
<job_list><JB_job_number>14</JB_job_number>
<JB_name>d\x01</JB_name><state>qw</state><tasks>1-5:2,7</tasks></job_list>
</job_info></job_info>
"""


def test_qstats_rows_are_read():
    rows = queue_rows(f"NOTICE <b>\n{QSTAT}\nhave a nice day")
    assert rows is not None
    assert list(rows) == [
        ("12", 3, "r", "a&b"),
        ("13", None, "qw", ""),
        *(("14", task, "qw", "d?") for task in (1, 3, 5, 7)),
    ]


@pytest.mark.parametrize("text", ["", "NOTICE", QSTAT[:100], QSTAT[:-20], "<job_info>", "{}", "<a></job_info>"])
def test_an_incomplete_answer_is_not_an_answer(text):
    assert queue_rows(text) is None


PIECES = st.sampled_from(
    [*QACCT.format(task=1, status="137 (Killed)").splitlines(keepends=True), *QSTAT.splitlines(keepends=True), "====\n",
     "maxvmem 1G\n", "failed 9999999999999\n", "taskid 99999999999\n", "h_vmem=", "ru_wallclock 1:2:3\n", "\x00", "&"]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=3))).map("".join)))
@example("failed 0\nexit_status 0\njobnumber 1")
@settings(max_examples=200)
def test_any_text_gives_verdicts_or_nothing(text):
    assert all(found.state is ENDED for *_, found in records(text))
    for _, _, state, _ in queue_rows(text) or ():
        queue_state(state)
    queue_state(text)
