"""Where a system's queue has forgotten how a job ended, its accounting tells; on fakes, and answers of the manuals."""

from __future__ import annotations

import time

import pytest

from tests.servers.fake.systems import system
from toilfn.clusters.base import Batch, JobId, JobState, RunContext
from toilfn.clusters.common.commands import Commands, UnavailableError
from toilfn.clusters.htcondor import CommandQueue, HTCondorCluster, chosen_queue, event_log
from toilfn.clusters.lsf import LSFCluster, history, read_parameters
from toilfn.clusters.pbs import PBS_EXITS, TORQUE_EXITS, PBSCluster, TorqueCluster, traced
from toilfn.ids import Cause
from toilfn.resources import Resources

FORGETFUL = {"lsf": LSFCluster, "torque": TorqueCluster, "pbs": PBSCluster, "htcondor": HTCondorCluster}


@pytest.fixture(params=FORGETFUL)
def forgetful(request):
    """A system whose queue does not know jobs that have ended; HTCondor's never does."""
    for spool in system(request.param):
        (spool / "forgetful").touch()
        yield FORGETFUL[request.param]


def test_jobs_that_the_queue_has_forgotten_are_found_in_the_accounting(forgetful, tmp_path):
    """Endings are told apart: well, with an error, killed."""
    (tmp_path / "job.sh").write_text("case $2 in good) exit 0;; bad) exit 4;; *) exec sleep 60;; esac")
    cluster = forgetful(poll_interval=0.1, worker_command=("sh", str(tmp_path / "job.sh")))
    cluster.open(RunContext(str(tmp_path), "wf"))
    try:
        shape = Resources(memory=2**27, disk=2**20)
        jobs = cluster.submit([Batch(name, name, shape) for name in ("good", "bad", "killed")])
        ended = wait_ended(cluster, jobs[:2])
        cluster.kill(jobs[2:])
        ended |= wait_ended(cluster, jobs[2:])
    finally:
        cluster.close()
    assert [ended[job].cause for job in jobs] == [None, Cause.ERROR, Cause.LOST]
    assert "exit status 4" in ended[jobs[1]].detail
    assert not list(cluster.log_directory.glob("*.events"))


def wait_ended(cluster, jobs, limit=30):
    ended, end = {}, time.monotonic() + limit
    while not ended.keys() >= set(jobs):
        assert time.monotonic() < end, ended
        ended |= {update.job: update for update in cluster.poll(0.3) if update.state is JobState.ENDED}
    return ended


def test_jobs_with_event_logs_need_no_condor_history():
    """condor_history reads long files."""
    for spool in system("htcondor"):
        folder = spool.parent
        cluster = HTCondorCluster(poll_interval=0.1, worker_command=("true",), log_directory=str(folder / "logs"))
        cluster.open(RunContext(str(folder), "wf"))
        (job,) = cluster.submit([Batch("a", "a", Resources(memory=2**27, disk=2**20))])
        assert wait_ended(cluster, [job])[job].cause is None
        cluster.close()
        assert "condor_history" not in (folder / "calls").read_text()


def test_memory_is_reserved_as_the_site_counts_it(tmp_path):
    """LSF can reserve for each core; the limit is the whole job's all the same."""
    for spool in system("lsf"):
        (spool / "parameters").write_text("\n\tRESOURCE_RESERVE_PER_TASK = Y\n\tMAX_JOB_ARRAY_SIZE = 7\n")
        cluster = LSFCluster(log_directory=str(tmp_path))
        cluster.open(RunContext(str(tmp_path), "wf"))
        (line,) = [row for row in cluster.job_script().splitlines() if "rusage" in row]
        assert "mem=2097152" in line  # one core
        cluster.close()


# IBM Spectrum LSF command reference, bparams -a
PARAMETERS = """
lsb.params configuration at Fri Jan  8 10:27:52 2016
        MBD_SLEEP_TIME = 10
        MAX_JOB_ARRAY_SIZE = 10000
        RESOURCE_RESERVE_PER_SLOT = Y
"""


def test_the_sites_parameters_are_read():
    assert (read_parameters(PARAMETERS).is_per_core, read_parameters(PARAMETERS).array_limit) == (True, 10000)
    assert (read_parameters("").is_per_core, read_parameters("").array_limit) == (False, 1000)


# Administering IBM Spectrum LSF, "Job exit information" and "Example output of bacct and bhist", without line wrapping
BHIST = """
Job <107>, User <user1>, Project <default>, Command <sleep 100>
Thu Mar 13 17:31:58: Submitted from host <hosta>, to Queue <normal>, CWD <$HOME>;
Thu Mar 13 17:32:01: Dispatched 1 Task(s) on Host(s) <hostb>, Allocated 1 Slot(s) on Host(s) <hostb>;
{}
Summary of time in seconds spent in various states by  Thu Mar 13 17:32:06
"""
SIGNALLED = "Thu Mar 13 19:31:13: Exited by signal 2. The CPU time used is 0.1 seconds; Completed <exit>;"


