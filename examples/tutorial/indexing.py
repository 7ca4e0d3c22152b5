"""Pass one element of a task's value to a task, which fails with the message "2" (Toil's manual, section 12.9)."""

import toilfn as toil


@toil.task(retries=0)
def raise_wrap(arg: int) -> None:
    raise RuntimeError(arg)


@toil.task
def fn() -> tuple[int, ...]:
    return 0, 1, 2, 3


if __name__ == "__main__":
    toil.compute(raise_wrap(fn()[2]), clean="always")
