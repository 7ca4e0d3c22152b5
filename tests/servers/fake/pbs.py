"""Fake commands of PBS Professional / OpenPBS 20.

They follow its qsub(1B) (-J needs at least two; arrays must be rerunnable), qstat(1B) (-x -t -f -F json; status 35 when
all are finished, 153 for unknown ids), qdel(1B) and the Reference Guide on exit status (-27 over memory, -29 over
walltime, 256 and more a signal).
"""

from __future__ import annotations

import json

from tests.servers.fake import arguments, engine, torque
from tests.servers.fake.engine import RefusedError
from tests.servers.fake.torque import qdel

torque.QUEUES = ("workq",)
torque.ARRAY_OPTION, torque.INDEX = "-J", "PBS_ARRAY_INDEX"
torque.REQUESTS = {"select": r"1:ncpus=\d+:mem=\d+kb(:ngpus=\d+)?", "walltime": r"\d+"}
torque.EXITS = {"memory": -27, "walltime": -29, "killed": 271}
torque.SELECT_FLAGS = ("-x",)
_check = torque.check


def away() -> None:
    """Fail as all commands do when pbs_server does not answer."""
    raise RefusedError(f"Connection refused\nqstat: cannot connect to server {torque.SERVER} (errno=111)", 111)


def check(options: dict[str, list[str]]) -> None:
    """Refuse submissions that the server refuses."""
    _check(options)
    if "-J" in options and (options["-J"] == ["0-0"] or "-r" in options):
        raise RefusedError("qsub: illegal -J value", 2)


torque.check = check


def shown(job: dict[str, object], number: int, element: engine.Element) -> dict[str, object]:
    """Return one job as qstat -f -F json shows it."""
    ended = "X" if job["is_array"] else "F"
    name, _, value = str(job["variables"]).partition("=")
    values = {
        "Job_Name": job["name"],
        "job_state": torque.letter(element, ended),
        "Variable_List": {"PBS_O_HOST": "host", name: value},
    }
    status = torque.exit_status(element)
    if values["job_state"] == ended and status is not None:
        values["Exit_status"] = status
    return values


def qstat(words: list[str]) -> None:
    """Show jobs as JSON, arrays themselves and their elements."""
    options, wanted = arguments.parse(words, ("-F",), ("-x", "-t", "-f"))
    if set(options) - {"-x"} != {"-t", "-f", "-F"} or options["-F"] != ["json"]:
        raise RefusedError("usage: qstat", 2)
    if "-x" in options and (engine.spool() / "forgetful").exists():
        raise RefusedError("qstat: Unknown PBS error: PBS is not configured to maintain job history", 16)
    shown_jobs: dict[str, object] = {}
    known = set()
    for job, elements in engine.jobs():
        base = torque.identity(job, "")
        known.add(base)
        if not wanted or base in wanted:
            if job["is_array"]:
                shown_jobs[base] = {"Job_Name": job["name"], "job_state": "B", "Variable_List": {}}
            kept = {n: element for n, element in elements.items() if not torque.forgets(element)}
            shown_jobs |= {torque.identity(job, n): shown(job, n, element) for n, element in kept.items()}
    print(json.dumps({"timestamp": 1, "pbs_version": "20.0.1", "pbs_server": "server", "Jobs": shown_jobs}, indent=4))
    if missing := [name for name in wanted if name not in known]:
        raise RefusedError("\n".join(f"qstat: Unknown Job Id {name}" for name in missing), 153)


COMMANDS = {"qsub": torque.qsub, "qstat": qstat, "qselect": torque.qselect, "qdel": qdel, "tracejob": torque.tracejob}
