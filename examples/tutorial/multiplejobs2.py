"""Run the same workflow, written shorter with a variant of the task and `map` (tutorial_multiplejobs2)."""

import toilfn as toil


@toil.task(memory="2G", cores=1, disk="3G")
def hello_world(message: str) -> None:
    print(f"Hello world, I have a message: {message}")


if __name__ == "__main__":
    first = hello_world("first")
    middle = hello_world.options(after=first).map(["second or third"] * 2)
    last = hello_world.options(after=middle)("last")
    toil.compute(last, stream_logs=True)
