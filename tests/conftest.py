"""What holds for every test: the user's own settings have no influence, and no process stays behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import psutil
import pytest

# dask reads its configuration when it is imported, here and in every worker.
for _name in [name for name in os.environ if name.startswith(("DASK_", "TOILFN_"))]:
    del os.environ[_name]
os.environ["DASK_CONFIG"] = os.path.join(tempfile.gettempdir(), "toilfn-tests-have-no-dask-configuration")


@pytest.fixture(scope="session", autouse=True)
def no_process_stays() -> Iterator[None]:
    """Whatever the tests started has ended when they have."""
    before = set(psutil.Process().children(recursive=True))
    yield
    started = [process for process in psutil.Process().children(recursive=True) if process not in before]
    _, alive = psutil.wait_procs([process for process in started if not _of_multiprocessing(process)], timeout=10)
    assert not alive


def _of_multiprocessing(process: psutil.Process) -> bool:
    """Whether it is one of the helpers that multiprocessing keeps until the interpreter ends."""
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "multiprocessing.resource_tracker" in words or "multiprocessing.forkserver" in words
