"""Settings for every test: the user's own settings have no influence, and no process is left behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import hypothesis
import psutil
import pytest

from tests import mutation
from tests.house.parity import named_tests, unproven
from tests.servers import fixtures
from tests.servers.kubernetes_build import is_built

QUICK = {
    "cli": {"test_config", "test_escapes", "test_events", "test_reading"},
    "clusters": {
        "test_gridengine_words", "test_htcondor_words", "test_inline", "test_jobsettings", "test_lsf_words",
        "test_pbs_words", "test_registry", "test_slurm_words",
    },
    "core": {
        "test_collections", "test_confined", "test_context", "test_drawing", "test_failures", "test_identity_functions",
        "test_options", "test_scheduler", "test_scheduler_bundles", "test_scheduler_memory",
        "test_scheduler_packing", "test_scheduler_rollback",
        "test_scheduler_services", "test_settings", "test_recorded_failures", "test_text", "test_units", "test_view",
    },
    "house": {
        "test_docstrings", "test_exports", "test_from_toil", "test_imports", "test_metadata", "test_pages",
        "test_sizes",
    },
    "stores": {"test_checked", "test_format", "test_segments"},
}  # fmt: skip
"""The modules, by folder, whose tests start no server and take moments: `make quick` runs these."""

SERVERS = frozenset(fixtures.__all__)
"""The fixtures that start a batch system, an object store, a container engine or another server of others."""

# dask reads its configuration when it is imported, here and in every worker.
for _name in [name for name in os.environ if name.startswith(("DASK_", "TOILFN_"))]:
    if not _name.startswith("TOILFN_TEST_"):
        del os.environ[_name]
# gcsfs, when it is imported, chooses whether to ask Google by gRPC, which the emulator does not know.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
os.environ["DASK_CONFIG"] = os.path.join(tempfile.gettempdir(), "toilfn-tests-have-no-dask-configuration")
# An example takes as long as the machine's load lets it, in CI as well as here.
hypothesis.settings.register_profile(
    "any load", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize="CI" in os.environ
)
hypothesis.settings.load_profile(mutation.PROFILE if "MUTANT_UNDER_TEST" in os.environ else "any load")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark quick tests and those that need servers, and let those of a server that may still be built come last."""
    for item in items:
        if SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.servers)
        if item.path.stem in QUICK.get(item.path.parent.name, ()):
            item.add_marker(pytest.mark.quick)
    late = [item for item in items if "kubernetes_server" in getattr(item, "fixturenames", ())]
    items[:] = [*(item for item in items if item not in set(late)), *late]
    if not is_built():
        for item in late:
            item.add_marker(pytest.mark.timeout(1800))


class Parity:
    """A plugin that fails a session in which a test named by `docs/from-toil.md` was skipped."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record how a test ended; under xdist, the process that collects the reports sees all of them."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped.append(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed.append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Change the exit status, unless it already reports a failure."""
        if session.exitstatus == pytest.ExitCode.OK and self.missing():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the tests."""
        for name in self.missing():
            terminalreporter.write_line(f"ERROR docs/from-toil.md names {name}, which was skipped", red=True)

    def missing(self) -> list[str]:
        """Return the tests that the page names and that did not pass in this session."""
        return unproven(named_tests(), self.passed, self.skipped)


def pytest_configure(config: pytest.Config) -> None:
    """Watch for skipped tests in continuous integration, in the one process that gets all reports."""
    if "MUTANT_UNDER_TEST" in os.environ:
        config.pluginmanager.register(mutation, "toilfn-mutation")
    if os.environ.get("CI") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Parity(), "toilfn-parity")


@pytest.fixture(scope="session", autouse=True)
def no_process_stays() -> Iterator[None]:
    """Check that all processes of the tests have ended when the tests end."""
    before = set(psutil.Process().children(recursive=True))
    yield
    started = [process for process in psutil.Process().children(recursive=True) if process not in before]
    _, alive = psutil.wait_procs([process for process in started if not _of_multiprocessing(process)], timeout=10)
    assert not alive


def _of_multiprocessing(process: psutil.Process) -> bool:
    """Return whether a process is a helper that multiprocessing keeps until the interpreter ends."""
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "multiprocessing.resource_tracker" in words or "multiprocessing.forkserver" in words
