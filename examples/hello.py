"""Run the smallest workflow: one task, with its requirements, on this machine."""

import toilfn as toil


@toil.task(cores=1, memory="100M", disk="10M")
def hello(message: str) -> str:
    return f"Hello, world!, here's a message: {message}"


if __name__ == "__main__":
    print(toil.compute(hello("Woot")))
