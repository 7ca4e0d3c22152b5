"""Random programs that mix all that a task can do, as tasks and as plain Python.

A program is a tuple of steps. Each step makes a number from numbers that came before it; `plain` computes them one
after the other, `build` makes tasks of them. What a step does besides (files, services, trouble) must not change
any number.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import toilfn as toil

MODULUS = 1_000_003

KINDS = ("add", "expand", "spawn", "after", "file", "linked", "moved", "cleanup", "service", "checkpoint")
LINKS = ("symlink", "hard", "reflink", "copy")
TROUBLES = ("", "", "", "", "", "error", "fatal", "worker", "service", "leader")


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    key : int
        Goes into the number; unique in its program.
    inputs : tuple of int
        Which of the earlier numbers go into it, counted back.
    trouble : str
        What happens to the first attempt: one of `TROUBLES`.
    body : tuple of Step
        What it leads to, for some kinds.
    """

    kind: str
    key: int
    inputs: tuple[int, ...]
    trouble: str
    body: tuple[Step, ...] = ()


def mix(key: int, numbers: Sequence[int]) -> int:
    return (key + 31 * sum(numbers)) % MODULUS


def plain(steps: Sequence[Step], known: Sequence[int]) -> int:
    """Give what a program computes from some numbers: the mixture of those that its steps make."""
    numbers = list(known)
    made = []
    for step in steps:
        number = mix(step.key, chosen(step, numbers))
        if step.kind == "service":  # which only its clients can use
            number = plain(step.body, [*numbers, number])
        elif step.body and step.kind != "spawn":
            number = plain(step.body, [number])
        numbers.append(number)
        made.append(number)
    return mix(0, made)


def chosen(step: Step, known: Sequence[Any]) -> list[Any]:
    return [known[-1 - back % len(known)] for back in step.inputs]


# The same as tasks


@dataclass(frozen=True)
class Address:
    """What a service gives to its clients."""

    number: int
    pid: int
    token: str


def build(steps: Sequence[Step], known: Sequence[Any], folder: str) -> Any:
    """Give the promise of what `plain` gives; the known values are numbers, files, addresses or promises of these."""
    return Builder(folder).level(steps, known)


