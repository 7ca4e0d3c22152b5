"""What holds for every test: the user's own settings have no influence, and no process stays behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import psutil
import pytest

from tests.servers.kubernetes_build import is_built

# dask reads its configuration when it is imported, here and in every worker.
for _name in [name for name in os.environ if name.startswith(("DASK_", "TOILFN_"))]:
    if not _name.startswith("TOILFN_TEST_"):
        del os.environ[_name]
# gcsfs, when it is imported, chooses whether to ask Google by gRPC, which the emulator does not know.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
os.environ["DASK_CONFIG"] = os.path.join(tempfile.gettempdir(), "toilfn-tests-have-no-dask-configuration")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests of the server that may still be built come last, and wait for it."""
    late = [item for item in items if "kubernetes_server" in getattr(item, "fixturenames", ())]
    items[:] = [*(item for item in items if item not in set(late)), *late]
    if not is_built():
        for item in late:
            item.add_marker(pytest.mark.timeout(1800))


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
