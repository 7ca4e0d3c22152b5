"""The meaning of the states and exit statuses of PBS Professional and Torque; every row of the tables is tried."""

from __future__ import annotations

import json

import pytest

from toilfn.clusters.base import JobState
from toilfn.clusters.pbs import PBS_EXITS, STATES, TORQUE_EXITS, job_found, json_jobs, traced, xml_jobs
from toilfn.ids import Cause

QUEUED, RUNNING, ENDED = JobState.QUEUED, JobState.RUNNING, JobState.ENDED
LIVE = dict.fromkeys("BHMQTW", QUEUED) | dict.fromkeys("ERSU", RUNNING)

TORQUE = (
    {-10: Cause.MEMORY, -11: Cause.WALLTIME, -12: Cause.WALLTIME}
    | dict.fromkeys(range(-9, 0), Cause.LOST)
    | dict.fromkeys((-13, -14), Cause.LOST)
)
PBS = (
    dict.fromkeys((-26, -27, -31), Cause.MEMORY)
    | dict.fromkeys((-28, -29), Cause.WALLTIME)
    | dict.fromkeys((-11, -12, -15), Cause.PREEMPTED)
    | dict.fromkeys((-17, -19, -24, -25), Cause.ERROR)
    | dict.fromkeys((-1, -2, -3, -4, -5, -6, -7, -10, -13, -14, -16, -18, -20, -21, -22, -23, -30, -32), Cause.LOST)
)
SIGNALS = {0: None, 1: Cause.ERROR, 127: Cause.ERROR, 137: Cause.LOST, 139: Cause.ERROR, 143: Cause.LOST} | {
    256 + 11: Cause.ERROR, 256 + 9: Cause.LOST, 256 + 15: Cause.LOST, 75: Cause.LOST,
}  # fmt: skip


def test_the_tables_hold_what_is_tried_here():
    assert STATES.keys() == LIVE.keys() | set("CFX")
    assert (TORQUE_EXITS.keys(), PBS_EXITS.keys()) == (TORQUE.keys(), PBS.keys())
    assert all(row.meaning and row.source for table in (STATES, TORQUE_EXITS, PBS_EXITS) for row in table.values())


@pytest.mark.parametrize(("letter", "state"), LIVE.items())
def test_live_states(letter, state):
    found = job_found({"job_state": letter, "comment": "Not Running: too busy"}, PBS_EXITS)
    assert (found.state, found.cause) == (state, None)
    assert "too busy" in found.detail


@pytest.mark.parametrize("letter", "CFX")
def test_the_exit_status_of_an_ended_job_decides(letter):
    assert job_found({"job_state": letter, "Exit_status": "0"}, PBS_EXITS).cause is None
    assert job_found({"job_state": letter, "exit_status": "2"}, TORQUE_EXITS).cause is Cause.ERROR


@pytest.mark.parametrize("attributes", [{}, {"Exit_status": ""}, {"Exit_status": "x"}, {"stime": "Mon"}])
def test_no_exit_status_is_not_a_success(attributes):
    assert job_found({"job_state": "F"} | attributes, PBS_EXITS).cause is Cause.LOST


@pytest.mark.parametrize(("status", "cause"), [*TORQUE.items(), *SIGNALS.items(), (-99, Cause.LOST)])
def test_exit_statuses_of_torque(status, cause):
    assert job_found({"job_state": "C", "exit_status": str(status)}, TORQUE_EXITS).cause is cause
    assert traced(f"03/02/2005 18:00:32  S    Exit_status={status} resources_used.mem=2kb", TORQUE_EXITS).cause is cause


@pytest.mark.parametrize(("status", "cause"), [*PBS.items(), *SIGNALS.items(), (-99, Cause.LOST)])
def test_exit_statuses_of_pbs(status, cause):
    assert job_found({"job_state": "F", "Exit_status": str(status)}, PBS_EXITS).cause is cause
    assert traced(f"03/02/2005 18:00:32  S    Exit_status={status} resources_used.mem=2kb", PBS_EXITS).cause is cause


