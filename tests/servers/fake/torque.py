"""Fake commands of Torque 6.

They follow Torque's qsub(1), qstat(1) (-t, -f, -x: XML; "Unknown Job Id", status 153), qdel(1), tracejob(8) and the
administrator's guide on "Job Exit Status" (-10 over memory, -11 over walltime, 256 and more a signal).
"""

from __future__ import annotations

import re
import sys
from xml.sax.saxutils import escape

from tests.servers.fake import arguments, engine
from tests.servers.fake.engine import RefusedError

SERVER = "server.example"
QUEUES = ("batch",)
ARRAY_OPTION, INDEX = "-t", "PBS_ARRAYID"
REQUESTS = {"nodes": r"1:ppn=\d+(:gpus=\d+)?", "mem": r"\d+kb", "walltime": r"\d+"}
EXITS = {"memory": -10, "walltime": -11, "killed": 271}
SELECT_FLAGS: tuple[str, ...] = ()
FLAGS: tuple[str, ...] = ("-V",)


def away() -> None:
    """Fail as all commands do when pbs_server does not answer."""
    raise RefusedError(f"Cannot connect to server {SERVER}. Connection refused", 111)


def qsub(words: list[str]) -> None:
    """Submit the script on standard input."""
    script = sys.stdin.read()
    valued = ("-N", "-v", ARRAY_OPTION, "-r", "-S", "-j", "-o", "-l", "-q", "-A")
    options, rest = arguments.parse([*arguments.directives(script, "#PBS"), *words], valued, FLAGS)
    if rest:
        raise RefusedError("usage: qsub [-a date_time] ...", 2)
    check(options)
    array = arguments.only(options, ARRAY_OPTION)
    requests = dict(request.split("=", 1) for request in options.get("-l", []))
    number = engine.submit(
        {
            "name": arguments.only(options, "-N"),
            "variables": arguments.only(options, "-v"),
            "is_array": bool(array),
            "numbers": list(range(int(array.split("-")[1]) + 1)) if array else [0],
            "index": INDEX,
            "memory": memory(options.get("-l", [])),
            "walltime": int(requests["walltime"]) if "walltime" in requests else None,
            "command": ["/bin/sh", "-c", script],
        }
    )
    print(f"{number}{'[]' if array else ''}.{SERVER}")


def check(options: dict[str, list[str]]) -> None:
    """Refuse submissions that the server refuses."""
    name = arguments.only(options, "-N")
    if not re.fullmatch(r"[A-Za-z]\S{0,14}", name):
        raise RefusedError("qsub: illegal -N value", 2)
    if arguments.only(options, "-q", QUEUES[0]) not in QUEUES:
        raise RefusedError("qsub: submit error (Unknown queue MSG=cannot locate queue)", 170)
    for request in options.get("-l", []):
        kind, _, value = request.partition("=")
        if not re.fullmatch(REQUESTS.get(kind, r"(?!)"), value):
            raise RefusedError(f"qsub: submit error (Illegal attribute or resource value {request})", 170)


def memory(requests: list[str]) -> int:
    """Return the limit in bytes."""
    match = re.search(r"mem=(\d+)kb", " ".join(requests))
    return int(match[1]) * 2**10 if match else 0


def identity(job: dict[str, object], number: int | str) -> str:
    """Return the id of a job or an element."""
    return f"{job['id']}[{number}].{SERVER}" if job["is_array"] else f"{job['id']}.{SERVER}"


def letter(element: engine.Element, ended: str = "C") -> str:
    """Return the letter of the state."""
    return {"queued": "Q", "running": "R"}.get(element["state"], ended)


def exit_status(element: engine.Element) -> int | None:
    """Return the value of exit_status; None for a job deleted before it ran."""
    if element["reason"] == "queued":
        return None
    if element["reason"] in EXITS:
        return EXITS[element["reason"]]
    signal: int = element["signal"]
    return 256 + signal if signal else int(element["status"])


