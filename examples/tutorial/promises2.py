"""Build all binary strings of length five by recursion (tutorial_promises2)."""

import toilfn as toil


@toil.task
def binary_strings(depth: int, message: str = "") -> list[str]:
    if depth > 0:
        return merge([binary_strings(depth - 1, message + "0"), binary_strings(depth - 1, message + "1")])
    return [message]


@toil.task
def merge(strings: list[list[str]]) -> list[str]:
    return strings[0] + strings[1]


if __name__ == "__main__":
    print(toil.compute(binary_strings(depth=5)))
