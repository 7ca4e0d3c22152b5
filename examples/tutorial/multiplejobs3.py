"""Build any graph without cycles: the last task runs after both of its parents (tutorial_multiplejobs3)."""

import toilfn as toil


@toil.task(memory="2G", cores=1, disk="3G")
def hello_world(message: str, *parents: None) -> None:
    print(f"Hello world, I have a message: {message}")


if __name__ == "__main__":
    first = hello_world("first")
    second = hello_world("second or third", first)
    third = hello_world("second or third", first)
    last = hello_world("last", second, third)
    toil.compute(last, stream_logs=True)
