"""Run one task with its requirements on this machine, and delete the store (tutorial_quickstart)."""

import toilfn as toil


@toil.task(memory="2G", cores=2, disk="3G")
def hello_world(message: str) -> str:
    return f"Hello, world!, here's a message: {message}"


if __name__ == "__main__":
    print(toil.compute(hello_world("Woot"), clean="always"))
