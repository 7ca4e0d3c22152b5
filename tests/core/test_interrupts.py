"""Ctrl-C: once to wait for running tasks, twice to stop at once; the store can be resumed either way."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_for
from toilfn.leader.callbacks import Interrupts

SCRIPT = """
import sys, time, toilfn as toil
from pathlib import Path

@toil.task(retries=0)
def slow(i, folder, seconds):
    Path(folder, f"start{i}").touch()
    time.sleep(seconds)
    Path(folder, f"end{i}").touch()
    return i

folder, seconds = sys.argv[2], float(sys.argv[3])
print(toil.compute([slow(i, folder, seconds) for i in range(6)], store=sys.argv[1], workers=2, progress=False))
"""


def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(SCRIPT)
    (folder / "marks").mkdir()
    command = [sys.executable, str(folder / "script.py"), str(folder / "store"), str(folder / "marks"), str(seconds)]
    leader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list((folder / "marks").glob("start*"))) == 2)
    return leader


def resume(folder: Path) -> str:
    command = [sys.executable, "-m", "toilfn", "resume", str(folder / "store"), "--workers", "6"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_the_first_interrupt_waits_for_what_runs(tmp_path: Path) -> None:
    leader = start(tmp_path, 1.0)
    leader.send_signal(signal.SIGINT)
    _, errors = leader.communicate(timeout=60)
    assert leader.returncode in (-signal.SIGINT, 130)
    assert "press Ctrl-C again" in errors
    assert errors.endswith(f"toilfn: stopped by Ctrl-C; to resume: toilfn resume {tmp_path / 'store'}\n")
    assert "Traceback" not in errors
    started = sorted(path.name.removeprefix("start") for path in (tmp_path / "marks").glob("start*"))
    ended = sorted(path.name.removeprefix("end") for path in (tmp_path / "marks").glob("end*"))
    assert started == ended
    assert len(started) < 6
    before = {name: (tmp_path / "marks" / f"end{name}").stat().st_mtime for name in ended}
    assert resume(tmp_path) == "[0, 1, 2, 3, 4, 5]\n"
    assert before == {name: (tmp_path / "marks" / f"end{name}").stat().st_mtime for name in ended}


@pytest.mark.parametrize(
    ("signals", "statuses", "message"),
    [
        ((signal.SIGINT, signal.SIGINT), (-signal.SIGINT, 130), "stopped by Ctrl-C"),
        ((signal.SIGTERM,), (143,), "stopped by SIGTERM"),
    ],
    ids=["twice", "terminated"],
)
def test_the_second_interrupt_stops_at_once(
    tmp_path: Path, signals: tuple[int, ...], statuses: tuple[int, ...], message: str
) -> None:
    leader = start(tmp_path, 30.0)
    workers = psutil.Process(leader.pid).children(recursive=True)
    began = time.monotonic()
    for number in signals:
        leader.send_signal(number)
        time.sleep(0.2)  # two signals at one time would be one
    _, errors = leader.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert leader.returncode in statuses
    assert f"{message}; to resume: toilfn resume {tmp_path / 'store'}\n" in errors
    assert "Traceback" not in errors
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert list((tmp_path / "marks").glob("end*")) == []


def test_signals_that_the_process_ignores_stay_ignored() -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Interrupts() as interrupts:
            for number in before:
                signal.raise_signal(number)
        assert interrupts.count == 0
        assert not interrupts.is_terminated
        assert all(signal.getsignal(number) is signal.SIG_IGN for number in before)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
