"""A fake ``parasol``.

It follows the usage text of parasol ("parasol add job", "remove job", "list jobs"; the answer of -verbose) and the
jobResult record of the results file: status as of wait(), host, job id, executable, user and system ticks, submission,
start and end times, user, error file, command.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.servers.fake import engine
from tests.servers.fake.engine import RefusedError

OPTIONS = ("cpu", "ram", "results", "dir", "out", "in")


def away() -> None:
    """Fail as `parasol` does when the hub does not answer."""
    raise RefusedError("Couldn't send 'listJobs' command to paraHub", 255)


def parasol(words: list[str]) -> None:
    """Run the command that the words name."""
    options: dict[str, str] = {}
    while words and words[0].startswith("-"):
        name, _, value = words.pop(0).removeprefix("-").partition("=")
        if name not in OPTIONS and name != "verbose":
            raise RefusedError(f"-{name} is not a valid option", 255)
        options[name] = value
    match words:
        case ["add", "job", command]:
            add(options, command)
        case ["remove", "job", number]:
            if not number.isdigit():
                raise RefusedError("remove job requires a numerical job id", 255)
            engine.kill(int(number))
        case ["list", "jobs"]:
            flush()
            show()
        case _:
            raise RefusedError("Parasol version 12.18\nUsage in brief:", 255)


def add(options: dict[str, str], command: str) -> None:
    """Submit a command; words are separated by spaces, whatever quotes there are."""
    if any(" " in value for value in options.values()):
        raise RefusedError("sick batch?: hub returned jobId==0", 255)
    number = engine.submit(
        {
            "name": command,
            "numbers": [0],
            "index": "UNUSED",
            "memory": None,
            "walltime": None,
            "results": options["results"],
            "command": command.split(),
        }
    )
    if "verbose" in options:
        print(f'your job {number} ("{command}") has been submitted')


def show() -> None:
    """List live jobs."""
    for job, elements in engine.jobs():
        if elements[0]["state"] in ("queued", "running"):
            machine = "none" if elements[0]["state"] == "queued" else "node1"
            when = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(job["submitted"]))
            print(f"{job['id']:<4} {machine:<10} {'root':<10} {when} {job['name']}")


def flush() -> None:
    """Write ended jobs into the results files, which never have jobs that were removed."""
    for job, elements in engine.jobs():
        noted = engine.spool() / str(job["id"]) / "noted"
        if elements[0]["state"] == "done" and not noted.exists():
            noted.touch()
            status = elements[0]["status"] << 8 | elements[0]["signal"]
            now = int(time.time())
            exe = Path(job["name"]).name
            row = f"{status} node1 {job['id']} {exe} 1 1 {now} {now} {now} root /tmp/err {json.dumps(job['name'])}\n"
            with Path(job["results"]).open("a") as results:
                results.write(row)


COMMANDS = {"parasol": parasol}