def qstat(words: list[str]) -> None:
    """Show jobs as XML."""
    options, wanted = arguments.parse(words, (), ("-t", "-f", "-x"))
    if set(options) != {"-t", "-f", "-x"}:
        raise RefusedError("usage: qstat", 2)
    parts, known = [], set()
    for job, elements in engine.jobs():
        base = identity(job, "")
        if not all(map(forgets, elements.values())):
            known.add(base)
        if not wanted or base in wanted:
            parts += [shown(job, number, element) for number, element in elements.items() if not forgets(element)]
    print(f"<Data>{''.join(parts)}</Data>" if parts else "", end="")
    if missing := [name for name in wanted if name not in known]:
        raise RefusedError("\n".join(f"qstat: Unknown Job Id Error {name}" for name in missing), 153)


def shown(job: dict[str, object], number: int, element: engine.Element) -> str:
    """Return one job as qstat -f -x shows it."""
    values = {"Job_Id": identity(job, number), "Job_Name": job["name"], "job_state": letter(element)}
    values["Variable_List"] = f"{job['variables']},PBS_O_QUEUE=batch"
    status = exit_status(element)
    if letter(element) == "C" and status is not None:
        values["exit_status"] = status
    return f"<Job>{''.join(f'<{name}>{escape(str(value))}</{name}>' for name, value in values.items())}</Job>"


def qdel(words: list[str]) -> None:
    """End jobs, whole arrays or elements."""
    wrong = []
    for word in words:
        match = re.fullmatch(rf"(\d+)(?:\[(\d*)\])?\.{re.escape(SERVER)}", word)
        if match is None:
            raise RefusedError(f"qdel: illegally formed job identifier: {word}", 1)
        if not engine.kill(int(match[1]), int(match[2]) if match[2] else None):
            wrong.append(f"qdel: Unknown Job Id {word}")
    if wrong:
        raise RefusedError("\n".join(wrong), 153)


def tracejob(words: list[str]) -> None:
    """Show the lines of the server's logs about one job."""
    options, wanted = arguments.parse(words, ("-n",), ("-q", "-m", "-l"))
    if set(options) != {"-q", "-m", "-l", "-n"} or len(wanted) != 1:
        raise RefusedError("USAGE: tracejob [-a|s|l|m|q|v|z] [-c count] [-w size] [-p path] [-n days] <JOBID>", 1)
    day = "10/05/2023 10:00:0"
    for job, elements in engine.jobs():
        for number, element in elements.items():
            if identity(job, number) != wanted[0]:
                continue
            print(f"\nJob: {wanted[0]}\n\n{day}1  S    enqueuing into batch, state 1 hop 1")
            if letter(element) == "C" and (status := exit_status(element)) is not None:
                print(f"{day}3  S    Exit_status={status} resources_used.cput=00:00:00 resources_used.mem=2544kb")
            elif letter(element) == "C":
                print(f"{day}3  S    Job deleted at request of root@{SERVER}")


def forgets(element: engine.Element) -> bool:
    """Return whether the server keeps no ended jobs: a file ``forgetful`` in the spool folder says so."""
    return (engine.spool() / "forgetful").exists() and element["state"] not in ("queued", "running")


def qselect(words: list[str]) -> None:
    """List a user's jobs that the server has; for PBS Professional, only with -x those that have ended.

    A file ``others`` in the spool folder names jobs that are somebody else's.
    """
    options, rest = arguments.parse(words, ("-u", "-N"), SELECT_FLAGS)
    if rest or "-u" not in options:
        raise RefusedError("usage: qselect [-u user_list] [-N name]", 2)
    others = engine.spool() / "others"
    foreign = others.read_text().split() if others.exists() else []
    for job, elements in engine.jobs():
        is_live = any(element["state"] in ("queued", "running") for element in elements.values())
        is_kept = not all(map(forgets, elements.values())) and ("-x" in options or not SELECT_FLAGS)
        is_named = arguments.only(options, "-N", str(job["name"])) == job["name"]
        if (is_live or is_kept) and is_named and str(job["id"]) not in foreign:
            print(identity(job, ""))


COMMANDS = {"qsub": qsub, "qstat": qstat, "qselect": qselect, "qdel": qdel, "tracejob": tracejob}
