"""Commands that fail, lie or chatter, before a real Slurm and a real Grid Engine: no job is lost or runs twice."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clusters.leaders import counts, result, start
from tests.servers.fixtures import gridengine, gridengine_server, slurm, slurm_server
from tests.servers.standins import StandIns, answer, cut, deaf, gone, killed, late, noisy, refuse, slow
from toilfn.clusters.base import Batch, JobState, Refusal, RunContext, SubmissionError
from toilfn.clusters.common import commandline, polled
from toilfn.clusters.gridengine import GridEngineCluster
from toilfn.clusters.slurm import SlurmCluster
from toilfn.errors import ClusterError
from toilfn.ids import Cause
from toilfn.resources import Resources

__all__ = ["gridengine", "gridengine_server", "slurm", "slurm_server", "start"]

SHAPE = Resources(cores=1, memory=200 * 2**20, disk=2**20)
NOTICE = "NOTICE: file system /scratch_2 is read-only\n20240131\n | until | 18:00 |\n\n9 rows"

JOB = """\
mkdir "$1/now $2" || echo "$2" >> "$1/twice"
printf x >> "$1/started $2"
case $2 in wait*) while ! test -e "$1/go"; do sleep 0.1; done ;; sleep*) sleep 300 ;; fail*) exit 3 ;; esac
rmdir "$1/now $2"
"""


class World(NamedTuple):
    """A system whose commands go wrong."""

    kit: StandIns
    kind: type
    submit: str
    query: str
    account: str
    kill: str
    away: str
    """What its commands say when the controller is away."""

    @property
    def commands(self):
        return (self.submit, self.query, self.account, self.kill)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.servers) for name in ("slurm", "gridengine")])
def world(request, tmp_path, monkeypatch):
    request.getfixturevalue(request.param)
    if request.param == "slurm":
        words = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
        names = (SlurmCluster, "sbatch", "squeue", "sacct", "scancel", words)
    else:
        words = "error: commlib error: got select error (Connection refused)"
        names = (GridEngineCluster, "qsub", "qstat", "qacct", "qdel", words)
    kit = StandIns(tmp_path / "kit", *names[1:5])
    monkeypatch.setenv("PATH", kit.path)
    return World(kit, *names)


@pytest.fixture
def opened(world, tmp_path):
    """Make open clusters whose jobs do what their batches' names say; closed at the end, when nothing goes wrong."""
    clusters = []
    store = tmp_path / "store"
    store.mkdir()
    (tmp_path / "job.sh").write_text(JOB)

    def make(**settings):
        given = {"poll_interval": 0.2, "patience": 60, "worker_command": ("sh", str(tmp_path / "job.sh"))}
        cluster = world.kind(**given | settings)
        cluster.open(RunContext(str(store), f"faults-{tmp_path.name.replace('_', '-')}"[-40:], {}))
        clusters.append(cluster)
        return cluster

    yield make
    for command in world.commands:
        world.kit.always(command, "")
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def submitted(cluster, *names):
    return cluster.submit([Batch(name, name, SHAPE) for name in names])


def polled_until(cluster, condition, limit=90):
    updates, end = [], time.monotonic() + limit
    while not condition(updates):
        assert time.monotonic() < end, (updates, cluster._live)
        updates += cluster.poll(0.5)
    return updates


def ends(updates):
    return {update.job: update for update in updates if update.state is JobState.ENDED}


def all_end(cluster, jobs, limit=90):
    return ends(polled_until(cluster, lambda updates: ends(updates).keys() >= set(jobs), limit))


def started(cluster, store, *names):
    polled_until(cluster, lambda _: all((store / f"started {name}").exists() for name in names))


def ran_once(store, *names):
    assert not (store / "twice").exists()
    assert [(store / f"started {name}").read_text() for name in names] == ["x"] * len(names)


def faults(world):
    """Text that may come instead of an answer to a query."""
    return [
        refuse(world.away),
        refuse("Munge encode failed: Failed to access socket", 1),
        refuse("something that nobody has seen before", 7),
        refuse("External authentication failed", 255),
        killed("KILL"),
        killed("SEGV"),
        gone(),
        cut(40),
        answer(""),
        answer(NOTICE),
        noisy(before=NOTICE, after=NOTICE, error=world.away),
    ]


