"""Fake commands of IBM Spectrum LSF 10.1.

They follow the "IBM Spectrum LSF command reference": bsub (options, "Job <id> is submitted to queue <name>."),
bjobs (-json with -o, "Job <id> is not found", status 255), bhist (-l -UF -n 0), bkill, bqueues and bparams (-a).
A file ``forgetful`` in the spool folder makes bjobs forget jobs that have ended, as CLEAN_PERIOD does.
"""

from __future__ import annotations

import json
import re
import sys

from tests.servers.fake import arguments, engine
from tests.servers.fake.engine import RefusedError

QUEUES = ("normal", "short")
FIELDS = {"jobid", "jobindex", "stat", "exit_code", "exit_reason", "exec_host", "job_name"}
REASONS = {
    "memory": "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit",
    "walltime": "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
    "killed": "TERM_OWNER: job killed by owner",
}


def away() -> None:
    """Fail as all commands do when mbatchd does not answer."""
    raise RefusedError("LSF is down. Please wait ...", 255)


def bsub(words: list[str]) -> None:
    """Submit the script on standard input."""
    script = sys.stdin.read()
    valued = ("-J", "-o", "-n", "-R", "-M", "-W", "-gpu", "-q", "-P")
    options, rest = arguments.parse([*arguments.directives(script, "#BSUB"), *words], valued, ("-rn",))
    if rest:
        raise RefusedError(f"{rest[0]}: unexpected. Job not submitted.", 255)
    queue = arguments.only(options, "-q", "normal")
    if queue not in QUEUES:
        raise RefusedError(f"{queue}: No such queue. Job not submitted.", 255)
    match = re.fullmatch(r"([\w.-]+?)(?:\[1-(\d+)\])?", arguments.only(options, "-J"))
    if match is None:
        raise RefusedError("Bad job name. Job not submitted.", 255)
    if match[2] and int(match[2]) > 1000:
        raise RefusedError("Job array index too large. Job not submitted.", 255)  # MAX_JOB_ARRAY_SIZE
    minutes = arguments.only(options, "-W")
    number = engine.submit(
        {
            "name": match[1],
            "is_array": bool(match[2]),
            "numbers": list(range(1, int(match[2]) + 1)) if match[2] else [0],
            "index": "LSB_JOBINDEX",
            "memory": int(arguments.only(options, "-M")) * 2**10,  # KB without LSF_UNIT_FOR_LIMITS
            "walltime": int(minutes) * 60 if minutes else None,
            "command": ["/bin/sh", "-c", script],
        }
    )
    print(f"Job <{number}> is submitted to {'queue' if '-q' in options else 'default queue'} <{queue}>.")


def record(job: dict[str, object], number: int, element: engine.Element, fields: list[str]) -> dict[str, str]:
    """Return one job as bjobs -json shows it."""
    status = element["status"] or (128 + element["signal"] if element["signal"] else 0)
    failed = element["state"] == "killed" or element["reason"] or status
    state = {"queued": "PEND", "running": "RUN"}.get(element["state"], "EXIT" if failed else "DONE")
    values = {
        "jobid": str(job["id"]),
        "jobindex": str(number),
        "stat": state,
        "exit_code": str(status or "") if state == "EXIT" else "",
        "exit_reason": REASONS.get("killed" if element["state"] == "killed" else element["reason"], ""),
        "exec_host": "host1" if element["state"] != "queued" else "",
        "job_name": f"{job['name']}[{number}]" if job["is_array"] else str(job["name"]),
    }
    return {name.upper(): values[name] for name in fields}


