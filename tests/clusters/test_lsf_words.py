"""The meaning of LSF's states, reasons, exit codes and histories; every row of the tables is tried."""

from __future__ import annotations

import json

import pytest

from toilfn.clusters.base import JobState
from toilfn.clusters.lsf import REASONS, SIGNALS, STATES, history, job_key, json_records, queue_record
from toilfn.ids import Cause

QUEUED, RUNNING, UNKNOWN, ENDED = JobState.QUEUED, JobState.RUNNING, JobState.UNKNOWN, JobState.ENDED

LIVE = {
    "PEND": QUEUED, "PROV": QUEUED, "PSUSP": QUEUED, "WAIT": QUEUED, "RUN": RUNNING, "USUSP": RUNNING,
    "SSUSP": RUNNING, "UNKWN": UNKNOWN,
}  # fmt: skip
OVER = {"DONE": None, "PDONE": None, "PERR": None, "EXIT": Cause.LOST, "ZOMBI": Cause.LOST}

CAUSES = {
    Cause.MEMORY: "MEMLIMIT SWAP SWAPLIMIT",
    Cause.WALLTIME: "RUNLIMIT CPULIMIT",
    Cause.PREEMPTED: "PREEMPT LOAD WINDOW WINDOWS REQUEUE_OWNER REQUEUE_ADMIN REQUEUE_RC RC RC_RECLAIM CHKPNT",
    Cause.ERROR: "PROCESSLIMIT THREADLIMIT",
    Cause.LOST: "ADMIN BUCKET_KILL CSM_ALLOC CTRL_PID CWD_NOTEXIST DATA DEADLINE EXTERNAL_SIGNAL FORCE_ADMIN "
    "FORCE_OWNER KUBE MC_RECALL ORPHAN_SYSTEM OTHER OWNER PRE_EXEC_FAIL REMOVE_HUNG_JOB RMS SLURM USER ZOMBIE",
}
BY_REASON = {f"TERM_{name}": cause for cause, names in CAUSES.items() for name in names.split()}


def test_the_tables_hold_what_is_tried_here():
    assert STATES.keys() == LIVE.keys() | OVER.keys()
    assert REASONS.keys() == BY_REASON.keys()
    assert all(row.meaning and row.source for row in [*STATES.values(), *REASONS.values(), *SIGNALS.values()])


@pytest.mark.parametrize(("word", "state"), LIVE.items())
def test_live_states(word, state):
    found = queue_record({"STAT": word})
    assert (found.state, found.cause) == (state, None)


@pytest.mark.parametrize(("word", "cause"), OVER.items())
def test_states_of_ended_jobs_without_an_exit_code(word, cause):
    """EXIT without a code has not ended well."""
    found = queue_record({"STAT": word, "EXIT_CODE": "", "EXIT_REASON": ""})
    assert (found.state, found.cause) == (ENDED, cause)


@pytest.mark.parametrize("word", ["PDONE", "PERR", "EXIT"])
def test_the_jobs_own_code_counts_whatever_came_after_it(word):
    assert queue_record({"STAT": word, "EXIT_CODE": "3"}).cause is Cause.ERROR


@pytest.mark.parametrize(("reason", "cause"), BY_REASON.items())
def test_reasons(reason, cause):
    record = {"STAT": "EXIT", "EXIT_CODE": "1", "EXIT_REASON": f"{reason}: job killed", "EXEC_HOST": "a"}
    assert queue_record(record).cause is cause
    text = HISTORY.format(
        f"{AT} Exited with exit code 1. The CPU time used is 0 seconds;\n{AT} Completed <exit>; {reason}: x;"
    )
    assert history(text)[("107", 0)].cause is cause


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("1", Cause.ERROR),
        ("127", Cause.ERROR),
        ("130", Cause.LOST),
        ("137", Cause.LOST),
        ("139", Cause.ERROR),
        ("140", Cause.WALLTIME),
        ("143", Cause.LOST),
        ("152", Cause.WALLTIME),
        ("-", Cause.LOST),
        ("", Cause.LOST),
    ],
)
@pytest.mark.parametrize("reason", ["", "TERM_UNKNOWN: unknown reason"])
def test_exit_codes_decide_where_there_is_no_reason(code, cause, reason):
    assert queue_record({"STAT": "EXIT", "EXIT_CODE": code, "EXIT_REASON": reason}).cause is cause


def test_a_reason_that_is_new_is_lsfs_own():
    record = {"STAT": "EXIT", "EXIT_CODE": "1", "EXIT_REASON": "TERM_SOLAR_FLARE: too sunny"}
    assert queue_record(record).cause is Cause.LOST


def test_a_state_that_is_new_is_unknown():
    assert queue_record({"STAT": "WARP"}).state is UNKNOWN


@pytest.mark.parametrize("record", [{}, {"STAT": None}, {"STAT": ""}, {"STAT": " "}])
def test_a_record_without_a_state_says_nothing(record):
    assert queue_record(record) is None


@pytest.mark.parametrize(
    ("record", "key"),
    [
        ({"JOBID": "12", "JOBINDEX": "0"}, ("12", 0)),
        ({"JOBID": "12", "JOBINDEX": "3"}, ("12", 3)),
        ({"JOBID": "12[3]"}, ("12", 3)),
        ({"JOBID": "12", "ERROR": "Job <12> is not found"}, None),
        ({"JOBID": "abc"}, None),
        ({}, None),
        ("a banner", None),
        (None, None),
    ],
)
def test_records_name_their_jobs(record, key):
    assert job_key(record) == key


