"""A real Grid Engine (Son of Grid Engine 8.1.9): qmaster and one execution host with four slots.

Debian's packages put the one cell under /var/lib/gridengine; it is made anew at each start.
``python -m tests.servers.gridengine start`` prints the variables that make its commands find it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.servers.machine import Server, ServerMissingError, alive, end_process, main, wait_for

ROOT = Path("/var/lib/gridengine")
COMMON = ROOT / "default/common"
SPOOL = Path("/var/spool/gridengine")

HOST = """\
hostname localhost
load_scaling NONE
complex_values slots=4,h_vmem=8G,gpu=2
user_lists NONE
xuser_lists NONE
projects NONE
xprojects NONE
usage_scaling NONE
report_variables NONE
"""

HOST_GROUP = "group_name @allhosts\nhostlist localhost\n"

PARALLEL_ENVIRONMENT = """\
pe_name smp
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule $pe_slots
control_slaves FALSE
job_is_first_task TRUE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
"""

GLOBAL = {
    "min_uid": "0",
    "min_gid": "0",
    "reporting_params": "accounting=true reporting=false accounting_flush_time=00:00:00",
    "load_report_time": "00:00:02",
    "max_unheard": "00:00:10",
}
SCHEDULER = {
    "schedule_interval": "0:0:1",
    "flush_submit_sec": "1",
    "flush_finish_sec": "1",
    "job_load_adjustments": "NONE",
    "load_adjustment_decay_time": "0:0:0",
}
QUEUE = {
    "hostlist": "@allhosts",
    "load_thresholds": "NONE",
    "pe_list": "smp",
    "slots": "4",
    "shell_start_mode": "unix_behavior",
    "shell": "/bin/sh",
}
COMPLEXES = "h_vmem h_vmem MEMORY <= YES YES 1G 0\ngpu gpu INT <= YES YES 0 0\n"


class GridEngine(Server):
    """A cluster of one host with four slots, 8 GB of memory and two pretended GPUs."""

    name = "gridengine"
    packages = ("gridengine-master", "gridengine-exec", "gridengine-client")
    commands = ("sge_qmaster", "sge_execd", "qsub")

    @property
    def environment(self) -> dict[str, str]:
        """The environment with the cell that the commands talk to."""
        return {"SGE_ROOT": str(ROOT), "SGE_CELL": "default"}

    def pid_files(self) -> Iterable[Path]:
        """Return qmaster's file with its process id, which is where the package has it."""
        return [SPOOL / "qmaster/qmaster.pid"]

    def configure(self) -> None:
        """Build a new cell, as the package's installation does."""
        if os.getuid():
            raise ServerMissingError("Grid Engine's daemons must be started by root")
        if alive(SPOOL / "qmaster/qmaster.pid"):
            raise ServerMissingError("a Grid Engine runs here already, and the tests would wipe it")
        for part in ("spooldb", "qmaster", "execd"):
            for path in (SPOOL / part).glob("*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in ("host_aliases", "accounting"):
            (COMMON / name).unlink(missing_ok=True)
        self.run("install", "-d", "-o", "sgeadmin", "-g", "sgeadmin", f"{SPOOL}/qmaster/job_scripts")
        make = f"/usr/share/gridengine/scripts/init_cluster {ROOT} default {SPOOL}/spooldb sgeadmin"
        self.run("su", "-s", "/bin/sh", "-c", make, "sgeadmin")
        # A machine whose own name means 127.0.0.1 is refused as "localhost" without this alias.
        (COMMON / "host_aliases").write_text(f"localhost {socket.gethostname()}\n")
        (COMMON / "act_qmaster").write_text("localhost\n")

    def start(self) -> None:
        """Start qmaster, describe the cluster to it, start the execution daemon."""
        self.start_controller()
        self.run("qconf", "-as", "localhost", check=False)
        self.run("qconf", "-ah", "localhost", check=False)
        self._change("global", "-sconf", "-Mconf", GLOBAL, skip=1)
        self._change("sched", "-ssconf", "-Msconf", SCHEDULER)
        self._give("complexes", "-Mc", self._without(self.run("qconf", "-sc"), ("h_vmem",)) + COMPLEXES)
        self._give("host", "-Ae", HOST)
        self._give("hosts", "-Ahgrp", HOST_GROUP)
        self._give("pe", "-Ap", PARALLEL_ENVIRONMENT)
        self._give("queue", "-Aq", self._replaced(self._template("-aq", "all.q"), QUEUE))
        self._daemon("sge_execd")
        wait_for(self._ready, "the execution host")

    def stop(self) -> None:
        """Delete all jobs and stop the daemons."""
        if alive(SPOOL / "qmaster/qmaster.pid"):
            self.run("qdel", "-f", "-u", "root", check=False)
        for pid_file in SPOOL.glob("execd/*/execd.pid"):
            end_process(pid_file)
        self.stop_controller()

    def start_controller(self) -> None:
        """Start qmaster, also after `stop_controller`."""
        self._daemon("sge_qmaster")
        wait_for(lambda: self.run("qconf", "-sh"), "sge_qmaster")

    def stop_controller(self) -> None:
        """Stop qmaster alone: its commands fail, and running jobs continue."""
        end_process(SPOOL / "qmaster/qmaster.pid")

    @contextlib.contextmanager
    def limit(self, name: str, value: int) -> Iterator[None]:
        """Set a limit of the site for some time."""
        self._change("global", "-sconf", "-Mconf", {name: str(value)}, skip=1)
        try:
            yield
        finally:
            self._change("global", "-sconf", "-Mconf", {name: "0"}, skip=1)

    def _daemon(self, program: str) -> None:
        subprocess.run([f"/usr/sbin/{program}"], env=os.environ | self.environment, check=True, capture_output=True)

    def _ready(self) -> bool:
        states = [line.split() for line in self.run("qstat", "-f").splitlines() if line.startswith("all.q@")]
        return bool(states) and all(len(words) == 5 for words in states)

    def _give(self, name: str, option: str, text: str) -> None:
        file = self.folder / name
        file.write_text(text)
        self.run("qconf", option, str(file))

    def _change(self, name: str, show: str, change: str, values: dict[str, str], skip: int = 0) -> None:
        shown = self.run("qconf", show).splitlines(keepends=True)[skip:]
        self._give(name, change, self._replaced("".join(shown), values))

    def _template(self, option: str, name: str) -> str:
        """Return the text that qconf would open in an editor."""
        command = ["qconf", option, name]
        environment = os.environ | self.environment | {"EDITOR": "cat"}
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
        return "".join(line for line in shown.splitlines(keepends=True) if not line.startswith("Parallel"))

    def _replaced(self, text: str, values: dict[str, str]) -> str:
        joined = text.replace("\\\n", " ")
        return self._without(joined, tuple(values)) + "".join(f"{key} {value}\n" for key, value in values.items())

    @staticmethod
    def _without(text: str, keys: tuple[str, ...]) -> str:
        return "".join(line for line in text.splitlines(keepends=True) if line.split()[:1] not in [[k] for k in keys])


if __name__ == "__main__":
    main(GridEngine())
