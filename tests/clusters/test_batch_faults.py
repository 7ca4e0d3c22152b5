"""What sites, habits and bad moments do to the answers of LSF, PBS, Torque, HTCondor and Parasol; on the fakes.

No task runs twice, none is lost, and nothing that runs is ended because of an answer that cannot be read.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.servers.fake.systems import system
from tests.servers.standins import StandIns, answer, cut, deaf, gone, killed, noisy, refuse
from toilfn.clusters import cluster_class
from toilfn.clusters.base import Batch, JobId, JobState, RunContext
from toilfn.errors import ClusterError
from toilfn.resources import Resources

COMMANDS = {
    "lsf": ("bsub", "bjobs", "bhist"),
    "pbs": ("qsub", "qstat", "qselect"),
    "torque": ("qsub", "qstat", "qselect"),
    "htcondor": ("condor_submit", "condor_q", "condor_history"),
    "parasol": ("parasol",),
}
SHAPE = Resources(cores=1, memory=2**27, disk=2**20)
WORKER = 'echo x >> "$1/$2"; while ! test -e "$1/go"; do sleep 0.05; done; case $2 in bad*) exit 4;; esac'


class Bench:
    """An open cluster over stand-ins, and the jobs it was given."""

    def __init__(self, name: str, folder: Path, kit: StandIns) -> None:
        (folder / "job.sh").write_text(WORKER)
        self.folder, self.kit = folder, kit
        self.ask = COMMANDS[name][-1] if name == "parasol" else COMMANDS[name][1]
        self.send = COMMANDS[name][0]
        self.outages: list[str] = []
        settings = {"poll_interval": 0.1, "patience": 30, "worker_command": ("sh", str(folder / "job.sh"))}
        self.cluster = cluster_class(name)(**settings)
        self.cluster.open(RunContext(str(folder), "wf", outage=self.outages.append))

    def submit(self, *names: str) -> list[JobId]:
        return self.cluster.submit([Batch(name, name, SHAPE) for name in names])

    def runs(self, name: str) -> int:
        """How many times a batch was started."""
        place = self.folder / name
        return len(place.read_text().split()) if place.exists() else 0

    def end(self, jobs: list[JobId], limit: float = 60) -> list[str]:
        """Let jobs end; return the values of their causes, in order."""
        (self.folder / "go").touch()
        ended = {}
        end = time.monotonic() + limit
        while not ended.keys() >= set(jobs):
            assert time.monotonic() < end, (ended, self.outages)
            ended |= {update.job: update for update in self.cluster.poll(0.3) if update.state is JobState.ENDED}
        return [getattr(ended[job].cause, "value", "") for job in jobs]

    def run_until(self, *names: str) -> None:
        end = time.monotonic() + 60
        while not all(map(self.runs, names)):
            assert time.monotonic() < end, self.outages
            assert not [update for update in self.cluster.poll(0.1) if update.state is JobState.ENDED]


@pytest.fixture(params=COMMANDS)
def bench(request, tmp_path, monkeypatch):
    for _ in system(request.param):
        kit = StandIns(tmp_path / "kit", *COMMANDS[request.param])
        monkeypatch.setenv("PATH", kit.path)
        (tmp_path / "store").mkdir()
        made = Bench(request.param, tmp_path / "store", kit)
        yield made
        for command in COMMANDS[request.param]:
            kit.always(command, "")
        made.cluster.close()


OUTAGES = {
    "killed": killed(),
    "gone": gone(),
    "status 1": refuse("it does not work", 1),
    "status 255": refuse("External authentication failed", 255),
    "status 35": refuse("something else", 35),
    "status 153": refuse("qstat: Invalid credential server", 153),
    "no words": refuse("", 3),
    "banner only": answer("NOTICE: come to our course\n"),
    "cut": cut(60),
}


def test_an_answer_that_cannot_be_read_is_an_outage(bench):
    """While jobs run: none is ended, lost or run again."""
    jobs = bench.submit("good", "bad")
    bench.run_until("good", "bad")
    for name, fault in OUTAGES.items():
        if bench.ask == "parasol" and name in ("banner only", "cut"):  # its list has no beginning and no end
            continue
        bench.kit.next(bench.ask, fault)
        end, told = time.monotonic() + 60, len(bench.outages)
        while not bench.kit.is_used_up(bench.ask) or bench.outages[told:][-1:] != [""]:
            assert time.monotonic() < end, (name, bench.outages)
            assert not [update for update in bench.cluster.poll(0.2) if update.state is JobState.ENDED], name
    assert bench.end(jobs) == ["", "error"]
    assert (bench.runs("good"), bench.runs("bad")) == (1, 1)
    assert any(bench.outages)


def test_notices_around_answers_and_words_on_standard_error_are_no_outage(bench):
    words = "batch system daemon not responding ... still trying; Connection refused by the backup"
    for command in {bench.ask, *COMMANDS[bench.cluster.name][2:]}:
        bench.kit.always(
            command, noisy("NOTICE: /scratch {is} [full]\n", "12 errors were found today on the hub", words)
        )
    jobs = bench.submit("good", "bad")
    bench.run_until("good", "bad")
    assert bench.end(jobs) == ["", "error"]
    assert not any(bench.outages)


def test_notices_do_not_hide_that_the_queue_has_forgotten_a_job(bench):
    """Also where nothing but the notice is on standard output, and before there is any job."""
    for command in {bench.ask, *COMMANDS[bench.cluster.name][2:]}:
        bench.kit.always(command, noisy("NOTICE: /scratch is full\n"))
    (Path(os.environ["TOILFN_FAKE_SPOOL"]) / "forgetful").touch()
    assert bench.cluster.list("wf") == {}
    jobs = bench.submit("good", "bad")
    bench.run_until("good", "bad")
    assert bench.end(jobs) == ["", "error"]
    assert not any(bench.outages)
    assert bench.cluster.list("wf") == {}


@pytest.mark.parametrize(
    "fault",
    [
        noisy("20240131", "", "words"),
        noisy("Welcome, you have 3 jobs\n4711", "Your project has 12 hours left\n99"),
        answer("20240131\n"),
    ],
)
def test_lines_of_the_site_are_not_taken_for_the_id(bench, fault):
    """A submission whose answer does not tell the id is looked for by its name, and is never sent twice."""
    if fault == answer("20240131\n"):
        fault = f'"$real" "$@" >/dev/null\n{fault}'
    bench.kit.next(bench.send, fault)
    jobs = bench.submit("good")
    bench.run_until("good")
    assert bench.end(jobs) == [""]
    assert bench.runs("good") == 1


def test_a_submission_that_ended_before_its_id_was_known_is_found(bench):
    """Its answer was lost, and it was over when it was looked for."""
    (bench.folder / "go").touch()
    fault = deaf("Connection refused; daemon not responding; Couldn't connect; Failed to connect; End of File", 255)
    bench.kit.next(bench.send, fault.replace("printf", "sleep 2; printf", 1))
    jobs = bench.submit("good")
    assert bench.end(jobs) == [""]
    assert bench.runs("good") == 1


def test_a_refusal_is_not_an_outage(bench):
    bench.kit.next(bench.send, refuse("Job violates the site's rules. Job not submitted.", 1))
    with pytest.raises(ClusterError, match="Job violates the site's rules"):
        bench.submit("good")
    assert bench.runs("good") == 0


VARIABLES = {
    "lsf": ("BSUB_QUIET", "BSUB_CHK_RESREQ", "LSB_DEFAULTQUEUE", "LSB_JOBID", "LSB_SUB_ADDITIONAL", "LSF_INVOKE_CMD"),
    "pbs": ("PBS_DPREFIX", "PBS_JOBID", "PBS_O_QUEUE", "PBS_ARRAY_INDEX", "TOILFN_JOB"),
    "torque": ("PBS_DPREFIX", "PBS_QSTAT_EXECONLY", "PBS_ARRAYID", "TOILFN_JOB"),
    "htcondor": ("_CONDOR_SCRATCH_DIR", "_CONDOR_JOB_AD", "_CONDOR_SLOT", "TOILFN_INDEX"),
    "parasol": (),
}
KEPT = {
    "lsf": ("LSF_ENVDIR", "LSF_SERVERDIR", "LSF_BINDIR"),
    "pbs": ("PBS_CONF_FILE", "PBS_EXEC", "PBS_SERVER"),
    "torque": ("PBS_DEFAULT", "PBS_SERVER"),
    "htcondor": ("CONDOR_CONFIG", "_CONDOR_SCHEDD_HOST", "_CONDOR_COLLECTOR_HOST"),
    "parasol": (),
}


def test_commands_get_no_variables_of_an_enclosing_job_or_that_change_their_answers(bench, monkeypatch):
    """What says where the system is stays."""
    name = bench.cluster.name
    for variable in (*VARIABLES[name], *KEPT[name]):
        monkeypatch.setenv(variable, "x")
    seen = bench.folder / "environment"
    bench.kit.next(bench.send, f"env | cut -d= -f1 > '{seen}'\n")
    jobs = bench.submit("good")
    variables = set(seen.read_text().split())
    assert not variables & set(VARIABLES[name])
    assert variables >= set(KEPT[name])
    assert bench.end(jobs) == [""]


@pytest.mark.parametrize("name", ["pbs", "torque"])
def test_jobs_of_others_are_not_even_asked_for(name, tmp_path):
    for spool in system(name):
        settings = {"poll_interval": 0.1, "worker_command": ("sh", "-c", "exec sleep 60")}
        cluster = cluster_class(name)(**settings)
        cluster.open(RunContext(str(tmp_path), "wf"))
        first, second = (cluster.submit([Batch(one, one, SHAPE)])[0] for one in "ab")
        (spool / "others").write_text(first.partition(".")[0])
        try:
            assert set(cluster.list("wf")) == {second}
        finally:
            (spool / "others").unlink()
            cluster.close()


def test_a_hold_by_a_person_is_waited_for_and_reported_once(tmp_path):
    """The job is not removed, and goes on when it is released."""
    for spool in system("htcondor"):
        worker = ("sh", "-c", 'while ! test -e "$0/go"; do sleep 0.05; done')
        cluster = cluster_class("htcondor")(poll_interval=0.1, worker_command=worker)
        cluster.open(RunContext(str(tmp_path), "wf"))
        (job,) = cluster.submit([Batch("a", "a", SHAPE)])
        (spool / "hold").write_text("via condor_hold (by user admin): please call me")
        updates = [update for _ in range(10) for update in cluster.poll(0.2)]
        assert {update.state for update in updates} == {JobState.QUEUED}
        (told,) = (update for update in updates if update.is_held)
        assert (told.job, "please call me" in told.detail) == (job, True)
        assert "condor_rm" not in (spool.parent / "calls").read_text()
        (spool / "hold").unlink()
        (tmp_path / "go").touch()
        ended, end = [], time.monotonic() + 30
        while not ended and time.monotonic() < end:
            ended = [update for update in cluster.poll(0.2) if update.state is JobState.ENDED]
        assert [update.cause for update in ended] == [None]
        cluster.close()


def test_sites_that_keep_their_parameters_to_themselves_are_used_all_the_same(tmp_path, monkeypatch):
    """LSF's bparams and bqueues only refine what is asked for; a queue that does not exist is refused."""
    for _ in system("lsf"):
        kit = StandIns(tmp_path / "kit", "bparams", "bqueues")
        monkeypatch.setenv("PATH", kit.path)
        kit.always("bparams", refuse("User permission denied", 255))
        kit.next("bqueues", refuse("User permission denied", 255))
        cluster = cluster_class("lsf")(queue="short")
        cluster.open(RunContext(str(tmp_path), "wf"))
        cluster.close()
        with pytest.raises(ClusterError, match="No such queue"):
            cluster_class("lsf")(queue="nowhere").open(RunContext(str(tmp_path), "wf"))
