"""What one task returns is what the next one is given (tutorial_promises)."""

import toilfn as toil


@toil.task
def fn(i: int) -> int:
    print(f"i is: {i}")
    return i + 1


if __name__ == "__main__":
    toil.compute(fn(fn(fn(1))), stream_logs=True)
