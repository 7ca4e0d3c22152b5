"""Pass promises, the values that tasks will return, to other tasks: whole or in part."""

import toilfn as toil


@toil.task
def increment(i: int) -> int:
    print(f"i is: {i}")
    return i + 1


@toil.task(nout=2)
def divide(number: int, by: int) -> tuple[int, int]:
    return divmod(number, by)


@toil.task
def describe(squares: list[int], remainder: int) -> dict[str, int]:
    return {"first": squares[0], "last": squares[-1], "remainder": remainder}


if __name__ == "__main__":
    # The three tasks run one after the other because each needs the value of the one before it.
    four = increment(increment(increment(1)))

    # A promise can be unpacked (into as many parts as nout says), indexed, and put into any structure.
    quotient, remainder = divide(17, by=four)
    summary = describe([quotient, four], remainder)

    print(*toil.compute(four, summary["last"], summary))
