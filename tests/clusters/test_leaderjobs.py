"""``toilfn submit``: leaders that are jobs themselves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers.fake.systems import system
from tests.servers.fixtures import gridengine, gridengine_server, slurm, slurm_server

__all__ = ["gridengine", "gridengine_server", "slurm", "slurm_server"]

SCRIPT = """\
import sys, time
from pathlib import Path
import toilfn as toil

@toil.task(memory="400Mi", disk="1Mi")
def work(number, marks):
    with open(f"{marks}/{number}", "a") as file:
        file.write("x")
    while not Path(marks, "go").exists():
        time.sleep(0.1)
    return number

if __name__ == "__main__":
    print("sum", sum(toil.compute([work(n, sys.argv[1]) for n in range(int(sys.argv[2]))])))
"""


class Place:
    """A folder with a script, a store that is not made yet, and marks of attempts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marks = folder / "marks"
        self.marks.mkdir()
        (folder / "work.py").write_text(SCRIPT)

    def toilfn(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "toilfn", *words], cwd=self.folder, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done

    def submit(self, *words: str, count: int = 2) -> dict[str, str]:
        arguments = ["work.py", "--store=store", "--leader-memory=500Mi", *words, "--", str(self.marks), str(count)]
        return json.loads(self.toilfn("submit", "--json", *arguments).stdout)

    def wait_for_marks(self, count: int) -> None:
        end = time.monotonic() + 200
        while len(list(self.marks.iterdir())) < count:
            assert time.monotonic() < end, self.said()
            time.sleep(0.1)

    def go(self) -> None:
        (self.marks / "go").touch()

    def said(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("store/jobs/*.log"))

    def ends(self) -> str:
        """Let the tasks end, and give what the leader has printed once its job is over."""
        self.go()
        self.toilfn("status", "store", "--wait", "--exit-code")
        return self.said()

    def attempts(self) -> dict[str, int]:
        return {path.name: len(path.read_text()) for path in self.marks.iterdir() if path.name != "go"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def runs_to_its_end(place, name):
    """Submitted, refused a second time, watched, and done."""
    job = place.submit(f"--cluster={name}")
    assert (job["cluster"], job["store"]) == (name, f"file://{place.folder / 'store'}")
    again = place.toilfn("submit", "work.py", "--store=store", f"--cluster={name}", status=1)
    assert "job store store is in use" in again.stderr or "running as the leader of" in again.stderr
    place.wait_for_marks(2)
    assert "sum 1\n" in place.ends()
    assert "sum 1\n" in Path(job["log"]).read_text()
    assert place.attempts() == {"0": 1, "1": 1}


def ends_and_is_submitted_again(place, name, end):
    """The job of the leader is ended by the system; its tasks continue, and the next leader adopts them."""
    job = place.submit(f"--cluster={name}")["job"]
    place.wait_for_marks(2)
    end(job)
    place.toilfn("status", "store", "--wait")
    second = json.loads(place.toilfn("submit", "--json", "--resume", "store", "--lease-timeout=5s").stdout)
    assert second["job"] != job
    assert "sum 1\n" in place.ends()
    assert place.attempts() == {"0": 1, "1": 1}


def is_killed(place, name, jobs):
    """While it runs; and no job stays behind."""
    place.submit(f"--cluster={name}")
    place.wait_for_marks(2)
    place.toilfn("kill", "store")
    place.toilfn("status", "store", "--wait")
    place.go()
    assert jobs() == set()
    assert "sum 1\n" not in place.said()


def test_on_slurm(slurm, place):
    runs_to_its_end(place, "slurm")


def test_on_grid_engine(gridengine, place):
    runs_to_its_end(place, "gridengine")


@pytest.mark.parametrize("name", ["lsf", "torque", "pbs", "htcondor", "parasol"])
def test_on_fakes(name, place):
    for _ in system(name):
        runs_to_its_end(place, name)


@pytest.mark.slow
def test_a_leader_whose_time_is_over_on_slurm(slurm, place):
    """Slurm counts in minutes, so the test brings the end nearer."""
    ends_and_is_submitted_again(
        place, "slurm", lambda job: slurm.run("scontrol", "update", f"JobId={job}", "EndTime=now+1")
    )


@pytest.mark.slow
def test_a_leader_that_is_killed_on_grid_engine(gridengine, place):
    ends_and_is_submitted_again(place, "gridengine", lambda job: gridengine.run("qdel", job))


def test_a_leader_is_killed_on_slurm(slurm, place):
    def jobs():
        return set(slurm.run("squeue", "-h", "-o", "%j").split()) & {p.stem for p in place.folder.glob("store/jobs/*")}

    is_killed(place, "slurm", jobs)


def test_a_leader_that_waits_in_the_queue_can_be_ended(slurm, place):
    """Its own options reach its job only, and status says that it has not begun."""
    job = place.submit("--cluster=slurm", "--leader-args=--hold --comment=own", "--leader-walltime=7m")["job"]
    shown = slurm.run("scontrol", "show", "job", job)
    assert "Comment=own" in shown
    assert "TimeLimit=00:07:00" in shown
    assert f"job {job} of slurm, submitted" in place.toilfn("status", "store").stdout
    assert "cancelled 1 job" in place.toilfn("kill", "store").stdout
    assert "JobState=CANCELLED" in slurm.run("scontrol", "show", "job", job)
    place.toilfn("status", "store", "--wait")


def test_all_tasks_in_the_job_of_the_leader(slurm, place):
    place.go()
    place.submit("--lead-on=slurm", "--cluster=local")
    assert "sum 1\n" in place.ends()
    assert len(list(place.folder.glob("store/jobs/*.log"))) == 1


@pytest.mark.slow
def test_a_document_of_cwl(slurm, place):
    (place.folder / "tool.cwl").write_text(
        "cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: echo\n"
        "inputs: {text: {type: string, inputBinding: {}}}\noutputs: {out: stdout}\nstdout: out.txt\n"
    )
    words = ["--store=store", "--lead-on=slurm", "--outdir=out", "--leader-memory=500Mi", "tool.cwl", "--text=hello"]
    place.toilfn("submit", *words)
    place.ends()
    assert (place.folder / "out" / "out.txt").read_text() == "hello\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["work.py", "--cluster=slurm"], "needs a store that this machine and the cluster share"),
        (["work.py", "--store=store"], "no cluster was given that could run the leader as a job"),
        (["work.py", "--store=store", "--cluster=kubernetes"], "a leader cannot be a job of the cluster kubernetes"),
        (["missing.py", "--store=store", "--cluster=slurm"], "script not found: missing.py"),
        (["--store=store", "--cluster=slurm"], "name a SCRIPT"),
        (["--resume=store"], "no job store at"),
        (["--resume=store", "work.py"], "takes no script"),
    ],
)
def test_mistakes(words, reason, place):
    assert reason in place.toilfn("submit", *words, status=2 if "kubernetes" not in words[-1] else 1).stderr
    assert not (place.folder / "store").exists()
