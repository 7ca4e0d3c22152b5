"""Run one task, then two in parallel, then another: order without data (tutorial_multiplejobs)."""

import toilfn as toil


@toil.task(memory="2G", cores=1, disk="3G")
def hello_world(message: str) -> None:
    print(f"Hello world, I have a message: {message}")


if __name__ == "__main__":
    first = hello_world("first")
    second = hello_world.options(after=first)("second or third")
    third = hello_world.options(after=first)("second or third")
    last = hello_world.options(after=[second, third])("last")
    toil.compute(last, stream_logs=True)
