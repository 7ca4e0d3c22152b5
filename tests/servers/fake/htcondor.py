"""Fake commands of HTCondor 10.

They follow the manual's pages of condor_submit (-terse, the description on standard input), condor_q and
condor_history (-json -attributes), condor_rm, and "Job ClassAd Attributes" (JobStatus, HoldReasonCode).
Jobs that end leave the queue for the history; one that takes too much memory is held (code 34). A file ``hold`` in the
spool folder shows all others as held by a person, for the reason that it has.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping

from tests.servers.fake import arguments, engine
from tests.servers.fake.engine import RefusedError

KEYS = {
    "executable", "log", "batch_name", "universe", "request_cpus", "request_memory", "request_disk", "request_gpus",
    "allowed_execute_duration", "accounting_group", "environment", "getenv", "should_transfer_files",
    "transfer_executable", "max_retries", "requirements",
}  # fmt: skip
EVENTS = {
    "running": "001 ({cluster:03}.{number:03}.000) 2023-10-05 09:06:32 Job executing on host: <127.0.0.1:9618>\n"
    "\tSlotName: slot1@host\n...\n",
    "status": "005 ({cluster:03}.{number:03}.000) 2023-10-05 09:06:40 Job terminated.\n"
    "\t(1) Normal termination (return value {value})\n\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Remote Usage\n...\n",
    "signal": "005 ({cluster:03}.{number:03}.000) 2023-10-05 09:06:40 Job terminated.\n"
    "\t(0) Abnormal termination (signal {value})\n\t(0) No core file\n...\n",
    "killed": "009 ({cluster:03}.{number:03}.000) 2023-10-05 09:06:40 Job was aborted.\n"
    "\tvia condor_rm (by user root)\n...\n",
}
"""The lines of the job's event log ("Job Event Log Codes")."""
HELD = {
    "memory": (34, "Error from slot1@host: memory usage exceeded request_memory"),
    "walltime": (47, "The job exceeded allowed execute duration of 0+00:00:01"),
}


def away() -> None:
    """Fail as all commands do when the schedd does not answer."""
    raise RefusedError("ERROR: Can't find address of local schedd", 1)


def described(text: str) -> tuple[dict[str, str], int]:
    """Read a submit description."""
    *lines, last = text.strip().splitlines()
    values = {}
    for line in lines:
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or name not in KEYS:
            raise RefusedError(f"ERROR: Parse error in expression: {line}\nERROR: Failed to parse command file", 1)
        values[name] = value.replace("$(DOLLAR)", "$")
    match = re.fullmatch(r"queue (\d+)", last)
    if match is None:
        raise RefusedError("ERROR: no queue statement", 1)
    return values, int(match[1])


def condor_submit(words: list[str]) -> None:
    """Submit the description on standard input."""
    options, rest = arguments.parse(words, (), ("-terse",))
    if rest or "-terse" not in options:
        raise RefusedError("Usage: condor_submit [options] [<attrib>=<value>] [- | <submit-file>]", 1)
    number, count = queued(*described(sys.stdin.read()))
    print(f"{number}.0 - {number}.{count - 1}")


def queued(values: Mapping[str, str], count: int) -> tuple[int, int]:
    """Submit a description; return the cluster's number and the number of its jobs."""
    if not os.access(values["executable"], os.X_OK):
        raise RefusedError(f"ERROR: Executable file {values['executable']} is not executable", 1)
    index, _, value = values["environment"].strip('"').partition("=")
    if value != "$(Process)" or values["universe"] != "vanilla" or values["should_transfer_files"] != "NO":
        raise RefusedError("ERROR: not what this fake honours", 1)
    number = engine.submit(
        {
            "name": values["batch_name"],
            "numbers": list(range(count)),
            "index": index,
            "memory": int(values["request_memory"]) * 2**20,
            "walltime": int(values.get("allowed_execute_duration", 0)) or None,
            "command": shlex.split(shlex.quote(values["executable"])),
            "event_log": values["log"],
            "events": EVENTS,
        }
    )
    return number, count