def test_running_jobs_continue_whatever_a_query_answers(world, opened, store):
    cluster = opened()
    jobs = submitted(cluster, "wait-1", "wait-2")
    started(cluster, store, "wait-1", "wait-2")
    for fault in faults(world):
        world.kit.next(world.query, fault)
        world.kit.next(world.account, fault)
        assert not ends(polled_until(cluster, lambda _: world.kit.is_used_up(world.query)))
        assert not ends(polled_until(cluster, lambda _: cluster._away_since is None))
    (store / "go").touch()
    assert [update.cause for update in all_end(cluster, jobs).values()] == [None, None]
    ran_once(store, "wait-1", "wait-2")


def test_notices_before_and_after_every_answer_change_nothing(world, opened, store):
    for command in world.commands:
        world.kit.always(command, noisy(before=NOTICE, after="have a nice day", error=world.away))
    cluster = opened()
    assert cluster.list(cluster.context.workflow) == {}
    jobs = submitted(cluster, "wait-1", "wait-2", "sleep-3")
    assert opened().list(cluster.context.workflow).keys() == set(jobs)
    cluster.kill(jobs[2:])
    (store / "go").touch()
    ended = all_end(cluster, jobs)
    assert [ended[job].cause for job in jobs] == [None, None, Cause.LOST]
    ran_once(store, "wait-1", "wait-2")


@pytest.mark.parametrize(
    "fault",
    [
        noisy(before="20240131"),
        noisy(before="20240131", after="17"),
        '"$real" "$@" >/dev/null; echo submitted, thank you; exit 0',
        '"$real" "$@" >/dev/null; exit 0',
        '"$real" "$@" | sed "s/^/  Your job number is: /"; exit 0',
        deaf("Socket timed out on send/recv operation; got no response"),
        deaf("a message of the site's wrapper", 3),
        '"$real" "$@" >/dev/null; kill -KILL $$; sleep 60',
        killed("KILL"),
    ],
    ids=[
        "a number before",
        "numbers around",
        "other words",
        "nothing",
        "id in words",
        "lost",
        "fails",
        "dies",
        "early",
    ],
)
def test_a_submission_is_found_by_its_name(world, opened, store, fault):
    cluster = opened()
    world.kit.next(world.submit, fault)
    jobs = submitted(cluster, "wait-1", "wait-2")
    (store / "go").touch()
    assert [update.cause for update in all_end(cluster, jobs).values()] == [None, None]
    ran_once(store, "wait-1", "wait-2")


def test_a_submission_that_is_over_is_found_by_its_name(world, opened, store):
    """The answer comes when the job has ended already."""
    cluster = opened()
    wait = f'while ! test -e "{store}/started quick" || test -e "{store}/now quick"; do sleep 0.1; done'
    world.kit.next(world.submit, f'"$real" "$@" >/dev/null; {wait}; {refuse(world.away)}')
    jobs = submitted(cluster, "quick")
    assert all_end(cluster, jobs)[jobs[0]].cause is None
    ran_once(store, "quick")


def submit_in_vain(world, cluster, monkeypatch, *names):
    """Submit with an answer that is lost, while the system says for long that there is no such job."""
    world.kit.next(world.submit, deaf("", 0))
    with monkeypatch.context() as patch:
        patch.setattr(commandline, "_LOOK", 0.5)
        patch.setattr(cluster, "arrived", lambda name: "")
        patch.setattr(cluster, "_listed", lambda name: "")
        with pytest.raises(SubmissionError) as refused:
            submitted(cluster, *names)
    assert refused.value.refusal is Refusal.PASSING


def test_a_submission_that_no_list_named_is_found_when_it_is_tried_again(world, opened, store, monkeypatch):
    """The answer was lost, and the list said for long that there is no such job."""
    cluster = opened()
    submit_in_vain(world, cluster, monkeypatch, "wait-1", "wait-2")
    jobs = submitted(cluster, "wait-1", "wait-2", "wait-3")
    started(cluster, store, "wait-1", "wait-2", "wait-3")
    (store / "go").touch()
    assert [update.cause for update in all_end(cluster, jobs).values()] == [None] * 3
    assert world.kit.calls()[world.submit] == 2
    ran_once(store, "wait-1", "wait-2", "wait-3")


