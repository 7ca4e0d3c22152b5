"""Workflows for the tests of clusters, run as a script: ``workflow.py CLUSTER STORE MARKS WHAT [N]``.

MARKS is a folder in which each attempt leaves a character, so that a test can count them.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import toilfn as toil
from toilfn.clusters import cluster_class

SMALL = {"memory": "400Mi", "disk": "1Mi"}


def mark(marks, name):
    with open(Path(marks) / name, "a") as file:
        file.write("x")


@toil.task(**SMALL)
def merge_sort(numbers, marks):
    mark(marks, "sort")
    if len(numbers) < 3:
        return sorted(numbers)
    half = len(numbers) // 2
    return merge(merge_sort(numbers[:half], marks), merge_sort(numbers[half:], marks), marks)


@toil.task(**SMALL)
def merge(left, right, marks):
    mark(marks, "merge")
    return sorted(left + right)


@toil.task(**SMALL)
def slow(x, marks):
    mark(marks, f"slow-{x}")
    time.sleep(1.5)
    return x


@toil.task(**SMALL)
def noop(x):
    return x


@toil.task(**SMALL)
def total(values):
    return sum(values)


@toil.task(**SMALL, retries=0, name="hungry")
def hungry(marks):
    print("hungry was here", flush=True)
    mark(marks, "hungry")
    data = bytearray(900_000_000)
    data[:] = b"1" * len(data)
    time.sleep(30)


@toil.task(**SMALL, retries=0, walltime="1s", name="sleepy")
def sleepy(marks):
    print("sleepy was here", flush=True)
    mark(marks, "sleepy")
    time.sleep(120)


@toil.task(**SMALL, retries=0, name="doomed")
def doomed(marks):
    """Be killed as by a system that has no memory left."""
    print("doomed was here", flush=True)
    mark(marks, "doomed")
    os.kill(os.getpid(), signal.SIGKILL)


@toil.task(**SMALL, name="patient")
def patient(marks):
    """Wait until the test lets the second attempt end."""
    print("patient was here", flush=True)
    mark(marks, "patient")
    while not (Path(marks) / "go").exists():
        time.sleep(0.1)
    return "done"


@toil.task(**SMALL, name="anxious")
def anxious(marks):
    """Warn, and wait until the test has read that."""
    toil.current().log.warning("nearly full")
    while not (Path(marks) / "go").exists():
        time.sleep(0.1)
    return "done"


@toil.service(**SMALL, cores=4, check_interval=0.2)
def server(marks):
    mark(marks, "server")
    yield 1


@toil.task(**SMALL, cores=1, name="client")
def client(value, marks):
    mark(marks, "client")
    return value


@toil.task(memory="1Ti", disk="1Mi")
def huge(marks):
    mark(marks, "huge")


@toil.task(**SMALL)
def pair(left, right, marks):
    mark(marks, "pair")
    time.sleep(0.2)
    return left + right


def tree(values, marks):
    """Add numbers in pairs, all at a level at a time."""
    while len(values) > 1:
        values = [pair(a, b, marks) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def chain(n):
    value = 0
    for _ in range(n):
        value = noop(value)
    return value


def wanted(what, marks, n):
    match what:
        case "hungry" | "sleepy" | "doomed" | "patient" | "anxious":
            return {
                "hungry": hungry, "sleepy": sleepy, "doomed": doomed, "patient": patient, "anxious": anxious
            }[what](marks)  # fmt: skip
        case "sort":
            return merge_sort([(7 * i) % n for i in range(n)], marks)
        case "slow":
            return total([slow(i, marks) for i in range(n)])
        case "noop":
            return total([noop(i) for i in range(n)])
        case "chain":
            return chain(n)
        case "served":
            return client(server(marks), marks)
        case "large":
            return [huge(marks), *(slow(i, marks) for i in range(n))]
        case "tree":
            return tree([slow(i, marks) for i in range(n)], marks)
    raise SystemExit(f"what is {what}?")


if __name__ == "__main__":
    name, store, marks, what, *rest = sys.argv[1:]
    settings = json.loads(rest[1]) if rest[1:] else {}
    cluster = cluster_class(name)(**settings.pop("cluster", {"poll_interval": 0.5}))
    print(toil.compute(wanted(what, marks, int(rest[0]) if rest else 0), store=store, cluster=cluster, **settings))
