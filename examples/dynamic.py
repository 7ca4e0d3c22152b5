"""Create tasks in tasks: all binary strings of length n, each printed by a task of its own.

python examples/dynamic.py [N]
"""

import sys

import toilfn as toil


@toil.task
def binary_strings(depth: int, prefix: str = "") -> list[str]:
    if depth == 0:
        print(f"Binary string: {prefix}")
        return [prefix]
    return joined(binary_strings(depth - 1, prefix + "0"), binary_strings(depth - 1, prefix + "1"))


@toil.task
def joined(left: list[str], right: list[str]) -> list[str]:
    return left + right


if __name__ == "__main__":
    length = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(*toil.compute(binary_strings(length)), sep="\n")