def test_batches_of_a_doubtful_submission_that_go_out_in_others_run_once(world, opened, store, monkeypatch):
    cluster = opened()
    submit_in_vain(world, cluster, monkeypatch, "sleep-1", "sleep-2")
    (job,) = submitted(cluster, "sleep-1")

    def of_the_run():
        return {cluster._base(other) for other, name in cluster.names().items() if cluster.context.workflow in name}

    polled_until(cluster, lambda _: of_the_run() == {cluster._base(job)})


def test_a_submission_that_succeeds_late_is_ended(world, opened, store, caplog):
    """It was sent again meanwhile: of the two jobs the one stays whose id is known."""
    cluster = opened()
    world.kit.next(world.submit, late(store / "late", world.away))
    world.kit.next(world.kill, refuse('denied: job "1" does not exist'))  # the next poll ends it
    jobs = submitted(cluster, "wait-1")
    (store / "late").touch()  # not before the other one is there, however long that takes
    (name,) = cluster.submission_names().values()
    polled_until(cluster, lambda _: "a duplicate submission whose response arrived late" in caplog.text)
    polled_until(cluster, lambda _: {job for job, called in cluster.names().items() if called == name} == set(jobs))
    (store / "go").touch()
    assert all_end(cluster, jobs)[jobs[0]].cause is None


def test_a_job_that_is_in_no_answer_is_ended_before_it_counts_as_lost(world, opened, store, monkeypatch):
    """What it ran can be started again then."""
    monkeypatch.setattr(type(cluster := opened()), "grace", 1.0)
    jobs = submitted(cluster, "sleep-1")
    started(cluster, store, "sleep-1")
    empty = answer("<job_info></job_info>") if world.kind is GridEngineCluster else answer(NOTICE)
    world.kit.always(world.query, empty)
    world.kit.always(world.account, refuse("no jobs running since startup" if "q" in world.query[:1] else "", 0))
    assert all_end(cluster, jobs)[jobs[0]].cause is Cause.LOST
    world.kit.always(world.query, "")
    successor = opened()
    left = successor.list(cluster.context.workflow)
    assert all(update.cause is not None for update in all_end(successor, left).values())


def test_a_job_that_is_still_listed_by_its_name_is_not_lost(world, opened, store, monkeypatch):
    monkeypatch.setattr(type(cluster := opened()), "grace", 0.5)
    jobs = submitted(cluster, "wait-1")
    started(cluster, store, "wait-1")
    monkeypatch.setattr(cluster, "query", lambda bases: {})
    monkeypatch.setattr(cluster, "account", lambda bases: {})
    before = world.kit.calls()[world.query]
    assert not ends(polled_until(cluster, lambda _: world.kit.calls()[world.query] > before + 2))  # asked by name
    monkeypatch.undo()
    monkeypatch.setenv("PATH", world.kit.path)
    (store / "go").touch()
    assert all_end(cluster, jobs)[jobs[0]].cause is None
    ran_once(store, "wait-1")


def test_a_kill_that_is_refused_is_repeated(world, opened, store, monkeypatch):
    monkeypatch.setattr(polled, "_KILL_AGAIN", 1.0)
    cluster = opened()
    jobs = submitted(cluster, "sleep-1")
    started(cluster, store, "sleep-1")
    world.kit.next(world.kill, refuse("Kill job error: a plugin said no"))
    world.kit.next(world.kill, refuse(world.away))
    cluster.kill(jobs)
    assert all_end(cluster, jobs)[jobs[0]].cause is Cause.LOST


def test_accounting_that_does_not_answer_delays_nothing_else(world, opened, store):
    cluster = opened()
    world.kit.always(world.account, refuse("sacct: error: slurm_persist_conn_open_without_init: Connection refused"))
    jobs = submitted(cluster, "quick-1", "wait-2")
    started(cluster, store, "quick-1", "wait-2")
    # Where only the accounting knows how the first job has ended, that is open: the others go on all the same.
    jobs += submitted(cluster, "wait-3", "quick-4")
    started(cluster, store, "wait-3", "quick-4")
    polled_until(cluster, lambda _: cluster._live[jobs[2]].state is JobState.RUNNING)
    (store / "go").touch()
    world.kit.always(world.account, "")
    polled_until(cluster, lambda _: not cluster._live)
    ran_once(store, "quick-1", "wait-2", "wait-3", "quick-4")


