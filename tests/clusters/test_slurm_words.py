"""Every word of Slurm's manuals has its verdict, and what is not an answer has none."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toilfn.clusters.base import JobId, JobState
from toilfn.clusters.common.commands import Commands, UnavailableError
from toilfn.clusters.slurm import REASONS, STATES, SlurmCluster, accounting_answer, names_answer, queue_answer
from toilfn.errors import ClusterError
from toilfn.ids import Cause

QUEUED, RUNNING, ENDED, UNKNOWN = JobState.QUEUED, JobState.RUNNING, JobState.ENDED, JobState.UNKNOWN

# squeue(1) of 22.05, "JOB STATE CODES", and job_state_codes.html of 25.05
VERDICTS = {
    "BOOT_FAIL": ("BF", ENDED, Cause.LOST),
    "CANCELLED": ("CA", ENDED, Cause.LOST),
    "COMPLETED": ("CD", ENDED, None),
    "CONFIGURING": ("CF", QUEUED, None),
    "COMPLETING": ("CG", RUNNING, None),
    "DEADLINE": ("DL", ENDED, Cause.LOST),
    "EXPEDITING": ("", QUEUED, None),
    "FAILED": ("F", ENDED, Cause.ERROR),
    "LAUNCH_FAILED": ("", ENDED, Cause.LOST),
    "NODE_FAIL": ("NF", ENDED, Cause.LOST),
    "OUT_OF_MEMORY": ("OOM", ENDED, Cause.MEMORY),
    "PENDING": ("PD", QUEUED, None),
    "POWER_UP_NODE": ("", QUEUED, None),
    "PREEMPTED": ("PR", ENDED, Cause.PREEMPTED),
    "RECONFIG_FAIL": ("", ENDED, Cause.LOST),
    "REQUEUED": ("RQ", QUEUED, None),
    "REQUEUE_FED": ("RF", QUEUED, None),
    "REQUEUE_HOLD": ("RH", QUEUED, None),
    "RESIZING": ("RS", RUNNING, None),
    "RESV_DEL_HOLD": ("RD", QUEUED, None),
    "REVOKED": ("RV", ENDED, Cause.LOST),
    "RUNNING": ("R", RUNNING, None),
    "SIGNALING": ("SI", RUNNING, None),
    "SPECIAL_EXIT": ("SE", QUEUED, None),
    "STAGE_OUT": ("SO", RUNNING, None),
    "STOPPED": ("ST", RUNNING, None),
    "SUSPENDED": ("S", RUNNING, None),
    "TIMEOUT": ("TO", ENDED, Cause.WALLTIME),
    "UPDATE_DB": ("", RUNNING, None),
}


def row(job, state, code="0", nodes="n1", reason="None"):
    """A line as squeue writes it."""
    return f"{job:<64}{state:<32}{code:<16}{nodes:<64}{reason:<256}"


def queued(*arguments, **more):
    (found,) = queue_answer(row(*arguments, **more)).values()
    return found


def accounted(state, code="0:0", nodes="n1"):
    (found,) = accounting_answer(f"9|{state}|{code}|{nodes}").values()
    return found


@pytest.mark.parametrize("word", VERDICTS)
def test_each_state_of_the_manual_has_a_verdict(word):
    code, state, cause = VERDICTS[word]
    exit_code = "3:0" if word == "FAILED" else "0:0"
    for text in (word, code, f"{word}+"):
        if text:
            for found in (queued("9_1", text, exit_code), accounted(text, exit_code)):
                assert (found.state, found.cause) == (state, cause), text


def test_the_table_has_no_other_rows():
    assert STATES.keys() == VERDICTS.keys()
    assert all(entry.page for entry in STATES.values())


@pytest.mark.parametrize(
    ("state", "code", "reason", "cause"),
    [
        ("FAILED", "3:0", "NonZeroExitCode", Cause.ERROR),
        ("FAILED", "768", "NonZeroExitCode", Cause.ERROR),
        ("FAILED", "0:0", "JobLaunchFailure", Cause.LOST),
        ("FAILED", "1:0", "JobLaunchFailure", Cause.LOST),
        ("FAILED", "256", "(NonZeroExitCode)", Cause.ERROR),
        ("FAILED", "0", "JobLaunchFailure", Cause.LOST),
        ("FAILED", "0:0", "None", Cause.LOST),
        ("FAILED", "0:0", "NonZeroExitCode", Cause.ERROR),
        ("FAILED", "", "", Cause.ERROR),
        ("FAILED", "?", "", Cause.ERROR),
        ("FAILED", "0:53", "", Cause.LOST),
        ("FAILED", "0:9", "", Cause.LOST),
        ("FAILED", "9:0", "", Cause.ERROR),
        ("FAILED", "137:0", "", Cause.LOST),
        ("FAILED", "0:11", "", Cause.ERROR),
        ("FAILED", "0:125", "", Cause.MEMORY),
        ("FAILED", "1:0", "OutOfMemory", Cause.MEMORY),
        ("FAILED", "0:0", "SystemFailure", Cause.LOST),
        ("FAILED", "0:15", "TimeLimit", Cause.WALLTIME),
        ("FAILED", "75:0", "", Cause.LOST),
        ("COMPLETED", "", "", None),
        ("COMPLETED", "1:0", "", Cause.ERROR),
        ("TIMEOUT", "0:0", "TimeLimit", Cause.WALLTIME),
        ("CANCELLED by 1000", "0:15", "", Cause.LOST),
        ("CANCELLED+", "0:0", "", Cause.LOST),
        ("OUT_OF_ME+", "0:125", "", Cause.MEMORY),
    ],
)
def test_exits_are_judged(state, code, reason, cause):
    assert queued("9", state, code, reason=reason).cause is cause
    if reason in ("", "None"):
        assert accounted(state, code).cause is cause


@pytest.mark.parametrize("text", ["9|FAILED", "9|FAILED|", "9|FAILED|1:0"])
def test_a_row_that_was_cut_is_not_a_success(text):
    assert accounting_answer(text)[JobId("9")].cause is Cause.ERROR
    assert queue_answer(row("9", "FAILED")[:80])[JobId("9")].cause is Cause.ERROR


def test_a_cut_state_is_no_verdict():
    assert queued("9", "COMPLE").state is UNKNOWN
    assert queued("9", "COMPL+").state is UNKNOWN


@pytest.mark.parametrize(
    ("reason", "is_held"),
    [
        *((reason, True) for reason in (
            "JobHeldAdmin", "JobHeldUser", "JobHoldMaxRequeue", "DependencyNeverSatisfied", "BadConstraints",
            "AccountNotAllowed", "InvalidAccount", "InvalidQOS", "PartitionConfig", "PartitionDown",
            "PartitionInactive",
            "PartitionNodeLimit", "PartitionTimeLimit", "ReservationDeleted", "QOSNotAllowed", "QOSMinGRES",
            "AssocMaxCpuPerJobLimit", "AssocMaxWallDurationPerJobLimit", "QOSMaxMemoryPerNode", "MaxMemPerLimit",
            "DeadLine", "BurstBufferOperation", "launch failed requeued held", "(job requeued in held state)",
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            "ReqNodeNotAvail, UnavailableNodes:n1", "(JobHeldAdmin)", "(DependencyNeverSatisfied)",
        )),
        *((reason, False) for reason in (
            "None", "Priority", "Resources", "Dependency", "BeginTime", "Licenses", "Reservation", "JobArrayTaskLimit",
            "QOSMaxJobsPerUserLimit", "QOSGrpCpuLimit", "AssocGrpJobsLimit", "AssocMaxJobsLimit", "MaxJobsPerAccount",
            "MaxGRESPerAccount", "QOSMaxGRESPerUser", "QOSUsageThreshold", "QOSJobLimit", "AssociationTimeLimit",
            "Cleaning", "Prolog", "NodeDown", "ReqNodeNotAvail", "FrontEndDown", "WaitingForScheduling", "FedJobLock",
            "BurstBufferStageIn", "InactiveLimit", "SystemFailure", "A new reason", "(Resources)", "(null)",
        )),
    ],
)  # fmt: skip
def test_reasons_that_need_a_person_are_known(reason, is_held):
    found = queued("9", "PENDING", nodes="", reason=reason)
    assert (found.state, found.is_held) == (QUEUED, is_held)
    assert all(page for _, _, page in REASONS)


def test_a_hold_is_not_a_failure():
    for word in ("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"):
        found = queued("9", word)
        assert (found.state, found.is_held) == (QUEUED, True)


@pytest.mark.parametrize(
    ("expression", "jobs"),
    [
        ("19", ["19"]),
        ("19_4", ["19_4"]),
        ("19_[0-2]", ["19_0", "19_1", "19_2"]),
        ("19_[1,3-5%2]", ["19_1", "19_3", "19_4", "19_5"]),
        ("19_[0-8:4]", ["19_0", "19_4", "19_8"]),
        ("19_[1,3,...]", ["19_1", "19_3", "19"]),
        ("19_[1,3,5-...", ["19_1", "19_3", "19"]),
        ("19_[0-99999999]", ["19"]),
    ],
)
def test_expressions_for_array_elements_are_parsed(expression, jobs):
    assert [*accounting_answer(f"{expression}|PENDING|0:0|None assigned")] == jobs


def test_an_elements_own_row_counts_before_an_expression():
    text = "19_[0-2]|PENDING|0:0|None assigned\n19_1|COMPLETED|0:0|n1\n"
    for answer in (text, "\n".join(reversed(text.splitlines()))):
        found = accounting_answer(answer)
        assert [found[JobId(f"19_{n}")].state for n in range(3)] == [QUEUED, ENDED, QUEUED]


NOTICE = "NOTICE: file system /scratch_2 is read-only | until 18:00 | 2024-01-31 |"


@pytest.mark.parametrize(
    "line", [NOTICE, "", "|||", "9||0:0|n1", "20240131", "9.batch|COMPLETED|0:0|n1", "CLUSTER: one"]
)
def test_lines_that_are_not_rows_are_skipped(line):
    assert accounting_answer(f"{line}\n9|COMPLETED|0:0|n1\n{line}\n").keys() == {"9"}
    assert queue_answer(f"{line}\n{row('9', 'RUNNING')}\n{line}").keys() == {"9"}


def test_jobs_of_others_with_such_names_do_not_matter():
    text = "9|one|\n10|one|a\n11_[0-1]|two|x|y\nb\n12|\n \n"
    assert [*names_answer(text)] == [
        ("9", "one", ""),
        ("10", "one", "a"),
        ("11_0", "two", "x|y"),
        ("11_1", "two", "x|y"),
    ]


PIECES = st.sampled_from(
    [
        "9",
        "9_1",
        "_[",
        "0-2",
        "%",
        "...",
        "]",
        "|",
        ":",
        " " * 30,
        "FAILED",
        "CD",
        "0:9",
        "\n",
        "\x00",
        ",",
        "COMPLETED",
    ]
)


@given(st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=3))).map("".join)))
@example("9_[1-2,3|FAILED|99999999999:1|n")
@settings(max_examples=200)
def test_any_text_gives_verdicts_or_nothing(text):
    for answer in (queue_answer(text), accounting_answer(text)):
        assert all(found.cause is None or found.state is ENDED for found in answer.values())
    assert all(name is not None for *_, name in names_answer(text))


# slurm_errno.h and what libslurm prints before it, about communication and authentication
AWAY = """\
Unable to contact slurm controller (connect failure)
Unable to contact slurm controller (receive failure)
Unable to contact slurm controller (send failure)
Unable to contact slurm controller (shutdown failure)
slurm_receive_msg [10.0.0.1:6817]: Zero Bytes were transmitted or received
slurm_receive_msgs: Socket timed out on send/recv operation
Communication connection failure
Communication shutdown failure
Message receive failure
Message send failure
Failed to send entire message
Protocol authentication error
Authentication credential invalid
Invalid authentication credential
Authentication does not apply to request
Munge encode failed: Failed to access "/run/munge/munge.socket.2": Connection refused
Munge decode failed: Expired credential
munge: Rewound credential
auth_munge: unable to create the credential
Insane message length
Slurm backup controller in standby mode
Controller is in standby mode, try a different controller
Could not establish a configuration source
fetch_config: DNS SRV lookup failed
Incompatible versions of client and server code
Header lengths are longer than data received
Transport endpoint is not connected
Connection refused
Connection reset by peer
Connection timed out
Resource temporarily unavailable
Slurm temporarily unable to accept job, sleeping and retrying
Unexpected missing socket error
slurm_persist_conn_open_without_init: failed to open persistent connection to host:db:6819: Connection refused
Database connection reference is invalid
No clusters can be reached now. Contact your admin to resolve the problem.
Slurmctld is busy
No route to host
Network is unreachable
Broken pipe
slurm_set_addr: Unable to resolve "head": Name or service not known
Stale file handle
""".splitlines()

REFUSED = """\
Batch job submission failed: Invalid account or account/partition combination specified
Batch job submission failed: Requested node configuration is not available
Batch job submission failed: Unspecified error
Batch job submission failed: Invalid qos specification
Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)
invalid partition specified: nosuch
Memory specification can not be satisfied
Access/permission denied
Batch job submission failed: User's group not permitted to use this partition
Batch script contains DOS line breaks
""".splitlines()


@pytest.mark.parametrize("words", AWAY)
def test_communication_and_authentication_errors_are_outages_of_a_submission(words):
    commands = Commands(SlurmCluster.away, SlurmCluster.absent)
    with pytest.raises(UnavailableError):
        commands.run(["sh", "-c", 'echo "sbatch: error: $1" >&2; exit 1', "sh", words])
    with pytest.raises(UnavailableError):
        commands.ask(["sh", "-c", 'echo "slurm_load_jobs error: $1" >&2; exit 1', "sh", words])


@pytest.mark.parametrize("words", REFUSED)
def test_other_refusals_of_a_submission_are_final(words):
    with pytest.raises(ClusterError) as caught:
        Commands(SlurmCluster.away).run(["sh", "-c", 'echo "sbatch: error: $1" >&2; exit 1', "sh", words])
    assert not isinstance(caught.value, UnavailableError)


def test_only_slurms_own_message_means_that_a_job_does_not_exist():
    commands = Commands(SlurmCluster.away, SlurmCluster.absent)
    say = ["sh", "-c", 'echo "$1" >&2; exit 1', "sh"]
    assert commands.ask([*say, "slurm_load_jobs error: Invalid job id specified"]) == ""
    for words in ("", "not found", "no such job", "Invalid job id specified; Message receive failure"):
        with pytest.raises(UnavailableError):
            commands.ask([*say, words])


def test_a_state_that_is_not_known_is_named_once_and_is_not_an_end(monkeypatch, caplog):
    cluster = SlurmCluster()
    cluster._watch(JobId("9_0"), "a submission")
    monkeypatch.setattr(cluster, "query", lambda bases: queue_answer(row("9_0", "A_NEW_WORD") + "\n" + row("9_1", "R")))
    for _ in range(3):
        assert cluster.look([JobId("9_0"), JobId("9_1")])[JobId("9_0")].state is UNKNOWN
    assert [message for message in caplog.messages if "A_NEW_WORD" in message] == [
        "job 9_0 is in a state unknown to toilfn; waiting for it to change: A_NEW_WORD"
    ]