@pytest.mark.parametrize(
    ("events", "cause", "detail"),
    [
        ("Thu Mar 13 17:32:06: Done successfully. The CPU time used is 0.1 seconds;", None, "DONE, on hostb"),
        (
            "Thu Jun 12 16:10:38: Exited with exit code 3. The CPU time used is 0.0 seconds;",
            Cause.ERROR,
            "EXIT, exit status 3, on hostb",
        ),
        (
            f"{SIGNALLED} TERM_MEMLIMIT: job killed after reaching LSF memory usage limit;",
            Cause.MEMORY,
            "TERM_MEMLIMIT",
        ),
        (
            f"{SIGNALLED} TERM_RUNLIMIT: job killed after reaching LSF run time limit;",
            Cause.WALLTIME,
            "TERM_RUNLIMIT",
        ),
        ("Thu Jun 12 16:10:38: Exited with exit code 143. The CPU time used is 0.0 seconds;", Cause.LOST, "143"),
    ],
)
def test_bhists_events_are_understood(events, cause, detail):
    found = history(BHIST.format(events))[("107", 0)]
    assert (found.state, found.cause) == (JobState.ENDED, cause)
    assert detail in found.detail


def test_bhist_says_nothing_of_jobs_that_run():
    assert history(BHIST.format("Thu Mar 13 17:32:06: Starting (Pid 4711);")) == {}


# TORQUE Administrator's Guide, "Using tracejob to locate job failures"
TRACE = """
Job: 1131.icluster.org

03/02/2005 17:58:28  S    enqueuing into batch, state 1 hop 1
03/02/2005 17:58:32  S    Job Run at request of dev@icluster.org
03/02/2005 18:00:32  S    Exit_status={} resources_used.cput=00:00:00 resources_used.mem=2544kb
03/02/2005 18:00:32  S    dequeuing from batch, state COMPLETE
"""


@pytest.mark.parametrize(
    ("status", "exits", "cause"),
    [
        (0, TORQUE_EXITS, None),
        (1, TORQUE_EXITS, Cause.ERROR),
        (-10, TORQUE_EXITS, Cause.MEMORY),
        (-11, TORQUE_EXITS, Cause.WALLTIME),
        (-27, PBS_EXITS, Cause.MEMORY),
        (271, PBS_EXITS, Cause.LOST),
    ],
)
def test_tracejobs_lines_are_understood(status, exits, cause):
    assert traced(TRACE.format(status), exits).cause is cause


def test_tracejob_says_nothing_of_jobs_that_run():
    assert traced(TRACE.partition("03/02/2005 18")[0], TORQUE_EXITS) is None


# HTCondor manual, "Job Event Log Codes" and "Managing a Job: In the Job Event Log File"
EVENTS = """\
000 (114.000.000) 2024-03-04 11:04:10 Job submitted from host: <127.0.0.1:9618?addrs=127.0.0.1-9618>
...
001 (114.000.000) 2024-03-04 11:04:12 Job executing on host: <127.0.0.1:9618?addrs=127.0.0.1-9618>
\tSlotName: slot1@node7
...
005 (114.000.000) 2024-03-04 11:04:20 Job terminated.
\t(1) Normal termination (return value 3)
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Remote Usage
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Local Usage
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Total Remote Usage
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Total Local Usage
\t0  -  Run Bytes Sent By Job
\t0  -  Run Bytes Received By Job
\t0  -  Total Bytes Sent By Job
\t0  -  Total Bytes Received By Job
...
001 (114.001.000) 2024-03-04 11:04:12 Job executing on host: <127.0.0.1:9618?addrs=127.0.0.1-9618>
...
005 (114.001.000) 2024-03-04 11:04:20 Job terminated.
\t(0) Abnormal termination (signal 11)
\t(0) No core file
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Remote Usage
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Local Usage
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Total Remote Usage
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Total Local Usage
\t0  -  Run Bytes Sent By Job
\t0  -  Run Bytes Received By Job
\t0  -  Total Bytes Sent By Job
\t0  -  Total Bytes Received By Job
...
009 (114.002.000) 2024-03-04 11:04:21 Job was aborted.
\tvia condor_rm (by user alice)
...
001 (114.003.000) 2024-03-04 11:04:12 Job executing on host: <127.0.0.1:9618?addrs=127.0.0.1-9618>
...
005 (114.003.000) 2024-03-04 11:04:20 Job termin"""


def test_event_logs_are_understood():
    found = event_log(EVENTS)
    assert {job: (end.cause, end.detail) for job, end in found.items()} == {
        ("114", 0): (Cause.ERROR, "exit status 3, on slot1@node7"),
        ("114", 1): (Cause.ERROR, "signal 11, on <127.0.0.1:9618?addrs=127.0.0.1-9618>"),
        ("114", 2): (Cause.LOST, "removed: via condor_rm (by user alice)"),
    }


def test_the_python_bindings_are_used_if_they_find_a_schedd(tmp_path):
    """The package alone, on a machine without HTCondor, is of no use."""
    pytest.importorskip("htcondor2", reason="the package htcondor is not installed")
    queue = chosen_queue(Commands("away"), wanted=None)
    assert isinstance(queue, CommandQueue)
    with pytest.raises(UnavailableError, match="Unable to locate local daemon"):
        chosen_queue(Commands("away"), wanted=True).queued(["1"])


def test_htcondors_own_reader_agrees(tmp_path):
    """The bindings read the same log; the package has no daemons."""
    bindings = pytest.importorskip("htcondor2", reason="the package htcondor is not installed")
    whole = EVENTS.rpartition("005 (114.003")[0]
    (tmp_path / "log").write_text(whole)
    with bindings.JobEventLog(str(tmp_path / "log")) as log:
        events = [(str(event.cluster), event.proc) for event in log.events(0) if int(event.type) in (5, 9)]
    assert set(events) == event_log(whole).keys()
    assert JobId("114.0") == HTCondorCluster(bindings=False).element(*events[0])
