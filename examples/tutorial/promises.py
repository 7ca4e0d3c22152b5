"""Pass the value that one task returns to the next one (tutorial_promises)."""

import toilfn as toil


@toil.task
def fn(i: int) -> int:
    print(f"i is: {i}")
    return i + 1


if __name__ == "__main__":
    toil.compute(fn(fn(fn(1))), stream_logs=True)