RECORDS = json.dumps({"COMMAND": "bjobs", "JOBS": 1, "RECORDS": [{"JOBID": "12", "STAT": "RUN"}]}, indent=2)


@pytest.mark.parametrize(
    "text", [RECORDS, f"NOTICE: {{today}}\n{RECORDS}\nbye [all]\n", f"[news]\n{RECORDS}", RECORDS.replace("\n", "\r\n")]
)
def test_notices_around_an_answer_are_left_out(text):
    assert [job_key(record) for record in json_records(text)] == [("12", 0)]


@pytest.mark.parametrize("kept", range(1, len(RECORDS) - 1, 5))
def test_an_answer_that_is_cut_is_no_answer(kept):
    assert json_records(RECORDS[:kept]) is None


@pytest.mark.parametrize("text", ["Warning: overloaded", "{}", "[]", "3", '{"RECORDS": 3}', "]["])
def test_text_that_is_not_an_answer(text):
    assert json_records(text) is None


AT = "Thu Mar 13 17:32:06:"
HISTORY = """
Job <107>, Job Name <x>, User <user1>, Project <default>, Command <#!/bin/sh; echo "Done successfully">
Thu Mar 13 17:31:58: Submitted from host <hosta>, to Queue <normal>, CWD <$HOME>;
Thu Mar 13 17:32:01: Dispatched 1 Task(s) on Host(s) <hostb>, Allocated 1 Slot(s) on Host(s) <hostb>;
{}
Summary of time in seconds spent in various states by  Thu Mar 13 17:32:06
"""


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        (f"{AT} Done successfully. The CPU time used is 0.1 seconds;", None),
        (f"{AT} Done successfully. The CPU time used is 0.1 seconds;\n{AT} Post job process done successfully;", None),
        (f"{AT} Exited with exit code 3. The CPU time used is 0.0 seconds;", Cause.ERROR),
        (f"{AT} Exited with exit code 130. The CPU time used is 0.0 seconds;", Cause.LOST),
        (f"{AT} Exited by signal 2. The CPU time used is 0.0 seconds;", Cause.LOST),
        (f"{AT} Exited by signal 11. The CPU time used is 0.0 seconds;", Cause.ERROR),
        (f"{AT} Exited by signal 24. The CPU time used is 62.0 seconds;", Cause.WALLTIME),
        (f"{AT} Exited; TERM_ADMIN: job killed by root or LSF administrator;", Cause.LOST),
        (f"{AT} Completed <exit>;", Cause.LOST),
    ],
)
def test_ends_in_a_history(events, cause):
    found = history(HISTORY.format(events))[("107", 0)]
    assert (found.state, found.cause) == (ENDED, cause)


@pytest.mark.parametrize(
    "events",
    [
        f"{AT} Starting (Pid 4711);",
        f"{AT} Exited; job has been requeued: Waiting for scheduling after requeue;",
        f"{AT} Exited with exit code 99. The CPU time used is 0.0 seconds;\n{AT} Pending: Job has been requeued;",
        f"{AT} Exited by signal 9. The CPU time used is 0.0 seconds;\n{AT} Dispatched 1 Task(s) on Host(s) <hostc>;",
        f"{AT} Signal <KILL> requested by user or administrator <user2>;",
        f"{AT} Unknown; unable to reach the execution host;",
        "Exited with exit code 3. (no event: there is no time)",
    ],
)
def test_a_history_without_an_end(events):
    assert history(HISTORY.format(events)) == {}


@pytest.mark.parametrize(
    "command",
    [
        "trap 'echo Exited' EXIT", "echo Exited with exit code 9", "echo Completed <exit>", "echo Done successfully",
        "x\nExited with exit code 4", "x\nDone successfully. The CPU time used is 0.1 seconds;",
    ],
)  # fmt: skip
@pytest.mark.parametrize(("end", "cause"), [("Exited with exit code 3.", Cause.ERROR), ("Done successfully.", None)])
def test_words_of_the_command_are_not_events(command, end, cause):
    text = HISTORY.replace("#!/bin/sh; ", command + ";").replace("Job Name <x>", "Job Name <Exited>")
    assert history(text.format(f"{AT} Starting (Pid 1);")) == {}
    assert history(text.format(f"{AT} {end} The CPU time used is 0.1 seconds;"))[("107", 0)].cause is cause


def test_a_job_that_was_requeued_ends_as_its_last_run_did():
    events = (
        f"{AT} Exited by signal 9. The CPU time used is 0.0 seconds;\n{AT} Completed <exit>; TERM_REQUEUE_OWNER: x;\n"
        f"{AT} Exited; job has been requeued: Waiting;\n{AT} Dispatched 1 Task(s) on Host(s) <hostc>;\n"
        f"{AT} Done successfully. The CPU time used is 1 seconds;"
    )
    found = history(HISTORY.format(events))[("107", 0)]
    assert (found.cause, found.detail) == (None, "DONE, on hostc")


def test_lines_that_were_wrapped_are_read_as_one():
    events = (
        f"{AT} Exited with exit\n                     code 3. The CPU time used is 0.1 sec\n                     onds;"
    )
    assert history(HISTORY.format(events.replace("exit\n", "exit \n")))[("107", 0)].cause is Cause.ERROR


def test_many_jobs_of_a_history_are_told_apart():
    element = HISTORY.replace("<107>", "<108[2]>")
    both = (
        HISTORY.format(f"{AT} Done successfully. ") + "-" * 78 + "\n" + element.format(f"{AT} Exited with exit code 2.")
    )
    found = history("a site's notice\n" + both + "another notice\n")
    assert {key: end.cause for key, end in found.items()} == {("107", 0): None, ("108", 2): Cause.ERROR}