def ad(job: dict[str, object], number: int, element: engine.Element) -> dict[str, object]:
    """Return the ClassAd of one job."""
    values = {"ClusterId": job["id"], "ProcId": number, "JobBatchName": job["name"]}
    if element["reason"] in HELD:
        code, reason = HELD[element["reason"]]
        return values | {"JobStatus": 5, "HoldReasonCode": code, "HoldReason": reason}
    if element["state"] == "killed":
        return values | {"JobStatus": 3, "RemoveReason": "via condor_rm (by user root)"}
    status = {"queued": 1, "running": 2, "done": 4}[element["state"]]
    if status != 4 and (engine.spool() / "hold").exists():
        held = (engine.spool() / "hold").read_text()
        return values | {"JobStatus": 5, "HoldReasonCode": 1, "HoldReasonSubCode": 0, "HoldReason": held}
    if status != 4:
        return values | {"JobStatus": status}
    ended = {"ExitBySignal": bool(element["signal"]), "LastRemoteHost": "slot1@host"}
    code = {"ExitSignal": element["signal"]} if element["signal"] else {"ExitCode": element["status"]}
    return values | {"JobStatus": 4} | ended | code


def is_removed(job: dict[str, object], number: int) -> bool:
    """Return whether a held job was removed."""
    return (engine.spool() / str(job["id"]) / f"{number}.kill").exists()


def show(words: list[str], statuses: tuple[int, ...]) -> None:
    """Print ClassAds as JSON, nothing at all when there are none."""
    ids = [word for word in words if word.isdigit()]
    options, rest = arguments.parse(words[len(ids) :], ("-attributes",), ("-json",))
    if rest or set(options) != {"-attributes", "-json"}:
        raise RefusedError("Usage: condor_q [options]", 1)
    wanted = arguments.only(options, "-attributes").split(",")
    found = [one for one in ads(statuses) if not ids or str(one["ClusterId"]) in ids]
    if found:
        print(json.dumps([{name: one[name] for name in wanted if name in one} for one in found], indent=1))


def ads(statuses: tuple[int, ...]) -> list[dict[str, object]]:
    """Return the ClassAds of all jobs with one of the statuses."""
    found = []
    for job, elements in engine.jobs():
        for number, element in elements.items():
            values = ad(job, number, element)
            if values["JobStatus"] == 5 and is_removed(job, number):
                values |= {"JobStatus": 3, "RemoveReason": "via condor_rm (by user root)"}
            if values["JobStatus"] in statuses:
                found.append(values)
    return found


def condor_q(words: list[str]) -> None:
    """Show the queue."""
    show(words, (1, 2, 5))


def condor_history(words: list[str]) -> None:
    """Show jobs that have left the queue."""
    show(words, (3, 4))


def condor_rm(words: list[str]) -> None:
    """Remove clusters and jobs."""
    wrong = []
    for word in words:
        match = re.fullmatch(r"(\d+)(?:\.(\d+))?", word)
        if match is None:
            raise RefusedError(f"condor_rm: unrecognized argument {word}", 1)
        if remove(int(match[1]), int(match[2]) if match[2] else None):
            print(f"Job {word} marked for removal")
        else:
            wrong.append(f"Couldn't find/remove all jobs in cluster {word}")
    if wrong:
        raise RefusedError("\n".join(wrong), 1)


def remove(number: int, element: int | None) -> bool:
    """Remove a cluster or a job, also a held one; False if there is none."""
    held = engine.spool() / str(number) / f"{element or 0}.kill"
    if not engine.kill(number, element) and held.parent.exists():
        held.touch()
    return held.parent.exists()


COMMANDS = {
    "condor_submit": condor_submit,
    "condor_q": condor_q,
    "condor_history": condor_history,
    "condor_rm": condor_rm,
}
