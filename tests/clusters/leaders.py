"""Leaders as processes of their own, running the workflows of ``workflow.py``; import the fixture."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toilfn.clusters import cluster_class

__all__ = ["counts", "events", "failures", "own_jobs", "result", "start", "wait_for_marks"]


@pytest.fixture
def start(tmp_path):
    """Start a leader; give it, and the folder with the attempts' marks. The store is ``store`` beside that."""
    leaders = []
    marks = tmp_path / "marks"
    marks.mkdir()

    def start(name, what, n=0, **settings):
        script = Path(__file__).with_name("workflow.py")
        words = [name, str(tmp_path / "store"), str(marks), what, str(n), json.dumps(settings)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        leader = subprocess.Popen([sys.executable, str(script), *words], **pipes)
        leaders.append(leader)
        return leader, marks

    yield start
    for leader in leaders:
        leader.kill()
        leader.communicate()


def result(leader, limit=250):
    """What the leader printed; it must have ended well."""
    output, errors = leader.communicate(timeout=limit)
    assert leader.returncode == 0, errors
    return output.strip()


def counts(marks):
    """How many attempts of each kind were started."""
    return {path.name: len(path.read_text()) for path in marks.iterdir()}


def wait_for_marks(leader, marks, count, limit=200):
    """Wait until so many kinds of attempts have started."""
    end = time.monotonic() + limit
    while len(list(marks.iterdir())) < count:
        assert leader.poll() is None, leader.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.1)


def own_jobs(name, marks):
    """The live jobs of the leader's store: they are called as its scripts are."""
    scripts = {path.stem for path in (marks.parent / "store/jobs").glob("*.sh")}
    return [job for job, called in cluster_class(name)().names().items() if called in scripts]


def events(marks):
    """The event journal."""
    command = [sys.executable, "-m", "toilfn", "events", str(marks.parent / "store")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in printed.splitlines()]


def failures(marks):
    """What the event journal says of failed attempts: name, cause, message."""
    return [(event["name"], event["cause"], event["message"]) for event in events(marks) if event["event"] == "failed"]