def bjobs(words: list[str]) -> None:
    """Show jobs as JSON; without -a only live ones."""
    options, wanted = arguments.parse(words, ("-o",), ("-json", "-a"))
    fields = arguments.only(options, "-o").split()
    if "-json" not in options or not set(fields) <= FIELDS:
        raise RefusedError("bjobs: bad arguments", 255)
    records: list[dict[str, str]] = []
    forgets = (engine.spool() / "forgetful").exists()
    for job, elements in engine.jobs():
        shown = {
            n: e
            for n, e in elements.items()
            if ("-a" in options and not forgets) or e["state"] in ("queued", "running")
        }
        if not wanted or str(job["id"]) in wanted:
            records += [record(job, number, element, fields) for number, element in shown.items()]
    known = {str(job["id"]) for job, _ in engine.jobs()}
    missing = [name for name in wanted if name not in known]
    records += [{"JOBID": name, "ERROR": f"Job <{name}> is not found"} for name in missing]
    print(json.dumps({"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}, indent=2))
    if missing and len(missing) == len(wanted):
        raise RefusedError("", 255)


def bhist(words: list[str]) -> None:
    """Show the events of jobs, unformatted."""
    options, wanted = arguments.parse(words, ("-n",), ("-l", "-UF"))
    if set(options) != {"-l", "-UF", "-n"} or arguments.only(options, "-n") != "0":
        raise RefusedError("bhist: bad arguments", 255)
    shown = [
        past(job, n, e) for job, elements in engine.jobs() for n, e in elements.items() if str(job["id"]) in wanted
    ]
    if not shown:
        raise RefusedError("No matching job found", 255)
    print(f"{'-' * 78}\n".join(shown))


def past(job: dict[str, object], number: int, element: engine.Element) -> str:
    """Return the history of one job."""
    day = "Mon Oct  5 10:00:0"
    index = f"[{number}]" if job["is_array"] else ""
    lines = [
        f"\nJob <{job['id']}{index}>, Job Name <{job['name']}>, User <root>, Project <default>, Command <#!/bin/sh>"
    ]
    lines += [f"{day}1: Submitted from host <hosta>, to Queue <normal>, CWD </>, 1 Task(s);"]
    if element["reason"] != "queued":
        lines += [f"{day}2: Dispatched 1 Task(s) on Host(s) <host1>, Allocated 1 Slot(s) on Host(s) <host1>;"]
    lines += [f"{day}3: {line}" for line in ending(element)]
    return "\n".join(lines) + "\n\nSummary of time in seconds spent in various states by  Mon Oct  5 10:00:04\n"


def ending(element: engine.Element) -> list[str]:
    """Return how a job ended, if it has ended."""
    reason = REASONS.get("killed" if element["state"] == "killed" else element["reason"], "")
    used = "The CPU time used is 0.1 seconds;"
    if reason:
        return [f"Exited by signal 2. {used}", f"Completed <exit>; {reason};"]
    if element["state"] in ("queued", "running"):
        return []
    status = element["status"] or (128 + element["signal"] if element["signal"] else 0)
    if status:
        return [f"Exited with exit code {status}. {used}", "Completed <exit>;"]
    return [f"Done successfully. {used}"]


def bkill(words: list[str]) -> None:
    """End jobs, whole arrays or elements."""
    wrong = []
    for word in words:
        match = re.fullmatch(r"(\d+)(?:\[(\d+)\])?", word)
        if match is None:
            raise RefusedError(f"{word}: Illegal job ID.", 255)
        if engine.kill(int(match[1]), int(match[2]) if match[2] else None):
            print(f"Job <{word}> is being terminated")
        else:
            wrong.append(f"Job <{word}>: No matching job found")
    if wrong:
        raise RefusedError("\n".join(wrong), 255)


def bqueues(words: list[str]) -> None:
    """Show a queue."""
    if words[0] not in QUEUES:
        raise RefusedError(f"{words[0]}: No such queue", 255)
    print(f"QUEUE_NAME      PRIO STATUS\n{words[0]:<15} 30   Open:Active")


def bparams(words: list[str]) -> None:
    """Show the site's parameters; a file of the spool folder may add more."""
    if words != ["-a"]:
        raise RefusedError("bparams: bad arguments", 255)
    more = engine.spool() / "parameters"
    print("\tMBD_SLEEP_TIME = 10 (seconds)\n\tMAX_JOB_ARRAY_SIZE = 1000" + (more.read_text() if more.exists() else ""))


COMMANDS = {"bsub": bsub, "bjobs": bjobs, "bhist": bhist, "bkill": bkill, "bqueues": bqueues, "bparams": bparams}