def test_refused_questions_about_the_site_stop_nothing(world, monkeypatch, tmp_path, opened):
    command = "scontrol" if world.kind is SlurmCluster else "qconf"
    site = StandIns(tmp_path / "site", command)
    monkeypatch.setenv("PATH", site.path)
    site.always(command, refuse("Access/permission denied"))
    assert opened()._array_limit == world.kind.array_limit


def test_the_user_name_in_the_environment_is_not_trusted(world, opened, store, monkeypatch):
    """Whose jobs are asked for is the system's own question."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "alice")
    assert pwd.getpwuid(os.getuid()).pw_name != "alice"
    cluster = opened()
    jobs = submitted(cluster, "wait-1")
    started(cluster, store, "wait-1")
    assert cluster.list(cluster.context.workflow).keys() == set(jobs)
    (store / "go").touch()
    assert all_end(cluster, jobs)[jobs[0]].cause is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_many_faults_at_random(world, opened, store, seed):
    """A leader's habits: jobs that are lost are submitted again."""
    chance = random.Random(seed)
    cluster = opened(max_array_size=3)
    work = [f"wait-{n}" for n in range(6)]
    jobs = dict(zip(submitted(cluster, *work), work, strict=True))
    done, end = [], time.monotonic() + 240
    while len(done) < len(work):
        assert time.monotonic() < end, (done, jobs, cluster._live)
        for command in world.commands:
            if world.kit.is_used_up(command) and chance.random() < 0.3:
                world.kit.next(command, chance.choice([*faults(world), slow(0.5), slow(2)]))
        if len(done) == 0 and time.monotonic() > end - 220:
            (store / "go").touch()
        for update in cluster.poll(0.3):
            if update.state is not JobState.ENDED:
                continue
            name = jobs.pop(update.job)
            if update.cause is None:
                done.append(name)
            else:
                jobs |= dict.fromkeys(submitted(cluster, name), name)
    assert sorted(done) == work
    assert not (store / "twice").exists()


def test_a_command_that_is_not_there_at_the_start_is_named(world, opened, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match=f"command '{world.submit}' not found on this machine's PATH"):
        opened()


def test_a_command_that_is_away_for_a_while_is_an_outage(world, opened, store):
    cluster = opened()
    jobs = submitted(cluster, "wait-1")
    started(cluster, store, "wait-1")
    hidden = Path(world.kit.bin, world.query)
    hidden.rename(hidden.with_suffix(".away"))
    os.environ["PATH"] = str(world.kit.bin)
    try:
        for _ in range(5):
            assert not ends(cluster.poll(0.5))
    finally:
        os.environ["PATH"] = world.kit.path
        hidden.with_suffix(".away").rename(hidden)
    (store / "go").touch()
    assert all_end(cluster, jobs)[jobs[0]].cause is None
    ran_once(store, "wait-1")


@pytest.mark.slow
def test_a_run_succeeds_whatever_the_commands_of_the_system_do(world, start):
    """Each task runs once, though hardly a question is answered at once."""
    chance = random.Random(7)
    submissions = [
        refuse(world.away),
        killed("KILL"),
        gone(),
        noisy(before=NOTICE),
        deaf(world.away),
        '"$real" "$@" >/dev/null; exit 0',
    ]
    leader, marks = start(world.kind.name, "slow", 8, poll_interval=0.3)
    due = dict.fromkeys(world.commands, 0)
    end = time.monotonic() + 280
    while leader.poll() is None:
        assert time.monotonic() < end
        calls = world.kit.calls()
        for command in world.commands:
            if calls[command] >= due[command]:
                wrong = submissions if command == world.submit else [*faults(world), slow(1)]
                world.kit.next(command, chance.choice(wrong))
                due[command] = calls[command] + chance.randint(2, 3)  # one goes wrong, and one or two after it do not
        with contextlib.suppress(subprocess.TimeoutExpired):
            leader.wait(timeout=0.3)
    assert result(leader) == str(sum(range(8)))
    assert counts(marks) == {f"slow-{i}": 1 for i in range(8)}