@pytest.mark.parametrize("exits", [PBS_EXITS, TORQUE_EXITS])
@pytest.mark.parametrize("status", ["271", "265", "137", "143"])
@pytest.mark.parametrize(
    ("used", "asked", "cause"),
    [
        ({"walltime": "00:01:05"}, {"walltime": "00:01:00"}, Cause.WALLTIME),
        ({"walltime": "65"}, {"walltime": "60"}, Cause.WALLTIME),
        ({"walltime": "00:00:59"}, {"walltime": "00:01:00"}, Cause.LOST),
        ({"mem": "204801kb"}, {"mem": "200mb"}, Cause.MEMORY),
        ({"vmem": "2gb"}, {"vmem": "1gb"}, Cause.MEMORY),
        ({"cput": "01:00:03"}, {"cput": "01:00:00"}, Cause.WALLTIME),
        ({"mem": "100kb", "walltime": "00:00:01"}, {"mem": "200mb", "walltime": "01:00:00"}, Cause.LOST),
        ({"mem": "odd", "walltime": "-"}, {"mem": "", "walltime": "UNLIMITED"}, Cause.LOST),
    ],
)
def test_a_kill_is_explained_by_what_the_job_had_used(exits, status, used, asked, cause):
    attributes = {"job_state": "F", "Exit_status": status}
    attributes |= {f"resources_used.{name}": value for name, value in used.items()}
    attributes |= {f"Resource_List.{name}": value for name, value in asked.items()}
    assert job_found(attributes, exits).cause is cause


def test_an_error_of_the_task_stays_one_however_long_it_took():
    used = {"resources_used.walltime": "00:02:00", "Resource_List.walltime": "00:01:00"}
    assert job_found({"job_state": "F", "Exit_status": "1"} | used, PBS_EXITS).cause is Cause.ERROR


@pytest.mark.parametrize("attributes", [{}, {"job_state": ""}, {"Job_Name": "x"}])
def test_a_record_without_a_state_says_nothing(attributes):
    assert job_found(attributes, PBS_EXITS) is None


def test_the_last_end_of_a_job_that_ran_twice_counts():
    lines = (
        "1 1  S    Exit_status=-3\n1 2  S    Job Run at request of x\n1 3  S    Exit_status=0 resources_used.mem=1kb\n"
    )
    assert traced(lines, PBS_EXITS).cause is None


JOBS = {
    "7.server": {"job_state": "R", "resources_used": {"mem": "5kb"}, "Variable_List": {"TOILFN_JOB": "wf-1", "X": ""}}
}


def answer(variables: str) -> str:
    """An answer of qstat -F json with variables as they stand."""
    return f"""{{
    "timestamp":1614155461,
    "pbs_version":"20.0.1",
    "pbs_server":"server",
    "Jobs":{{
        "6.server":{{
            "Job_Name":"other",
            "job_state":"Q"
        }},
        "7.server":{{
            "Job_Name":"toilfn",
            "job_state":"F",
            "Exit_status":3,
            "resources_used":{{
                "mem":"12kb"
            }},
            "Variable_List":{{
                "PBS_O_HOME":"/root",
{variables}
                "TOILFN_JOB":"wf-1"
            }},
            "comment":"done"
        }}
    }}
}}
"""


@pytest.mark.parametrize(
    "line",
    [
        '"RELEASE":005,',
        '"X":.123,',
        '"X":1.,',
        '"X":-,',
        '"X":0x1F,',
        '"X":12:30:00,',
        '"X":1e,',
        '"X":C:\\new\\temp,',
        '"X":"C:\\dir\\%p",',
        '"X":"a\tb",',
        '"X":"a\nb",',
        '"X":"\x01\x1b[0m",',
        '"BASH_FUNC_module%%":"() {  eval `/usr/bin/modulecmd bash $*`\n}",',
        '"BASH_FUNC_module%%":"() {\n    eval "$(x "$@")"\n}",',
        '"X":"say "hello"",',
        '"X":,',
        '"X":"\\",',
    ],
)
def test_raw_values_of_openpbs_do_not_hide_a_job(line):
    jobs = json_jobs(answer("                " + line))
    assert jobs["6.server"]["job_state"] == "Q"
    job = jobs["7.server"]
    assert (job["job_state"], job["Exit_status"]) == ("F", "3")
    assert (job["resources_used.mem"], job["Variable_List.TOILFN_JOB"]) == ("12kb", "wf-1")
    assert job_found(job, PBS_EXITS).cause is Cause.ERROR


