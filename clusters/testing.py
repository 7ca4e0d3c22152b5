"""The contract of clusters: tests that any cluster of jobs must pass.

Subclass `ClusterContract` in a test module of your package, and define the fixture ``make_cluster``::

    from toilfn.clusters.testing import ClusterContract

    class TestMyCluster(ClusterContract):
        @pytest.fixture
        def make_cluster(self):
            return MyCluster

``make_cluster(worker_command=..., **settings)`` builds a cluster without opening it. Its jobs run
``worker_command STORE BATCH`` instead of the usual worker. The tests pass a command whose behaviour depends on the name
of the batch: it fails, sleeps or waits.
The tests require pytest, a POSIX shell, and a temporary folder that jobs can access.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, ClassVar, TypeAlias
from uuid import uuid4

import pytest

from toilfn.clusters.base import Batch, Cluster, JobId, JobState, RunContext, Update
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Resources

__all__ = ["ClusterContract"]

MakeCluster: TypeAlias = Callable[..., Cluster]

_WORKER = """\
# $1 is the store, a folder; $2 is the batch, whose name says what to do.
printf x >> "$1/started $2"
case $2 in
fail*) echo 'it failed on purpose'; exit 3 ;;
sleep*) exec sleep 300 ;;
wait*) while ! test -e "$1/go"; do sleep 0.1; done ;;
memory*) exec PYTHON -c 'import time; x = bytearray(700_000_000); x[:] = b"1" * len(x); time.sleep(60)' ;;
environment*) printf %s "$TOILFN_CONTRACT" > "$1/environment" ;;
esac
printf x >> "$1/ended $2"
"""


class ClusterContract:
    """Tests of the behaviour on which leaders rely."""

    patience: ClassVar[float] = 60.0
    """Seconds within which the system must react."""
    resources: ClassVar[Resources] = Resources(cores=1, memory=400 * 2**20, disk=2**20)
    """A shape small enough for the system to run several jobs at once."""
    settings: ClassVar[dict[str, Any]] = {"poll_interval": 0.1}
    """Additional settings of every cluster under test."""

    @pytest.fixture
    def make_cluster(self) -> MakeCluster:
        """Return a function that builds a cluster."""
        raise NotImplementedError("define the fixture make_cluster")

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Return a folder whose name needs quoting, to be used as the store."""
        folder = tmp_path / "it's a $HOME; `x` % store"
        folder.mkdir()
        return folder

    @pytest.fixture
    def new_cluster(self, make_cluster: MakeCluster, folder: Path, tmp_path: Path) -> Iterator[Callable[[], Cluster]]:
        """Return a function that builds clusters whose jobs run the command of the tests; close them at the end."""
        worker = tmp_path / "worker.sh"
        worker.write_text(_WORKER.replace("PYTHON", sys.executable))
        settings = {**self.settings, "worker_command": ("sh", str(worker))}
        with ExitStack() as made:
            yield lambda: made.enter_context(closing(make_cluster(**settings)))

    @pytest.fixture
    def context(self, folder: Path) -> RunContext:
        """Return a context with a unique workflow name."""
        return RunContext(str(folder), f"contract-{uuid4().hex[:8]}", {"TOILFN_CONTRACT": 'it\'s "$HOME" `x`\\'})

    @pytest.fixture
    def cluster(self, new_cluster: Callable[[], Cluster], context: RunContext) -> Cluster:
        """Return an open cluster."""
        cluster = new_cluster()
        cluster.open(context)
        return cluster

    def batches(self, *names: str, resources: Resources | None = None) -> list[Batch]:
        """Build batches of one shape."""
        return [Batch(name, f"{name} for people", resources or self.resources) for name in names]

    def wait_ended(self, cluster: Cluster, jobs: Sequence[JobId]) -> dict[JobId, Update]:
        """Poll until all given jobs have ended; no job may end twice."""
        ended: dict[JobId, Update] = {}
        limit = time.monotonic() + self.patience
        while not ended.keys() >= set(jobs):
            assert time.monotonic() < limit, f"still waiting for {set(jobs) - ended.keys()}, have {ended}"
            for update in cluster.poll(1.0):
                if update.state is JobState.ENDED:
                    assert update.job not in ended
                    ended[update.job] = update
        return ended

    def wait_started(self, cluster: Cluster, folder: Path, *names: str) -> None:
        """Poll until all given batches have started."""
        limit = time.monotonic() + self.patience
        while not all((folder / f"started {name}").exists() for name in names):
            assert time.monotonic() < limit, f"{names} did not start; have {list(folder.iterdir())}"
            assert not [update for update in cluster.poll(0.2) if update.cause]

    def test_a_successful_job_has_no_cause(self, cluster: Cluster, folder: Path) -> None:
        """Its batch ran once."""
        (job,) = cluster.submit(self.batches("ok"))
        assert self.wait_ended(cluster, [job])[job].cause is None
        assert (folder / "ended ok").read_text() == "x"

    def test_each_of_many_jobs_runs_its_own_batch_once(self, cluster: Cluster, folder: Path) -> None:
        """Jobs are returned in the order of the batches, even if shapes differ and names need quoting."""
        other = Resources(cores=2, memory=300 * 2**20, disk=2**20)
        names = ["ok-1", "ok it's $HOME", 'ok "2"; `x`', "fail-3", "ok-4"]
        batches = self.batches(*names)
        batches[1:1] = self.batches("fail-other", "ok-other", resources=other)
        jobs = cluster.submit(batches)
        assert len(set(jobs)) == len(batches)
        ended = self.wait_ended(cluster, jobs)
        for job, batch in zip(jobs, batches, strict=True):
            assert (ended[job].cause is None) == batch.name.startswith("ok"), (batch, ended[job])
            assert (folder / f"started {batch.name}").read_text() == "x"

    def test_the_detail_explains_a_failure(self, cluster: Cluster) -> None:
        """It contains the exit status and the output."""
        (job,) = cluster.submit(self.batches("fail"))
        update = self.wait_ended(cluster, [job])[job]
        assert update.cause is Cause.ERROR
        assert "3" in update.detail
        assert "it failed on purpose" in update.detail

    def test_jobs_get_the_environment(self, cluster: Cluster, folder: Path, context: RunContext) -> None:
        """Values may contain any character."""
        (job,) = cluster.submit(self.batches("environment"))
        assert self.wait_ended(cluster, [job])[job].cause is None
        assert (folder / "environment").read_text() == context.environment["TOILFN_CONTRACT"]

    def test_killed_jobs_end(self, cluster: Cluster, folder: Path) -> None:
        """Killing some jobs does not affect others; killing a job twice, or after its end, is not an error."""
        jobs = cluster.submit(self.batches("sleep-1", "sleep-2", "wait-3"))
        self.wait_started(cluster, folder, "sleep-1")
        cluster.kill(jobs[:2])
        cluster.kill(jobs[:1])
        ended = self.wait_ended(cluster, jobs[:2])
        assert all(update.cause is not None for update in ended.values())
        cluster.kill([*jobs[:2], JobId("987654321")])
        (folder / "go").touch()
        assert self.wait_ended(cluster, jobs[2:])[jobs[2]].cause is None

    def test_a_new_leader_finds_the_jobs_of_the_previous_one(
        self, cluster: Cluster, new_cluster: Callable[[], Cluster], context: RunContext, folder: Path
    ) -> None:
        """It learns which job runs which batch and how each ends; jobs of other workflows are left out."""
        jobs = cluster.submit(self.batches("wait it's one", "wait-fail")) + cluster.submit(self.batches("wait-2"))
        self.wait_started(cluster, folder, "wait it's one")
        successor = new_cluster()
        successor.open(context)
        assert successor.list("contract-of-others") == {}
        assert successor.list(context.workflow) == dict(
            zip(jobs, ["wait it's one", "wait-fail", "wait-2"], strict=True)
        )
        (folder / "go").touch()
        assert all(update.cause is None for update in self.wait_ended(successor, jobs).values())
        assert successor.list(context.workflow) == {}
        assert (folder / "started wait-2").read_text() == "x"

    def test_close_ends_all_jobs(
        self, cluster: Cluster, new_cluster: Callable[[], Cluster], context: RunContext, folder: Path
    ) -> None:
        """`close` may be called twice, and the cluster opened again."""
        jobs = cluster.submit(self.batches("sleep-1", "sleep-2"))
        self.wait_started(cluster, folder, "sleep-1")
        cluster.close()
        cluster.close()
        successor = new_cluster()
        successor.open(context)
        left = successor.list(context.workflow)
        assert all(update.cause is not None for update in self.wait_ended(successor, list(left)).values())
        assert set(left) <= set(jobs)
        cluster.open(context)
        (job,) = cluster.submit(self.batches("ok again"))
        assert self.wait_ended(cluster, [job])[job].cause is None

    def test_poll_keeps_to_its_timeout_and_can_be_woken(self, cluster: Cluster) -> None:
        """Even if there is no job to wait for."""
        begin = time.monotonic()
        assert cluster.poll(0.05) == []
        assert time.monotonic() - begin < 5
        cluster.wake()
        begin = time.monotonic()
        assert cluster.poll(30.0) == []
        assert time.monotonic() - begin < 5

    def test_exceeding_the_memory_limit_is_reported(self, cluster: Cluster) -> None:
        """Only for a system that limits memory."""
        if not cluster.capabilities.memory_limits:
            pytest.skip("the system does not limit memory")
        (job,) = cluster.submit(self.batches("memory"))
        assert self.wait_ended(cluster, [job])[job].cause is Cause.MEMORY

    def test_a_workflow_name_that_is_invalid_in_job_names_is_refused(self, new_cluster: Callable[[], Cluster]) -> None:
        """Such names would become part of command lines and patterns."""
        with pytest.raises((InputError, ClusterError), match="name"):
            new_cluster().open(RunContext("/store", "my workflow; rm"))
