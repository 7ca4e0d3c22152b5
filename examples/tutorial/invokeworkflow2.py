"""Resume a run without a special case: run the same script on the same store (tutorial_invokeworkflow2)."""

import sys

import toilfn as toil


@toil.task(memory="2G", cores=2, disk="3G")
def hello_world(message: str) -> str:
    return f"Hello, world!, I have a message: {message}"


if __name__ == "__main__":
    print(toil.compute(hello_world("Woot!"), store=sys.argv[1]))