@pytest.mark.parametrize(
    "text",
    [
        "NOTICE: the file system /scratch is full\n" + json.dumps({"Jobs": JOBS}),
        json.dumps({"Jobs": JOBS}, indent=4) + "\nGoodbye from the site {nobody}",
        "{see the news}\n" + json.dumps({"Jobs": JOBS}, indent=4),
        json.dumps({"Jobs": JOBS}).replace("\n", "\r\n"),
    ],
)
def test_notices_around_an_answer_are_left_out(text):
    assert json_jobs(text)["7.server"]["Variable_List.TOILFN_JOB"] == "wf-1"


@pytest.mark.parametrize("value", ["005", ".123", "C:\\new\\x", '"C:\\dir"', "", "1.2.3", '"a\tb"'])
def test_raw_values_in_one_line(value):
    jobs = json_jobs(
        f'{{"Jobs":{{"7.server":{{"job_state":"R","Variable_List":{{"X":{value},"TOILFN_JOB":"wf-1"}}}}}}}}'
    )
    assert jobs["7.server"]["Variable_List.TOILFN_JOB"] == "wf-1"


def test_an_answer_that_is_cut_behind_a_bracket_in_a_value_is_no_answer():
    whole = answer('"X":"() {\n eval "x"\n}",')
    assert json_jobs(whole) is not None
    assert json_jobs(whole[: whole.index('"TOILFN_JOB":"wf-1"') + 20]) is None


def test_an_answer_without_jobs():
    assert json_jobs("") == {}
    assert json_jobs(json.dumps({"pbs_version": "20.0.1"})) == {}
    assert xml_jobs("") == {}
    assert xml_jobs("<Data/>") == {}
    assert xml_jobs("<Data></Data>") == {}


@pytest.mark.parametrize("kept", range(20, len(answer("")) - 3, 7))
def test_an_answer_that_is_cut_is_no_answer(kept):
    assert json_jobs(answer("")[:kept]) is None


@pytest.mark.parametrize("text", ["qstat: bad weather", "{}{", "[]", "{", '{"Jobs": 3}', "null"])
def test_text_that_is_not_an_answer_of_qstat(text):
    assert json_jobs(text) in (None, {})
    assert xml_jobs(text) is None


def test_odd_records_do_not_hide_others():
    assert json_jobs(json.dumps({"Jobs": {"1.s": None, "2.s": {"job_state": "Q"}, "3.s": []}})) == {
        "2.s": {"job_state": "Q"}
    }


XML = (
    "<Data><Job><Job_Id>7.server</Job_Id><job_state>C</job_state><exit_status>0</exit_status>"
    "<resources_used><mem>12kb</mem></resources_used><Variable_List>{}</Variable_List></Job>"
    "<Job><Job_Id>8.server</Job_Id><job_state>R</job_state></Job></Data>"
)


@pytest.mark.parametrize("variables", ["A=b", "A=b & c", "A=\x01", "A=&#1;", "A=<x", "A=\ud800"])
def test_torques_records_are_read_one_by_one(variables):
    jobs = xml_jobs("notice of the site\n" + XML.format(variables) + "\nbye")
    assert (jobs["7.server"]["exit_status"], jobs["8.server"]["job_state"]) == ("0", "R")


def test_a_group_of_torque_is_flat():
    assert xml_jobs(XML.format("A=b"))["7.server"]["resources_used.mem"] == "12kb"


@pytest.mark.parametrize("kept", range(1, len(XML) - 7, 5))
def test_torques_answer_that_is_cut_is_no_answer(kept):
    assert xml_jobs(XML[:kept]) is None
