"""Create tasks in tasks: one task prints each binary string of length five (tutorial_dynamic)."""

import toilfn as toil


@toil.task
def binary_string(depth: int, message: str = "") -> None:
    if depth > 0:
        toil.spawn(binary_string(depth - 1, message + "0"))
        toil.spawn(binary_string(depth - 1, message + "1"))
    else:
        print(f"Binary string: {message}")


if __name__ == "__main__":
    toil.compute(binary_string(depth=5), stream_logs=True)
