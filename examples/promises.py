"""Promises: a task's value is passed on before it exists, whole or in part."""

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
    # One after the other, by their data alone.
    four = increment(increment(increment(1)))

    # A promise can be unpacked (nout says into how many), indexed, and hidden in any structure.
    quotient, remainder = divide(17, by=four)
    summary = describe([quotient, four], remainder)

    print(*toil.compute(four, summary["last"], summary))