class Builder:
    """Makes the tasks of one program, and deletes its files when all their users are complete."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.users: dict[int, list[Any]] = {}

    def level(self, steps: Sequence[Step], known: Sequence[Any]) -> Any:
        values = list(known)
        made = [self.step(step, values) for step in steps]
        for place, step in enumerate(steps):
            if step.kind == "file":
                after = self.users.get(id(made[place]), [])
                made[place] = delete.options(after=after)(made[place])
            elif step.kind == "linked":
                made[place] = read(made[place], "", self.folder)
        return total(made)

    def step(self, step: Step, values: list[Any]) -> Any:
        inputs = chosen(step, values)
        promise = self.make(step, inputs, values)
        for used in inputs:
            self.users.setdefault(id(used), []).append(promise)
        values.append(promise)
        return promise

    def make(self, step: Step, inputs: list[Any], values: list[Any]) -> Any:
        options = patience(step)
        match step.kind:
            case "add":
                return add.options(**options)(step.key, inputs, step.trouble, self.folder)
            case "after":
                before = add(step.key, inputs[:1], "", self.folder)
                return late.options(after=before, **options)(step, inputs, self.folder)
            case "service":
                address = serve.options(**options)(step, inputs, self.folder)
                return self.level(step.body, [*values, address])
            case "file":
                return write.options(**options)(step, inputs, self.folder)
            case "linked":
                return bring.options(**options)(step, inputs, self.folder)
            case "moved":
                made = write.options(**options)(step, inputs, self.folder)
                exported = toil.export(made, f"{self.folder}/moved-{step.key}", move=True)
                return read.options(after=exported)(made, "", self.folder)
            case "cleanup":
                return passing(step, inputs, self.folder)
            case "checkpoint":
                return lead_on.options(checkpoint=True, retries=1 + fatal(step))(step, inputs, self.folder)
        return lead_on.options(**options)(step, inputs, self.folder)


def patience(step: Step) -> dict[str, Any]:
    return {"retries": 0} if step.trouble == "fatal" else {}


def fatal(step: Step) -> int:
    """Count the failures for good below a step."""
    return sum((inner.trouble == "fatal") + fatal(inner) for inner in step.body)


def once(name: str) -> bool:
    """Whether this is the first time that this is asked by a task with its id."""
    try:
        Path(name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def run_into(trouble: str, folder: str) -> None:
    if trouble in ("", "service") or not once(f"{folder}/{trouble}-{toil.current().id}"):
        return
    if trouble in ("error", "fatal"):
        raise ValueError(f"{trouble}: not this time")
    os.kill(os.getpid() if trouble == "worker" else int(Path(folder, "leader").read_text()), signal.SIGKILL)
    time.sleep(60)


def number(value: Any) -> int:
    if isinstance(value, Address):
        try:
            os.kill(value.pid, 0)
            return int(Path(value.token).read_text())
        except (ProcessLookupError, FileNotFoundError):
            time.sleep(20)  # it is ended when the leader has noticed, too
            raise
    return int(value.read_text()) if isinstance(value, toil.File) else value


def mixed(key: int, values: Sequence[Any], trouble: str, folder: str) -> int:
    if trouble == "service":
        kill_services(values, folder)
    else:
        run_into(trouble, folder)
    return mix(key, [number(value) for value in values])


def kill_services(values: Sequence[Any], folder: str) -> None:
    for value in values:
        if isinstance(value, Address) and once(f"{folder}/service-{toil.current().id}"):
            with suppress(ProcessLookupError):
                os.kill(value.pid, signal.SIGKILL)


@toil.task
def total(values: list[int]) -> int:
    return mix(0, values)


@toil.task
def add(key: int, values: list[Any], trouble: str, folder: str) -> int:
    result = mixed(key, values, trouble, folder)
    Path(folder, f"done-{key}").touch()
    return result


@toil.task
def late(step: Step, values: list[Any], folder: str) -> int:
    assert Path(folder, f"done-{step.key}").exists(), "it does not come after what it is to come after"
    return mixed(step.key, values, step.trouble, folder)


@toil.task
def lead_on(step: Step, values: list[Any], folder: str) -> Any:
    """Go on with the body: as the value, or beside it."""
    result = mixed(step.key, values, "" if step.kind == "checkpoint" else step.trouble, folder)
    if step.kind == "spawn":
        toil.spawn(build(step.body, [result, *values], folder))
        return result
    return build(step.body, [result], folder) if step.body else result


@toil.task
def write(step: Step, values: list[Any], folder: str) -> toil.File:
    return written(mixed(step.key, values, step.trouble, folder))


def written(number: int, *, cleanup: bool = False) -> toil.File:
    with toil.open_write("number.txt", "w", cleanup=cleanup) as file:
        file.write(str(number))
    return file.file


@toil.task
def bring(step: Step, values: list[Any], folder: str) -> toil.File:
    """Link a file of the user's, which is written once, into the store."""
    source = Path(folder, f"source-{step.key}")
    result = mixed(step.key, values, step.trouble, folder)
    if not source.exists():
        draft = source.with_name(f"{source.name}-{toil.current().id}")
        draft.write_text(str(result))
        draft.replace(source)
    return toil.import_file(source, link=LINKS[step.key % len(LINKS)])


@toil.task
def delete(file: toil.File) -> int:
    result = number(file)
    file.delete()
    return result


@toil.task
def passing(step: Step, values: list[Any], folder: str) -> Any:
    """Pass the number on through a file that goes by itself."""
    return read(written(mixed(step.key, values, "", folder), cleanup=True), step.trouble, folder)


@toil.task
def read(file: toil.File, trouble: str, folder: str) -> int:
    run_into(trouble if trouble != "fatal" else "", folder)
    return number(file)


@toil.service(cores=0.1, memory="100M", check_interval=0.05)
def serve(step: Step, values: list[Any], folder: str) -> Iterator[Address]:
    result = mix(step.key, [number(value) for value in values])
    run_into(step.trouble, folder)
    token = toil.current().temp_dir / "number"
    token.write_text(str(result))
    yield Address(result, os.getpid(), str(token))
    with suppress(FileNotFoundError):
        token.unlink()
